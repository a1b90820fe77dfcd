import { availableParallelism } from 'node:os';

/** What `Alert` needs of its event loop and of time, in milliseconds. */
export interface AlertLoop {
  readonly now: () => number;
  /** Answers the next request, where one is there. */
  readonly take: () => void;
  /** As soon as the loop has looked what else has come in; until then it does not sleep. */
  readonly again: (turn: () => void) => void;
  readonly later: (turn: () => void, ms: number) => void;
}

/** Held while requests follow each other closely. */
export interface Held {
  hold(): void;
  release(): void;
}

/** A request that comes within this time after an answer follows closely: being woken twice takes up to 70 µs of it. */
const CLOSE_MS = 0.1;
/** Against an answer that takes longer than this, being woken is nothing. */
const LONG_MS = 1;
/** For so long after an answer the thread looks instead of sleeping. Longer looking wins little, and takes power from the reader's processor. */
const LOOK_MS = 0.02;
/** After so long the loop has its turn, which other threads' messages wait for. */
const TURN_MS = 0.25;
/** For so long after the last answer of a series `held` is held: taking and leaving it interrupts every processor. */
const HOLD_MS = 2;

/**
 * A program that walks a tree asks for one thing, waits for it, and asks for the next a few microseconds later: falling asleep and
 * being woken takes longer than an answer, and so does a turn of the event loop. In a series of requests the next one is therefore looked
 * for without either, for a while that is short against what it saves. Who asks now and then costs nothing.
 */
export class Alert {
  readonly #loop: AlertLoop;
  readonly #held: Held | undefined;
  #last = -Infinity;
  #came = 0;
  #looking = false;
  #holding = false;
  #closed = false;

  constructor(held: Held | undefined, loop: AlertLoop) {
    this.#held = held;
    this.#loop = loop;
  }

  /**
   * A request came. How long its answer takes says nothing of the reader: one that waits for the disk, and for processors that halted
   * meanwhile, would else look like a pause.
   */
  came(): void {
    this.#came = this.#loop.now();
  }

  /** It has its answer, or waits for it elsewhere. */
  answered(): void {
    const now = this.#loop.now();
    const series = this.#came - this.#last < CLOSE_MS && now - this.#came < LONG_MS;
    this.#last = now;
    if (!series || this.#closed) return;
    if (!this.#looking) {
      this.#looking = true;
      this.#loop.again(this.#look);
    }
    if (this.#held !== undefined && !this.#holding) {
      this.#holding = true;
      this.#held.hold();
      this.#loop.later(this.#letGo, HOLD_MS);
    }
  }

  close(): void {
    this.#closed = true;
    if (this.#holding) this.#held?.release();
    this.#holding = false;
  }

  readonly #look = (): void => {
    const turn = this.#loop.now() + TURN_MS;
    for (let now = this.#loop.now(); !this.#closed && now - this.#last < LOOK_MS; now = this.#loop.now()) {
      if (now >= turn) return this.#loop.again(this.#look);
      this.#loop.take();
    }
    this.#looking = false;
  };

  readonly #letGo = (): void => {
    if (!this.#holding) return;
    if (this.#loop.now() - this.#last < HOLD_MS) return this.#loop.later(this.#letGo, HOLD_MS);
    this.#holding = false;
    this.#held?.release();
  };
}

/** This thread's loop; undefined where its looking would keep the reader from the only processor. */
export function alertLoop(take: () => void): AlertLoop | undefined {
  if (availableParallelism() < 2) return undefined;
  return { now: () => performance.now(), take, again: setImmediate, later: (turn, ms) => setTimeout(turn, ms).unref() };
}
