import { constants, getPriority, setPriority } from 'node:os';

const { PRIORITY_LOW, PRIORITY_HIGHEST } = constants.priority;

/**
 * A nice value for the calling thread, and for no other of its process: Linux schedules threads, and takes "this process" of
 * setpriority(2) for the thread that asks. Counted from the value that the thread has when this is made.
 */
export class ThreadNice {
  readonly #base = getPriority();
  #now = this.#base;

  /** 0 is as it was; more makes way for others. Nothing changes where it may not: only root makes a thread more urgent. */
  set(more: number): void {
    const wanted = Math.max(PRIORITY_HIGHEST, Math.min(PRIORITY_LOW, this.#base + more));
    if (wanted === this.#now) return;
    try {
      setPriority(wanted);
      this.#now = wanted;
    } catch {
      return;
    }
  }
}
