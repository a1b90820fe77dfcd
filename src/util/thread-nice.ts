import { constants, getPriority, setPriority } from 'node:os';

const { PRIORITY_LOW, PRIORITY_HIGHEST } = constants.priority;

let rises: boolean | undefined;

/** Whether a thread of this process may be made more urgent than it is. */
export function mayRise(): boolean {
  return (rises ??= tryToRise());
}

function tryToRise(): boolean {
  const base = getPriority();
  if (base === PRIORITY_HIGHEST) return true;
  try {
    setPriority(base - 1);
    setPriority(base);
    return true;
  } catch {
    return false;
  }
}

/**
 * A nice value for the calling thread, and for no other of its process: Linux schedules threads, and takes "this process" of
 * setpriority(2) for the thread that asks. Counted from the value that the thread has when this is made.
 */
export class ThreadNice {
  readonly #base = getPriority();
  #now = this.#base;

  /**
   * 0 is as it was; more makes way for others, less goes before them. Nothing changes where a thread may not be made more urgent
   * (CAP_SYS_NICE): one that made way could not come back.
   */
  set(more: number): void {
    if (more !== 0 && !mayRise()) return;
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
