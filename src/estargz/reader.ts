import type { Digest } from '../digest/digest.js';
import { digestFromBytes } from '../digest/digest.js';
import { verifyBytes } from '../digest/verify.js';
import { LazylayerError } from '../errors.js';
import type { RandomAccessReader, ReadOptions } from '../io/reader.js';
import { NO_DIGEST, type TocChunk, type TocEntry } from '../toc/entry.js';
import { showName } from '../toc/names.js';
import { MemberReader } from './member.js';
import { openToc, tocOptions, type OpenedToc, type OpenOptions } from './open.js';
import { TocParser } from './toc.js';

export interface ReadStreamOptions extends ReadOptions {
  /** First byte of the file to give; 0 by default. */
  readonly start?: number;
  /** Byte of the file to stop before; its size by default. */
  readonly end?: number;
}

/**
 * An eStargz blob, entry by entry:
 *
 *     await using layer = await EstargzReader.open(blob, { tocDigest });
 *     for await (const entry of layer) if (entry.type === 'reg') for await (const bytes of layer.openReadStream(entry)) ...
 *
 * Entries come as the TOC has them: whiteouts, landmarks and unclean names included. `readEstargzTree` gives the tree that they
 * stand for.
 */
export class EstargzReader implements AsyncIterable<TocEntry>, AsyncDisposable {
  readonly #parser: TocParser;
  #offsets: Float64Array | undefined;

  private constructor(
    private readonly blob: RandomAccessReader,
    private readonly toc: OpenedToc,
  ) {
    this.#parser = this.#parse();
  }

  /** Reads footer and TOC (see `openToc` for requests and errors). The blob is closed with the reader. */
  static async open(blob: RandomAccessReader, options?: OpenOptions): Promise<EstargzReader> {
    return new EstargzReader(blob, await openToc(blob, options));
  }

  get tocDigest(): Digest {
    return this.toc.tocDigest;
  }

  /**
   * The next entry, or undefined after the last one.
   * @throws FormatError
   */
  async readEntry(): Promise<TocEntry | undefined> {
    return this.#parser.next();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<TocEntry, void, undefined> {
    for (let entry = await this.readEntry(); entry !== undefined; entry = await this.readEntry()) yield entry;
  }

  /**
   * Bytes [start, end) of a regular file. Each piece is at most a chunk, was verified, and is memory of its own.
   * @throws INVALID_ARGUMENT for what is no regular file, or a range outside it
   * @throws VerificationError, FormatError for bytes that are not what the TOC claims
   */
  async *openReadStream(entry: TocEntry, options?: ReadStreamOptions): AsyncGenerator<Uint8Array, void, undefined> {
    const { start = 0, end = entry.size } = options ?? {};
    if (entry.type !== 'reg' || !(start >= 0 && start <= end && end <= entry.size))
      throw new LazylayerError(
        'INVALID_ARGUMENT',
        `${showName(entry.name)}: expected a regular file and a range in its ${entry.size} bytes, found ${entry.type}, [${start}, ${end})`,
      );
    let at = 0;
    for (const chunk of entry.chunks) {
      const from = Math.max(start, at) - at;
      const to = Math.min(end, at + chunk.size) - at;
      if (from < to) yield (await this.#chunk(entry, chunk, options)).subarray(from, to);
      at += chunk.size;
    }
  }

  async #chunk(entry: TocEntry, chunk: TocChunk, options?: ReadOptions): Promise<Uint8Array> {
    const member = await this.blob.read(chunk.offset, this.#memberEnd(chunk.offset) - chunk.offset, options);
    const bytes = new Uint8Array(chunk.size);
    new MemberReader(member).read(chunk.innerOffset, chunk.size, bytes, 0);
    if (chunk.digest !== NO_DIGEST)
      verifyBytes(
        bytes,
        digestFromBytes(chunk.digest),
        `${showName(entry.name)}, chunk at ${chunk.offset} of the blob`,
      );
    return bytes;
  }

  /** Where the member at `offset` ends: where the next one that the TOC knows begins, or the content does. */
  #memberEnd(offset: number): number {
    const offsets = (this.#offsets ??= this.#memberOffsets());
    let low = 0;
    let high = offsets.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (offsets[middle] <= offset) low = middle + 1;
      else high = middle;
    }
    return low < offsets.length ? offsets[low] : this.toc.contentEnd;
  }

  #memberOffsets(): Float64Array {
    const offsets: number[] = [];
    for (const entry of this.#parse()) for (const chunk of entry.chunks) offsets.push(chunk.offset);
    return Float64Array.from(offsets).sort();
  }

  #parse(): TocParser {
    return new TocParser(this.toc.json, tocOptions(this.toc.verified));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.blob[Symbol.asyncDispose]();
  }
}
