/**
 * Which chunks of a layer are in its cache file, one bit a chunk, over memory that threads share. A bit is set only after the
 * chunk's bytes are in the file, so whoever sees the bit may read them.
 */
export class Presence {
  readonly #words: Int32Array;

  constructor(readonly buffer: SharedArrayBuffer) {
    this.#words = new Int32Array(buffer);
  }

  /** Bytes of memory that the bits of so many chunks take: whole words of 32 bits. */
  static bytes(chunks: number): number {
    return Math.ceil(chunks / 32) * 4;
  }

  has(chunk: number): boolean {
    return (Atomics.load(this.#words, chunk >>> 5) & (1 << (chunk & 31))) !== 0;
  }

  /** Whether every chunk of [first, end) is there; true for none. */
  hasAll(first: number, end: number): boolean {
    for (let chunk = first; chunk < end; chunk++) if (!this.has(chunk)) return false;
    return true;
  }

  /** Call it after the chunk's bytes are in the file, never before. */
  set(chunk: number): void {
    Atomics.or(this.#words, chunk >>> 5, 1 << (chunk & 31));
  }

  /** How many chunks are there. */
  count(): number {
    let total = 0;
    for (let i = 0; i < this.#words.length; i++) {
      for (let word = Atomics.load(this.#words, i); word !== 0; word &= word - 1) total++;
    }
    return total;
  }
}
