import { leaveOnAbort } from './singleflight.js';

interface Waiter {
  readonly weight: number;
  readonly grant: () => void;
  skipped: number;
}

/**
 * A weighted semaphore with priorities: 0 is the most urgent. A waiter is served before every waiter of a lower priority, except
 * that each waiter that was passed over `patience` times goes first, so no priority starves. Within a priority: first come, first
 * served. A weight above the capacity is granted when everything else has been released.
 */
export class PrioritySemaphore {
  readonly #capacity: number;
  readonly #queues: Waiter[][];
  readonly #patience: number;
  #used = 0;

  constructor(capacity: number, options: { priorities: number; patience?: number }) {
    this.#capacity = capacity;
    this.#queues = Array.from({ length: options.priorities }, () => []);
    this.#patience = options.patience ?? 32;
  }

  get used(): number {
    return this.#used;
  }

  /** Resolves to a release function, which may be called once; later calls do nothing. */
  async acquire(priority: number, weight = 1, signal?: AbortSignal): Promise<() => void> {
    signal?.throwIfAborted();
    const bounded = Math.min(weight, this.#capacity);
    const queue = this.#queues[priority];
    let grant!: () => void;
    const granted = new Promise<void>((resolve) => (grant = resolve));
    const waiter: Waiter = { weight: bounded, grant, skipped: 0 };
    queue.push(waiter);
    this.#serve();
    try {
      await leaveOnAbort(granted, signal);
    } catch (error) {
      const at = queue.indexOf(waiter);
      if (at >= 0) queue.splice(at, 1);
      else this.#release(bounded); // granted in the same turn that it was aborted
      this.#serve();
      throw error;
    }
    let released = false;
    return () => {
      if (released) return;
      released = true;
      this.#release(bounded);
    };
  }

  #release(weight: number): void {
    this.#used -= weight;
    this.#serve();
  }

  #serve(): void {
    for (;;) {
      const queue = this.#nextQueue();
      if (queue === undefined || this.#used + queue[0].weight > this.#capacity) return;
      const waiter = queue.shift()!;
      this.#used += waiter.weight;
      for (const other of this.#queues) if (other !== queue && other.length > 0) other[0].skipped++;
      waiter.grant();
    }
  }

  #nextQueue(): Waiter[] | undefined {
    const waiting = this.#queues.filter((q) => q.length > 0);
    return waiting.find((q) => q[0].skipped >= this.#patience) ?? waiting[0];
  }
}
