/** Processes that are remembered. One that others have displaced is new again. */
const REMEMBERED = 1024;
/** Of the new ones, so many are told of in a span of so many milliseconds: a build starts hundreds in a second. */
const TOLD = 16;
const SPAN_MS = 100;

/** Tells processes that look for files for the first time from those that were seen of late. */
export class Newcomers {
  readonly #seen = new Int32Array(REMEMBERED);
  readonly #now: () => number;
  #told = 0;
  #since = -Infinity;

  /** `now` in milliseconds. */
  constructor(now = () => performance.now()) {
    this.#now = now;
  }

  /** Whether somebody should hear of this one; who is left out is new the next time. 0 is nobody that could be looked at. */
  isNew(pid: number): boolean {
    if (pid === 0 || this.#seen[pid % REMEMBERED] === pid) return false;
    const now = this.#now();
    if (now - this.#since >= SPAN_MS) {
      this.#since = now;
      this.#told = 0;
    }
    if (++this.#told > TOLD) return false;
    this.#seen[pid % REMEMBERED] = pid;
    return true;
  }
}
