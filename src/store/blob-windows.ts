import { LRUCache } from 'lru-cache';
import { leaveOnAbort } from '../util/singleflight.js';
import type { RandomAccessReader } from '../io/reader.js';

const firstBytes = 1024 * 1024;
const mostBytes = 16 * 1024 * 1024;
const keptBytes = 64 * 1024 * 1024;
const growth = 4;

interface Window {
  readonly start: number;
  readonly end: number;
  readonly bytes: Promise<Uint8Array>;
  /** Ends the request. */
  readonly abort: AbortController;
  /** Reads that wait for it. */
  waiting: number;
}

/**
 * Reads of raw layers in small pieces, made of few large requests. Each window is one range; one that goes on where another ended is
 * four times as long as that, up to 16 MiB. The last windows stay for a while, up to 64 MiB, since a reader's requests come side by side and
 * in any order.
 */
export class BlobWindows implements Disposable {
  readonly #windows: LRUCache<string, Window>;

  /** Windows that nobody read from for `keptMs` are dropped. */
  constructor({ keptMs = 60_000 }: { readonly keptMs?: number } = {}) {
    this.#windows = new LRUCache({
      maxSize: keptBytes,
      sizeCalculation: ({ start, end }) => end - start,
      // Its timers keep no process from ending.
      ttl: keptMs,
      ttlAutopurge: true,
      updateAgeOnGet: true,
    });
  }

  /** Bytes that are kept, or on their way. */
  get bytes(): number {
    return this.#windows.calculatedSize;
  }

  /**
   * Bytes [offset, offset + length) of the blob that `key` stands for. Errors are not kept. A request is ended when all who wait for it
   * have left by their signals.
   */
  async read(
    key: string,
    reader: RandomAccessReader,
    offset: number,
    length: number,
    signal?: AbortSignal,
  ): Promise<Uint8Array> {
    const result = Buffer.allocUnsafeSlow(length);
    for (let at = offset; at < offset + length;) {
      signal?.throwIfAborted();
      const window = this.#windowAt(key, reader, at);
      const stop = Math.min(window.end, offset + length);
      const bytes = await this.#wait(`${key} ${window.start}`, window, signal);
      result.set(bytes.subarray(at - window.start, stop - window.start), at - offset);
      at = stop;
    }
    return result;
  }

  async #wait(id: string, window: Window, signal: AbortSignal | undefined): Promise<Uint8Array> {
    window.waiting++;
    try {
      return await leaveOnAbort(window.bytes, signal);
    } finally {
      if (--window.waiting === 0 && signal?.aborted === true) {
        this.#drop(id, window);
        window.abort.abort(signal.reason);
      }
    }
  }

  #windowAt(key: string, reader: RandomAccessReader, at: number): Window {
    let size = firstBytes;
    for (const [id, window] of this.#windows.entries()) {
      if (!id.startsWith(`${key} `)) continue;
      if (window.start <= at && at < window.end) {
        this.#windows.get(id);
        return window;
      }
      if (window.end === at) size = Math.max(size, Math.min((window.end - window.start) * growth, mostBytes));
    }
    const end = Math.min(at + size, reader.size);
    const abort = new AbortController();
    const bytes = reader.read(at, end - at, { signal: abort.signal });
    const window: Window = { start: at, end, bytes, abort, waiting: 0 };
    const id = `${key} ${at}`;
    this.#windows.set(id, window);
    bytes.catch(() => this.#drop(id, window));
    return window;
  }

  #drop(id: string, window: Window): void {
    if (this.#windows.peek(id) === window) this.#windows.delete(id);
  }

  [Symbol.dispose](): void {
    this.#windows.clear();
  }
}
