import { open, type FileHandle } from 'node:fs/promises';
import { VerificationError } from '../errors.js';
import { checkRange, type RandomAccessReader, type ReadOptions } from './reader.js';

const pieceSize = 256 * 1024;

/** Reads from memory. `read` gives views: the buffer must not change while the reader is used. */
export class BufferReader implements RandomAccessReader {
  readonly size: number;

  constructor(private readonly bytes: Uint8Array) {
    this.size = bytes.byteLength;
  }

  async read(offset: number, length: number): Promise<Uint8Array> {
    checkRange(this.size, offset, length);
    return this.bytes.subarray(offset, offset + length);
  }

  async *stream(offset: number, length: number): AsyncGenerator<Uint8Array> {
    checkRange(this.size, offset, length);
    for (let at = offset; at < offset + length; at += pieceSize)
      yield this.bytes.subarray(at, Math.min(at + pieceSize, offset + length));
  }

  async [Symbol.asyncDispose](): Promise<void> {}
}

/** Reads a file, whose size is taken once, at open. Owns the descriptor. */
export class FileReader implements RandomAccessReader {
  private constructor(
    private readonly file: FileHandle,
    readonly path: string,
    readonly size: number,
  ) {}

  static async open(path: string): Promise<FileReader> {
    const file = await open(path, 'r');
    try {
      return new FileReader(file, path, (await file.stat()).size);
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  async read(offset: number, length: number, options?: ReadOptions): Promise<Uint8Array> {
    checkRange(this.size, offset, length);
    const bytes = Buffer.allocUnsafeSlow(length);
    await this.#fill(bytes, offset, options);
    return bytes;
  }

  async *stream(offset: number, length: number, options?: ReadOptions): AsyncGenerator<Uint8Array> {
    checkRange(this.size, offset, length);
    const buffer = Buffer.allocUnsafeSlow(Math.min(pieceSize, length));
    for (let at = offset; at < offset + length; at += pieceSize) {
      const piece = buffer.subarray(0, Math.min(pieceSize, offset + length - at));
      await this.#fill(piece, at, options);
      yield piece;
    }
  }

  async #fill(into: Buffer, offset: number, options?: ReadOptions): Promise<void> {
    let done = 0;
    while (done < into.byteLength) {
      options?.signal?.throwIfAborted();
      const { bytesRead } = await this.file.read(into, done, into.byteLength - done, offset + done);
      if (bytesRead === 0)
        throw new VerificationError(this.path, `${this.size} bytes`, `the end of the file at byte ${offset + done}`);
      done += bytesRead;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.file.close();
  }
}

/** A part of another reader, seen as a whole. Closing it leaves the other open. */
export class SliceReader implements RandomAccessReader {
  constructor(
    private readonly reader: RandomAccessReader,
    private readonly start: number,
    readonly size: number,
  ) {
    checkRange(reader.size, start, size);
  }

  async read(offset: number, length: number, options?: ReadOptions): Promise<Uint8Array> {
    checkRange(this.size, offset, length);
    return this.reader.read(this.start + offset, length, options);
  }

  stream(offset: number, length: number, options?: ReadOptions): AsyncIterable<Uint8Array> {
    checkRange(this.size, offset, length);
    return this.reader.stream(this.start + offset, length, options);
  }

  async [Symbol.asyncDispose](): Promise<void> {}
}
