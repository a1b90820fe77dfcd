import { FormatError } from '../errors.js';
import type { Digest } from '../digest/digest.js';
import { TreeBuilder } from '../toc/builder.js';
import { MAX_CHUNK_BYTES, NO_DIGEST, type TocChunk, type TocEntry, type Xattr } from '../toc/entry.js';
import { showName } from '../toc/names.js';
import type { Tree } from '../toc/tree.js';
import { bufferOf } from '../util/bytes.js';
import { JsonCursor } from './json.js';
import { parseRecord, type TocRecord } from './record.js';

export interface TocOptions {
  /** Take chunks that claim no digest, as `NO_DIGEST`: only for a layer that is not verified at all. */
  readonly allowMissingDigests?: boolean;
}

const OPEN_BRACE = 0x7b;
const CLOSE_BRACE = 0x7d;
const OPEN_BRACKET = 0x5b;
const CLOSE_BRACKET = 0x5d;
const COLON = 0x3a;

/**
 * The entries of a TOC, `{"version":1,"entries":[...]}`, one at a time and straight from the JSON's bytes, so that memory does
 * not grow with the TOC. A file's `chunk` records become its chunks.
 * @throws FormatError with the offset in the JSON, or the entry's name
 */
export class TocParser implements Iterable<TocEntry> {
  readonly #json: JsonCursor;
  readonly #allowMissing: boolean;
  #version: number | undefined;
  #inEntries = false;
  #seen = false;
  #first = true;
  #ahead: TocRecord | undefined;

  constructor(json: Uint8Array, options?: TocOptions) {
    this.#json = new JsonCursor(bufferOf(json), 'TOC');
    this.#allowMissing = options?.allowMissingDigests === true;
    this.#json.expect(OPEN_BRACE);
    this.#members(true);
    this.#ahead = this.#record();
  }

  *[Symbol.iterator](): Generator<TocEntry, void, undefined> {
    for (let entry = this.next(); entry !== undefined; entry = this.next()) yield entry;
  }

  /** The next entry, or undefined after the last one. */
  next(): TocEntry | undefined {
    const record = this.#ahead;
    if (record === undefined) return undefined;
    if (record.type === 'chunk') fail(record, 'a chunk after its file', 'one before any file');
    const { type } = record;
    const chunks: TocChunk[] = [];
    this.#ahead = this.#record();
    if (type === 'reg') this.#chunks(record, chunks);
    return {
      name: record.name,
      type,
      size: type === 'reg' ? record.size : 0,
      mode: record.mode & 0o7777,
      uid: record.uid,
      gid: record.gid,
      mtime: record.mtime,
      mtimeNsec: record.mtimeNsec,
      linkName: record.linkName,
      devMajor: record.devMajor,
      devMinor: record.devMinor,
      xattrs: record.xattrs ?? NO_XATTRS,
      digest: record.digest,
      chunks,
    };
  }

  #chunks(file: TocRecord, chunks: TocChunk[]): void {
    let place = 0;
    let chunk = file;
    for (;;) {
      const size = chunk.chunkSize === 0 ? file.size - place : chunk.chunkSize;
      if (file.size > 0) {
        if (chunk.chunkOffset !== place) fail(chunk, `a chunk at ${place} of the file`, `${chunk.chunkOffset}`);
        if (size <= 0 || place + size > file.size)
          fail(chunk, `chunks of ${file.size} bytes in all`, `one of ${size} bytes at ${place}`);
        if (size > MAX_CHUNK_BYTES) fail(chunk, `chunks of at most ${MAX_CHUNK_BYTES} bytes`, `${size}`);
        chunks.push({
          offset: chunk.offset,
          innerOffset: chunk.innerOffset,
          size,
          digest: this.#digest(chunk, file, size),
        });
        place += size;
      } else if (chunk !== file) fail(chunk, 'no chunks of an empty file', 'one');
      const next = this.#ahead;
      if (next?.type !== 'chunk') break;
      if (next.name.byteLength > 0 && !next.name.equals(file.name))
        fail(next, `a chunk of ${showName(file.name)}`, 'one of another file');
      chunk = next;
      this.#ahead = this.#record();
    }
    if (place !== file.size) fail(file, `chunks of ${file.size} bytes in all`, `${place}`);
  }

  #digest(chunk: TocRecord, file: TocRecord, size: number): Uint8Array {
    if (chunk.chunkDigest !== undefined) return chunk.chunkDigest;
    if (size === file.size && file.digest !== undefined) return file.digest;
    if (this.#allowMissing) return NO_DIGEST;
    return fail(chunk, 'a chunkDigest', `none for the chunk at ${chunk.chunkOffset}`);
  }

  #record(): TocRecord | undefined {
    if (!this.#inEntries) return undefined;
    if (this.#json.more(this.#first, CLOSE_BRACKET)) {
      this.#first = false;
      return parseRecord(this.#json);
    }
    this.#inEntries = false;
    this.#members(false);
    return undefined;
  }

  /** Goes through the top object's members up to the entries, or to its end. */
  #members(first: boolean): void {
    const json = this.#json;
    for (; json.more(first, CLOSE_BRACE); first = false) {
      const at = json.at;
      const key = json.string().toString('latin1');
      json.expect(COLON);
      if (key === 'version') {
        this.#version = json.number();
        if (this.#version !== 1)
          throw new FormatError('TOC', { offset: at, expected: 'version 1', found: `${this.#version}` });
      } else if (key === 'entries' && !json.null()) {
        if (this.#seen) json.fail('one list of entries', at);
        json.expect(OPEN_BRACKET);
        this.#inEntries = this.#seen = true;
        return;
      } else if (key !== 'entries') json.skip();
    }
    if (this.#version === undefined) throw new FormatError('TOC', { expected: 'version 1', found: 'none' });
    if (json.peek() !== -1) json.fail('the end');
  }
}

const NO_XATTRS: readonly Xattr[] = [];

function fail(record: TocRecord, expected: string, found: string): never {
  throw new FormatError(`TOC entry ${showName(record.name)}`, { offset: record.at, expected, found });
}

/**
 * The tree of a layer, from its TOC's JSON. Pure: fit for a worker thread.
 * @param contentEnd byte in the blob where the TOC begins
 * @throws FormatError
 */
export function treeFromToc(json: Uint8Array, facts: { tocDigest: Digest; contentEnd: number } & TocOptions): Tree {
  const builder = new TreeBuilder('TOC');
  const parser = new TocParser(json, facts);
  for (let entry = parser.next(); entry !== undefined; entry = parser.next()) builder.add(entry);
  return builder.build({ source: facts.tocDigest, contentEnd: facts.contentEnd });
}
