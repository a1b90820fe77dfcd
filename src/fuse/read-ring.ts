/** A read that was answered at once. */
export interface AnsweredRead {
  readonly slot: number;
  readonly inode: number;
  readonly offset: number;
  readonly size: number;
  /** Milliseconds since 1970. */
  readonly start: number;
  readonly end: number;
}

/*
 * f64 words: word 0 counts what was ever put, then records of slot, inode, offset, size, start, end
 */
const RECORD = 6;

/** The newest reads that one thread answered, in memory that another may look at once that thread has let go of it. */
export class ReadRing implements Iterable<AnsweredRead> {
  readonly #words: Float64Array;
  readonly #capacity: number;

  constructor(readonly buffer: SharedArrayBuffer) {
    this.#words = new Float64Array(buffer);
    this.#capacity = (this.#words.length - 1) / RECORD;
  }

  static allocate(capacity: number): ReadRing {
    return new ReadRing(new SharedArrayBuffer(8 * (1 + capacity * RECORD)));
  }

  put(slot: number, inode: number, offset: number, size: number, start: number, end: number): void {
    const words = this.#words;
    let at = 1 + (words[0]++ % this.#capacity) * RECORD;
    words[at++] = slot;
    words[at++] = inode;
    words[at++] = offset;
    words[at++] = size;
    words[at++] = start;
    words[at] = end;
  }

  /** How many had to make room. */
  get dropped(): number {
    return Math.max(0, this.#words[0] - this.#capacity);
  }

  /** Oldest first. */
  *[Symbol.iterator](): Generator<AnsweredRead, void, undefined> {
    for (let i = this.dropped; i < this.#words[0]; i++) {
      const at = 1 + (i % this.#capacity) * RECORD;
      const [slot, inode, offset, size, start, end] = this.#words.subarray(at, at + RECORD);
      yield { slot, inode, offset, size, start, end };
    }
  }
}
