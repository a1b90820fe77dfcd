import { FormatError } from '../errors.js';
import type { EntryType, TocEntry, Xattr } from '../toc/entry.js';
import { showName } from '../toc/names.js';
import { ByteSource } from './blocks.js';
import { paddedBytes, parseTarHeader, TAR_BLOCK, type TarHeader } from './header.js';
import { parsePax, type PaxAttributes } from './pax.js';

/** One file of an archive. Its bytes are still in the stream: see `TarReader.payload`. */
export interface TarEntry extends Omit<TocEntry, 'chunks'> {
  /** Byte in the archive where the entry's first header begins. */
  readonly headerOffset: number;
  /** Byte in the archive where the payload, of `size` bytes, begins. */
  readonly payloadOffset: number;
}

const entryTypes: Readonly<Record<string, EntryType>> = {
  '0': 'reg',
  '1': 'hardlink',
  '2': 'symlink',
  '3': 'char',
  '4': 'block',
  '5': 'dir',
  '6': 'fifo',
  '7': 'reg', // "contiguous": a regular file to all who do not care
};

/** Extended headers beyond this, in bytes, are refused: those of one entry together, and all global ones of an archive. */
const MAX_EXTENDED_BYTES = 1024 * 1024;

/**
 * Reads a tar archive (V7, ustar, GNU, pax) as it streams by, holding no more of it than one piece:
 *
 *     for await (const entry of reader) for await (const piece of reader.payload()) ...
 *
 * Payload that is not asked for is passed over. The archive ends with two blocks of zeros, or with the stream where an entry might
 * have begun, as other readers accept it; what follows the zeros is read to the stream's end, so that a digest over
 * the stream is complete.
 */
export class TarReader implements AsyncIterable<TarEntry>, AsyncDisposable {
  readonly #source: ByteSource;
  readonly #global: PaxAttributes = {};
  /** Of `#global`, as entries have them; undefined until one asks. */
  #globalXattrs: readonly Xattr[] | undefined;
  #globalBytes = 0;
  #payloadLeft = 0;
  #padding = 0;
  #ended = false;

  constructor(source: AsyncIterable<Uint8Array>) {
    this.#source = new ByteSource(source);
  }

  /** Bytes of the archive consumed so far; after the last entry, its length. */
  get position(): number {
    return this.#source.position;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<TarEntry, void, undefined> {
    try {
      for (let entry = await this.next(); entry !== undefined; entry = await this.next()) yield entry;
    } finally {
      await this[Symbol.asyncDispose]();
    }
  }

  /**
   * The next entry, or undefined at the end.
   * @throws FormatError
   */
  async next(): Promise<TarEntry | undefined> {
    if (this.#ended) return undefined;
    await this.#source.skip(this.#payloadLeft + this.#padding, 'payload');
    this.#payloadLeft = this.#padding = 0;
    const headerOffset = this.#source.position;
    const own: PaxAttributes = {};
    let extended = false;
    let bytes = 0;
    for (;;) {
      const offset = this.#source.position;
      const header = await this.#header();
      if (header === undefined) {
        if (extended)
          throw new FormatError('tar', { offset, expected: 'the entry of an extended header', found: 'the end' });
        await this.#end();
        return undefined;
      }
      const { typeFlag, size } = header;
      if (typeFlag === 'g') {
        this.#globalBytes += size;
        parsePax(await this.#extended(size, this.#globalBytes, 'global pax headers'), offset, this.#global);
        this.#globalXattrs = undefined;
        continue;
      }
      bytes += size;
      if (typeFlag === 'x') parsePax(await this.#extended(size, bytes, 'pax header'), offset, own);
      else if (typeFlag === 'L') own.path ??= untilNul(await this.#extended(size, bytes, 'long name'));
      else if (typeFlag === 'K') own.linkpath ??= untilNul(await this.#extended(size, bytes, 'long link name'));
      else return this.#entry(header, own, headerOffset, offset);
      extended = true;
    }
  }

  /** What is left of the current entry's payload, as views of the source's pieces: each valid until the next is asked for. */
  async *payload(): AsyncGenerator<Uint8Array, void, undefined> {
    while (this.#payloadLeft > 0) {
      const piece = await this.#source.some(this.#payloadLeft);
      if (piece === undefined)
        throw new FormatError('tar', {
          offset: this.#source.position,
          expected: `${this.#payloadLeft} more bytes of payload`,
          found: 'the end',
        });
      this.#payloadLeft -= piece.byteLength;
      yield piece;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#source[Symbol.asyncDispose]();
  }

  async #header(): Promise<TarHeader | undefined> {
    const offset = this.#source.position;
    const block = await this.#source.exactly(TAR_BLOCK, 'header');
    if (block === undefined) return undefined;
    // The names are views of a piece that may be gone by the time the payload is read.
    return parseTarHeader(Uint8Array.prototype.slice.call(block), 0, offset);
  }

  /** @param total bytes of the headers that are bounded together, this one among them */
  async #extended(size: number, total: number, what: string): Promise<Buffer> {
    const offset = this.#source.position;
    if (total > MAX_EXTENDED_BYTES)
      throw new FormatError(`tar, ${what}`, {
        offset,
        expected: `at most ${MAX_EXTENDED_BYTES} bytes`,
        found: `${total}`,
      });
    const bytes = size === 0 ? new Uint8Array(0) : await this.#source.exactly(size, what);
    if (bytes === undefined)
      throw new FormatError('tar', { offset, expected: `${size} bytes of ${what}`, found: 'the end' });
    const kept = Buffer.from(bytes);
    await this.#source.skip(paddedBytes(size) - size, 'padding');
    return kept;
  }

  /** @param own what its own extended headers say; before them, the global ones do */
  #entry(header: TarHeader, own: PaxAttributes, headerOffset: number, offset: number): TarEntry {
    const pax = { ...this.#global, ...own };
    const name = pax.path ?? header.name;
    let type = Object.hasOwn(entryTypes, header.typeFlag) ? entryTypes[header.typeFlag] : undefined;
    if (type === undefined)
      throw new FormatError(`tar, entry ${showName(name)}`, {
        offset,
        expected: 'a file, link, device, directory or fifo',
        found: `type ${JSON.stringify(header.typeFlag)}`,
      });
    // What is no file has no payload, whatever its size field says.
    const size = type === 'reg' ? (pax.size ?? header.size) : 0;
    // Archives older than the type flag for directories mark them by a slash.
    if (type === 'reg' && size === 0 && name.at(-1) === 0x2f) type = 'dir';
    this.#payloadLeft = size;
    this.#padding = paddedBytes(size) - size;
    return {
      name,
      type,
      size,
      mode: header.mode,
      uid: pax.uid ?? header.uid,
      gid: pax.gid ?? header.gid,
      mtime: pax.mtime ?? header.mtime,
      mtimeNsec: pax.mtimeNsec ?? 0,
      linkName: type === 'symlink' || type === 'hardlink' ? (pax.linkpath ?? header.linkName) : NO_LINK,
      devMajor: header.devMajor,
      devMinor: header.devMinor,
      xattrs: this.#xattrs(own.xattrs),
      headerOffset,
      payloadOffset: this.#source.position,
    };
  }

  /** An entry's attributes: where it has none of its own, the same list for all. */
  #xattrs(own: PaxAttributes['xattrs']): readonly Xattr[] {
    const { xattrs: global } = this.#global;
    if (own === undefined) return (this.#globalXattrs ??= [...(global?.values() ?? [])]);
    return [...(global === undefined ? own : new Map([...global, ...own])).values()];
  }

  /** After one block of zeros: the second, and all that follows. */
  async #end(): Promise<void> {
    this.#ended = true;
    const offset = this.#source.position;
    const second = await this.#source.exactly(TAR_BLOCK, 'the end of the archive');
    if (second !== undefined && second.some((byte) => byte !== 0))
      throw new FormatError('tar', { offset, expected: 'a second block of zeros', found: 'other bytes' });
    while ((await this.#source.some(Number.MAX_SAFE_INTEGER)) !== undefined);
  }
}

const NO_LINK = Buffer.alloc(0);

function untilNul(bytes: Buffer): Buffer {
  const end = bytes.indexOf(0);
  return end < 0 ? bytes : bytes.subarray(0, end);
}
