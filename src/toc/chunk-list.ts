import type { TocChunk } from './entry.js';

/** Chunks as growing columns: 48 bytes each, where objects would take some 250. */
export class ChunkList {
  length = 0;
  offset = new Float64Array(1024);
  inner = new Uint32Array(1024);
  size = new Uint32Array(1024);
  digests = new Uint8Array(1024 * 32);

  push(chunk: TocChunk): void {
    if (this.length === this.size.length) this.#grow();
    const i = this.length++;
    this.offset[i] = chunk.offset;
    this.inner[i] = chunk.innerOffset;
    this.size[i] = chunk.size;
    this.digests.set(chunk.digest, i * 32);
  }

  /** Whether chunk `a` comes before, with, or after chunk `b` in the blob: negative, zero, positive. */
  compare(a: number, b: number): number {
    return this.offset[a] - this.offset[b] || this.inner[a] - this.inner[b];
  }

  #grow(): void {
    const n = this.size.length * 2;
    const widen = <A extends Float64Array | Uint32Array | Uint8Array>(wide: A, old: A): A => {
      wide.set(old);
      return wide;
    };
    this.offset = widen(new Float64Array(n), this.offset);
    this.inner = widen(new Uint32Array(n), this.inner);
    this.size = widen(new Uint32Array(n), this.size);
    this.digests = widen(new Uint8Array(n * 32), this.digests);
  }
}
