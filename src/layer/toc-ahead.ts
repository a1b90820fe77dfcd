import type { Digest } from '../digest/digest.js';
import { LazylayerError } from '../errors.js';
import type { BlobEnd } from '../io/reader.js';
import { leaveOnAbort } from '../util/singleflight.js';

/** How long the end of a blob waits for its layer to be opened, in milliseconds. */
const WAIT_MS = 30_000;

interface Coming {
  readonly end: Promise<BlobEnd | undefined>;
  readonly abort: AbortController;
  readonly timer: NodeJS.Timeout;
}

/**
 * Ends of blobs, where TOCs lie, asked for while an image is still being resolved. They are bytes and nothing more: whoever opens the
 * layer verifies what it makes of them.
 */
export class TocsAhead {
  readonly #coming = new Map<Digest, Coming>();

  /** Has a blob's end read, unless it is on its way; `undefined` leaves that to whoever opens the layer. */
  ask(digest: Digest, read: (signal: AbortSignal) => Promise<BlobEnd | undefined>): void {
    if (this.#coming.has(digest)) return;
    const abort = new AbortController();
    const end = read(abort.signal);
    const timer = setTimeout(() => this.drop(digest), WAIT_MS).unref();
    const coming: Coming = { end, abort, timer };
    this.#coming.set(digest, coming);
    end.catch(() => {
      // Whoever opens the layer from now on asks anew; who waits already is told.
      if (this.#coming.get(digest) === coming) this.drop(digest);
    });
  }

  /** What was asked for ahead, which is used up by that: given when it has come. @throws what reading it threw */
  take(digest: Digest): ((signal?: AbortSignal) => Promise<BlobEnd | undefined>) | undefined {
    const coming = this.#coming.get(digest);
    if (coming === undefined) return undefined;
    this.#coming.delete(digest);
    clearTimeout(coming.timer);
    return async (signal) => {
      const left = () => coming.abort.abort(signal?.reason);
      if (signal?.aborted === true) left();
      signal?.addEventListener('abort', left, { once: true });
      try {
        return await leaveOnAbort(coming.end, signal);
      } finally {
        signal?.removeEventListener('abort', left);
      }
    };
  }

  /** Ends the request for a layer that needs it no more. */
  drop(digest: Digest): void {
    const coming = this.#coming.get(digest);
    if (coming === undefined) return;
    this.#coming.delete(digest);
    clearTimeout(coming.timer);
    coming.abort.abort(new LazylayerError('ABORTED', 'nobody opens the layer that this was asked for'));
  }

  dropAll(): void {
    for (const digest of this.#coming.keys()) this.drop(digest);
  }
}
