import type { Digest } from '../digest/digest.js';
import { LazylayerError } from '../errors.js';
import type { BlobEnd, EndOptions } from '../io/reader.js';
import type { EndSource } from '../estargz/open.js';
import { leaveOnAbort } from '../util/singleflight.js';

/** How long the end of a blob waits for its layer to be opened, in milliseconds. */
const WAIT_MS = 30_000;

interface Coming {
  readonly end: Promise<BlobEnd | undefined>;
  readonly abort: AbortController;
  readonly timer: NodeJS.Timeout;
  readonly watch: Watch;
}

/** What is there of an end, and who hears of it. */
interface Watch {
  part?: { readonly end: BlobEnd; readonly come: number };
  onEnd?: NonNullable<EndOptions['onEnd']>;
}

/**
 * Ends of blobs, where TOCs lie, asked for while an image is still being resolved. They are bytes and nothing more: whoever opens the
 * layer verifies what it makes of them.
 */
export class TocsAhead {
  readonly #coming = new Map<Digest, Coming>();

  /** Has a blob's end read, unless it is on its way. Where that fails, it is left to whoever opens the layer. */
  ask(digest: Digest, read: (options: EndOptions) => Promise<BlobEnd>): void {
    if (this.#coming.has(digest)) return;
    const abort = new AbortController();
    const watch: Watch = {};
    const onEnd = (end: BlobEnd, come: number) => {
      watch.part = { end, come };
      watch.onEnd?.(end, come);
    };
    const end = read({ signal: abort.signal, onEnd }).catch(() => undefined);
    const timer = setTimeout(() => this.drop(digest), WAIT_MS).unref();
    this.#coming.set(digest, { end, abort, timer, watch });
  }

  /** Tells of what has come of an end, and of what comes, before it is taken. */
  watch(digest: Digest, onEnd: NonNullable<EndOptions['onEnd']>): void {
    const watch = this.#coming.get(digest)?.watch;
    if (watch === undefined) return;
    watch.onEnd = onEnd;
    if (watch.part !== undefined) onEnd(watch.part.end, watch.part.come);
  }

  /** What was asked for ahead, which is used up by that: given when it has come, or did not. */
  take(digest: Digest): EndSource | undefined {
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
