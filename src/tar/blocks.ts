import { FormatError } from '../errors.js';

/** Takes a stream of pieces apart into what a parser asks for: so many bytes together, or as they come. */
export class ByteSource implements AsyncDisposable {
  readonly #pieces: AsyncIterator<Uint8Array>;
  #piece: Uint8Array = new Uint8Array(0);
  /** Place in the stream of the next byte. */
  position = 0;

  constructor(source: AsyncIterable<Uint8Array>) {
    this.#pieces = source[Symbol.asyncIterator]();
  }

  /** Up to `limit` bytes, at least 1: a view that is valid until the next call. Undefined at the end of the stream. */
  async some(limit: number): Promise<Uint8Array | undefined> {
    while (this.#piece.byteLength === 0) {
      const next = await this.#pieces.next();
      if (next.done === true) return undefined;
      this.#piece = next.value;
    }
    return this.#take(Math.min(limit, this.#piece.byteLength));
  }

  /**
   * Exactly `length` bytes: a view where they lie in one piece, else a copy. Undefined where the stream ends right here.
   * @throws FormatError where it ends within them
   */
  async exactly(length: number, what: string): Promise<Uint8Array | undefined> {
    if (this.#piece.byteLength >= length) return this.#take(length);
    const start = this.position;
    const whole = new Uint8Array(length);
    let have = 0;
    while (have < length) {
      const part = await this.some(length - have);
      if (part === undefined) {
        if (have === 0) return undefined;
        throw new FormatError('tar', {
          offset: start,
          expected: `${length} bytes of ${what}`,
          found: `the end after ${have}`,
        });
      }
      whole.set(part, have);
      have += part.byteLength;
    }
    return whole;
  }

  /** @throws FormatError where the stream ends before `length` bytes are passed over */
  async skip(length: number, what: string): Promise<void> {
    for (let left = length; left > 0;) {
      const part = await this.some(left);
      if (part === undefined)
        throw new FormatError('tar', {
          offset: this.position,
          expected: `${left} more bytes of ${what}`,
          found: 'the end',
        });
      left -= part.byteLength;
    }
  }

  #take(length: number): Uint8Array {
    const part = this.#piece.subarray(0, length);
    this.#piece = this.#piece.subarray(length);
    this.position += length;
    return part;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#pieces.return?.();
  }
}
