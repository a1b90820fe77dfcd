import { LazylayerError } from '../errors.js';

interface Flight<V> {
  readonly promise: Promise<V>;
  readonly controller: AbortController;
  waiters: number;
}

/**
 * Callers that ask for the same key while its work is under way share that one piece of work. Each caller may leave by its own
 * signal; the work itself is aborted only when the last of them has left.
 */
export class Singleflight<K, V> {
  readonly #flights = new Map<K, Flight<V>>();

  async run(key: K, work: (signal: AbortSignal) => Promise<V>, signal?: AbortSignal): Promise<V> {
    signal?.throwIfAborted();
    let flight = this.#flights.get(key);
    if (flight === undefined) {
      const controller = new AbortController();
      const started: Flight<V> = {
        controller,
        waiters: 0,
        promise: work(controller.signal).finally(() => this.#forget(key, started)),
      };
      started.promise.catch(() => {}); // every waiter may have left by the time it fails
      this.#flights.set(key, started);
      flight = started;
    }
    const shared = flight;
    shared.waiters++;
    try {
      return await leaveOnAbort(shared.promise, signal);
    } finally {
      if (--shared.waiters === 0) {
        this.#forget(key, shared);
        shared.controller.abort(new LazylayerError('ABORTED', 'nobody waits for this any more'));
      }
    }
  }

  #forget(key: K, flight: Flight<V>): void {
    if (this.#flights.get(key) === flight) this.#flights.delete(key);
  }
}

/** The promise's outcome, or the signal's reason, whichever comes first. The work behind the promise is not touched. */
export function leaveOnAbort<V>(promise: Promise<V>, signal: AbortSignal | undefined): Promise<V> {
  if (signal === undefined) return promise;
  return new Promise<V>((resolve, reject) => {
    const leave = () => reject(signal.reason as Error);
    if (signal.aborted) return leave();
    signal.addEventListener('abort', leave, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', leave));
  });
}
