import test from 'ava';
import { VirtualClock } from '../testing/virtual-clock.js';
import { Alert } from './alert.js';

/** A loop whose turns take a microsecond; it counts them, and what is held. */
function scene() {
  const clock = new VirtualClock();
  const seen = { turns: 0, held: 0, releases: 0 };
  const loop = {
    now: () => clock.now(),
    again: (turn: () => void) => {
      seen.turns++;
      clock.at(clock.now() + 0.001, turn);
    },
    later: (turn: () => void, ms: number) => clock.at(clock.now() + ms, turn),
  };
  const held = {
    hold: () => void seen.held++,
    release: () => {
      seen.held--;
      seen.releases++;
    },
  };
  const alert = new Alert(held, loop);
  /** So many requests, each so many milliseconds after the answer before it; an answer takes `taking`. */
  const answer = (count: number, apart: number, taking = 0) => {
    const begin = clock.now();
    for (let i = 0; i < count; i++) {
      clock.run(begin + i * (apart + taking));
      alert.came();
      clock.run(clock.now() + taking);
      alert.answered();
    }
  };
  return { clock, seen, alert, answer };
}

test('a request now and then finds the loop asleep, and leaves it so', (t) => {
  const { clock, seen, answer } = scene();
  answer(100, 1);
  clock.run();
  t.deepEqual(seen, { turns: 0, held: 0, releases: 0 });
});

test('in a series the loop looks for the next request until there is none', (t) => {
  const { clock, seen, answer } = scene();
  answer(100, 0.01);
  t.true(seen.turns > 900, 'all the time but before the second');
  t.is(seen.held, 1, 'once');
  const { turns } = seen;
  clock.run(clock.now() + 1);
  t.true(seen.turns - turns <= 31, 'no longer than 30 µs after the last');
  t.is(seen.held, 1, 'a pause is not the end');
  clock.run();
  t.deepEqual({ ...seen, turns: 0 }, { turns: 0, held: 0, releases: 1 });
});

test('a series with pauses holds once, and looks in none of them', (t) => {
  const { clock, seen, answer } = scene();
  for (let i = 0; i < 20; i++) {
    answer(2, 0.01);
    clock.run(clock.now() + 1);
  }
  t.true(seen.turns <= 20 * 31);
  t.deepEqual({ ...seen, turns: 0 }, { turns: 0, held: 1, releases: 0 });
  clock.run();
  t.is(seen.releases, 1);
  answer(2, 0.01);
  t.is(seen.held, 1, 'again with the next series');
});

test('answers that wait for the disk make a series like others, until they take so long that waking is nothing', (t) => {
  const quick = scene();
  quick.answer(20, 0.07, 0.2);
  t.is(quick.seen.held, 1);
  t.true(quick.seen.turns > 19 * 20, 'between all of them');
  const slow = scene();
  slow.answer(20, 0.01, 5);
  t.deepEqual(slow.seen, { turns: 0, held: 0, releases: 0 });
});

test('whoever closes lets go, and nothing begins again', (t) => {
  const { clock, seen, alert, answer } = scene();
  answer(10, 0.01);
  alert.close();
  t.is(seen.held, 0);
  const { turns } = seen;
  answer(10, 0.01);
  clock.run();
  t.deepEqual(seen, { turns, held: 0, releases: 1 });
});

test('without anything to hold it only looks', (t) => {
  const clock = new VirtualClock();
  let turns = 0;
  const again = (turn: () => void) => {
    turns++;
    clock.at(clock.now() + 0.001, turn);
  };
  const alert = new Alert(undefined, { now: () => clock.now(), again, later: () => t.fail() });
  for (let i = 0; i < 2; i++) {
    alert.came();
    alert.answered();
  }
  clock.run();
  t.true(turns > 1 && turns <= 31);
  alert.close();
});
