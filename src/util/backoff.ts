import { setTimeout as sleep } from 'node:timers/promises';

export interface BackoffOptions {
  /** Tries in all, the first one included. */
  readonly attempts: number;
  /** Upper bound of the first wait, in milliseconds; it doubles with each try. */
  readonly baseMs: number;
  /** Upper bound of any wait, in milliseconds. */
  readonly maxMs: number;
}

/** Full jitter: a wait between zero and an exponentially growing bound, so that clients do not return in step. */
export function backoffMs(attempt: number, options: BackoffOptions, random = Math.random): number {
  return random() * Math.min(options.maxMs, options.baseMs * 2 ** attempt);
}

/**
 * Runs `work` until it succeeds, tries run out, or `retryAfterMs` says undefined (not worth another try). A number from
 * `retryAfterMs` is a floor for the wait in milliseconds, such as a server's Retry-After; 0 leaves it to the backoff.
 */
export async function retry<V>(
  work: (attempt: number) => Promise<V>,
  retryAfterMs: (error: unknown) => number | undefined,
  options: BackoffOptions & { signal?: AbortSignal },
): Promise<V> {
  for (let attempt = 0; ; attempt++) {
    try {
      return await work(attempt);
    } catch (error) {
      const floor = retryAfterMs(error);
      if (floor === undefined || attempt + 1 >= options.attempts) throw error;
      options.signal?.throwIfAborted();
      await sleep(Math.max(floor, backoffMs(attempt, options)), undefined, { signal: options.signal });
    }
  }
}
