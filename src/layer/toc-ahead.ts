import type { Digest } from '../digest/digest.js';
import { LazylayerError } from '../errors.js';
import { suffixBytes } from '../estargz/open.js';
import type { RandomAccessReader } from '../io/reader.js';
import { leaveOnAbort } from '../util/singleflight.js';

/** How long the end of a blob waits for its layer to be opened, in milliseconds. */
const WAIT_MS = 30_000;

interface Tail {
  readonly start: number;
  readonly bytes: Promise<Uint8Array>;
  readonly abort: AbortController;
  readonly timer: NodeJS.Timeout;
}

/**
 * Ends of blobs, where TOCs lie, asked for while an image is still being resolved. They are bytes and nothing more: whoever opens the
 * layer verifies what it makes of them.
 */
export class TocsAhead {
  readonly #tails = new Map<Digest, Tail>();

  /** Sends the request that opening the layer would begin with. */
  ask(digest: Digest, openReader: () => RandomAccessReader): void {
    if (this.#tails.has(digest)) return;
    const abort = new AbortController();
    const reader = openReader();
    const start = reader.size - suffixBytes(reader.size);
    const bytes = reader
      .read(start, reader.size - start, { signal: abort.signal, reason: 'toc' })
      .finally(() => reader[Symbol.asyncDispose]());
    const timer = setTimeout(() => this.drop(digest), WAIT_MS).unref();
    const tail: Tail = { start, bytes, abort, timer };
    this.#tails.set(digest, tail);
    bytes.catch(() => {
      // Whoever opens the layer from now on asks anew; who waits already is told.
      if (this.#tails.get(digest) === tail) this.drop(digest);
    });
  }

  /** The reader, but with what was asked for ahead, which is used up by that. */
  take(digest: Digest, reader: RandomAccessReader): RandomAccessReader {
    const tail = this.#tails.get(digest);
    if (tail === undefined) return reader;
    this.#tails.delete(digest);
    clearTimeout(tail.timer);
    return {
      size: reader.size,
      async read(offset, length, options) {
        if (offset !== tail.start || offset + length !== reader.size) return reader.read(offset, length, options);
        const signal = options?.signal;
        const left = () => tail.abort.abort(signal?.reason);
        if (signal?.aborted === true) left();
        signal?.addEventListener('abort', left, { once: true });
        try {
          return await leaveOnAbort(tail.bytes, signal);
        } finally {
          signal?.removeEventListener('abort', left);
        }
      },
      stream: (offset, length, options) => reader.stream(offset, length, options),
      [Symbol.asyncDispose]: () => reader[Symbol.asyncDispose](),
    };
  }

  /** Ends the request for a layer that needs it no more. */
  drop(digest: Digest): void {
    const tail = this.#tails.get(digest);
    if (tail === undefined) return;
    this.#tails.delete(digest);
    clearTimeout(tail.timer);
    tail.abort.abort(new LazylayerError('ABORTED', 'nobody opens the layer that this was asked for'));
  }

  dropAll(): void {
    for (const digest of this.#tails.keys()) this.drop(digest);
  }
}
