import { LRUCache } from 'lru-cache';
import type { RandomAccessReader } from '../io/reader.js';

const firstBytes = 1024 * 1024;
const mostBytes = 16 * 1024 * 1024;
const keptBytes = 64 * 1024 * 1024;
const growth = 4;

interface Window {
  readonly start: number;
  readonly end: number;
  readonly bytes: Promise<Uint8Array>;
}

/**
 * Reads of raw layers in small pieces, made of few large requests. Each window is one range; one that goes on where another ended is
 * four times as long as that, up to 16 MiB. The last windows stay, up to 64 MiB, since a reader's requests come side by side and in
 * any order.
 */
export class BlobWindows {
  readonly #windows = new LRUCache<string, Window>({
    maxSize: keptBytes,
    sizeCalculation: ({ start, end }) => end - start,
  });

  /** Bytes [offset, offset + length) of the blob that `key` stands for. Errors are not kept. */
  async read(key: string, reader: RandomAccessReader, offset: number, length: number): Promise<Uint8Array> {
    const result = Buffer.allocUnsafeSlow(length);
    for (let at = offset; at < offset + length;) {
      const { start, end, bytes } = this.#windowAt(key, reader, at);
      const stop = Math.min(end, offset + length);
      result.set((await bytes).subarray(at - start, stop - start), at - offset);
      at = stop;
    }
    return result;
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
    const window: Window = { start: at, end, bytes: reader.read(at, end - at) };
    const id = `${key} ${at}`;
    this.#windows.set(id, window);
    window.bytes.catch(() => {
      if (this.#windows.peek(id) === window) this.#windows.delete(id);
    });
    return window;
  }
}
