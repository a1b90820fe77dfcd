import { wallClock } from '../util/wall-clock.js';

/** Time and timers, so that what depends on them can be tested without waiting. */
export interface Clock {
  /** Milliseconds since 1970, with fractions; never runs backwards. */
  now(): number;
  /** Calls back at a time, or as soon after it as can be. */
  at(time: number, work: () => void): void;
}

/** What a timer may be early by: the event loop counts whole milliseconds, and rounds up. Half of the errors are to be on either side. */
const early = 0.8;

export const realClock: Clock = {
  now: wallClock,
  at(time, work) {
    const left = time - realClock.now();
    setTimeout(
      () => {
        if (realClock.now() < time - early) realClock.at(time, work);
        else work();
      },
      Math.max(0, left - early),
    );
  },
};
