import type { Clock } from '../bench/clock.js';

/** Time that passes only when it is told to, from one timer to the next. */
export class VirtualClock implements Clock {
  #now = 0;
  #timers: { time: number; work: () => void }[] = [];

  now(): number {
    return this.#now;
  }

  at(time: number, work: () => void): void {
    this.#timers.push({ time, work });
  }

  /** Runs every timer up to a time, `late` after it was due. */
  run(until = Infinity, late = 0): void {
    for (;;) {
      this.#timers.sort((a, b) => a.time - b.time);
      const next = this.#timers[0];
      if (next === undefined || next.time + late > until) break;
      this.#timers.shift();
      this.#now = Math.max(this.#now, next.time + late);
      next.work();
    }
    if (until !== Infinity) this.#now = until;
  }
}
