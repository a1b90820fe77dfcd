import test from 'ava';
import { Alert } from './alert.js';

/** What looking once takes, in milliseconds. */
const LOOK = 0.001;

/** A reader, a thread with its event loop, and time. Counted are looks at the device, answers, turns of the loop, and what is held. */
class Scene {
  readonly seen = { looks: 0, taken: 0, turns: 0, held: 0, releases: 0 };
  readonly alert: Alert;
  #now = 0;
  #timers: { time: number; work: () => void }[] = [];
  /** The reader asks so often yet, the next time at `#due`, and each time so long after the answer before it. */
  #left = 0;
  #apart = 0;
  #taking = 0;
  #due = Infinity;

  constructor({ holds = true } = {}) {
    const { seen } = this;
    const later = (work: () => void, ms: number) => this.#timers.push({ time: this.#now + ms, work });
    const hold = () => void seen.held++;
    const release = () => {
      seen.held--;
      seen.releases++;
    };
    this.alert = new Alert(holds ? { hold, release } : undefined, {
      now: () => this.#now,
      take: () => {
        seen.looks++;
        this.#now += LOOK;
        if (this.#due > this.#now) return;
        seen.taken++;
        this.#answer();
      },
      again: (turn) => {
        seen.turns++;
        later(turn, 0);
      },
      later,
    });
  }

  /** So many requests, each so many milliseconds after the answer before it; an answer takes `taking`. Ends with the last. */
  asks(left: number, apart: number, taking = 0): void {
    this.#left = left;
    this.#apart = apart;
    this.#taking = taking;
    this.#due = this.#now;
    while (this.#left > 0) this.#step(Infinity);
  }

  /** Lets time pass, or all that is to come. */
  passes(ms = Infinity): void {
    const until = this.#now + ms;
    while (this.#step(until));
    if (until !== Infinity) this.#now = Math.max(this.#now, until);
  }

  /** What the loop has to do next. */
  #step(until: number): boolean {
    this.#timers.sort((a, b) => a.time - b.time);
    const time = Math.min(this.#due, this.#timers[0]?.time ?? Infinity);
    if (time === Infinity || time > until) return false;
    this.#now = Math.max(this.#now, time);
    if (this.#due <= this.#now) this.#answer();
    else this.#timers.shift()!.work();
    return true;
  }

  #answer(): void {
    this.alert.came();
    this.#now += this.#taking;
    this.#left--;
    this.#due = this.#left > 0 ? this.#now + this.#apart : Infinity;
    this.alert.answered();
  }
}

test('a request now and then finds the thread asleep, and leaves it so', (t) => {
  const scene = new Scene();
  scene.asks(100, 1);
  scene.passes();
  t.deepEqual(scene.seen, { looks: 0, taken: 0, turns: 0, held: 0, releases: 0 });
});

test('in a series the thread looks for the next request until there is none', (t) => {
  const scene = new Scene();
  const { seen } = scene;
  scene.asks(100, 0.01);
  t.true(seen.taken >= 95, 'but for the first two, and those that come in a turn of the loop');
  t.is(seen.held, 1, 'once');
  const { looks } = seen;
  scene.passes(1);
  t.true(seen.looks - looks <= 21, 'no longer than 20 µs after the last');
  t.is(seen.held, 1, 'a pause is not the end');
  scene.passes();
  t.is(seen.held, 0);
  t.is(seen.releases, 1);
});

test('the loop has its turn four times a millisecond, however long a series is', (t) => {
  const scene = new Scene();
  scene.asks(1000, 0.01);
  const turns = (1000 * 0.01) / 0.25;
  t.true(scene.seen.turns >= turns * 0.8 && scene.seen.turns <= turns * 1.2, `${scene.seen.turns}`);
});

test('a series with pauses holds once, and looks in none of them', (t) => {
  const scene = new Scene();
  const { seen } = scene;
  for (let i = 0; i < 20; i++) {
    scene.asks(2, 0.01);
    scene.passes(1);
  }
  t.true(seen.looks > 0 && seen.looks <= 20 * 21);
  t.deepEqual([seen.held, seen.releases], [1, 0]);
  scene.passes();
  t.is(seen.releases, 1);
  scene.asks(2, 0.01);
  t.is(seen.held, 1, 'again with the next series');
});

test('answers that wait for the disk make a series like others, until they take so long that waking is nothing', (t) => {
  const quick = new Scene();
  quick.asks(20, 0.02, 0.2);
  t.is(quick.seen.held, 1);
  t.true(quick.seen.taken >= 8, 'all that the loop does not find in its turns');
  const slow = new Scene();
  slow.asks(20, 0.01, 5);
  t.deepEqual(slow.seen, { looks: 0, taken: 0, turns: 0, held: 0, releases: 0 });
});

test('whoever closes lets go, and nothing begins again', (t) => {
  const scene = new Scene();
  const { seen } = scene;
  scene.asks(10, 0.01);
  scene.alert.close();
  t.is(seen.held, 0);
  const { looks, turns } = seen;
  scene.asks(10, 0.01);
  scene.passes();
  t.deepEqual({ ...seen, taken: 0 }, { looks, taken: 0, turns, held: 0, releases: 1 });
});

test('without anything to hold it only looks', (t) => {
  const scene = new Scene({ holds: false });
  scene.asks(2, 0);
  scene.passes();
  t.true(scene.seen.looks > 1 && scene.seen.looks <= 21);
  t.is(scene.seen.turns, 1);
});
