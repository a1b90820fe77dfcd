import { TAR_BLOCK } from '../tar/header.js';
import { bufferOf } from '../util/bytes.js';
import { JsonCursor } from './json.js';
import { inflateBeginning } from './member.js';
import { TOC_NAME } from './open.js';
import { parseRecord } from './record.js';

const OPEN_BRACE = 0x7b;
const CLOSE_BRACKET = 0x5d;
/** Records that are looked at for where a file ends: what follows on a file may be many directories. */
const MAX_RECORDS = 256;

/** Of a TOC's JSON, what names are looked for in: some 50,000 files, which takes some milliseconds. */
const LOOKED_BYTES = 16 * 1024 * 1024;

/** Where a file's members lie in the blob. */
export interface Place {
  readonly start: number;
  /** Where what follows begins. */
  readonly end: number;
}

/** Bytes of a TOC that are looked through for digests, and how they are written there. */
const BEGINNING_BYTES = 32 * 1024;
const DIGEST = /igest":\s?"sha256:([0-9a-f]{64})"/g;

/** Where the last offset is looked for: an entry takes a few hundred bytes, one without content as many. */
const LAST_BYTES = 16 * 1024;
const OFFSET = /"offset":\s?(\d+)[,\s}]/g;

/** The digests of the first files and chunks that a TOC names, up to `count`; fewer of what is no TOC. */
export function digestsFrom(json: Uint8Array, count: number): Uint8Array[] {
  const beginning = bufferOf(json, 0, Math.min(json.byteLength, BEGINNING_BYTES));
  const found = new Set<string>();
  for (const [, hex] of beginning.toString('latin1').matchAll(DIGEST)) if (found.add(hex).size === count) break;
  return [...found].map((hex) => Buffer.from(hex, 'hex'));
}

/**
 * Where a regular file lies, by a look at a TOC's JSON, long before that is read. A guess, to ask for bytes sooner: a name that is written in
 * another way, is in the TOC twice or far from its beginning, is not found, or found in a wrong place. Undefined where nothing is found.
 */
export function placeOf(json: Uint8Array, name: string): Place | undefined {
  const bytes = bufferOf(json, 0, Math.min(json.byteLength, LOOKED_BYTES));
  const at = bytes.indexOf(`"${name}"`);
  if (at < 0) return undefined;
  try {
    const cursor = new JsonCursor(bytes, 'TOC');
    cursor.at = bytes.lastIndexOf(OPEN_BRACE, at);
    const { type, offset, name: found } = parseRecord(cursor);
    if (type !== 'reg' || found.toString('latin1') !== name) return undefined;
    for (let i = 0; i < MAX_RECORDS && cursor.more(false, CLOSE_BRACKET); i++) {
      const next = parseRecord(cursor);
      if (next.offset > offset) return { start: offset, end: next.offset };
    }
  } catch {
    // Whoever reads all of it tells what is wrong.
  }
  return undefined;
}

/** Where the last file or chunk lies of those that the beginning of a TOC's JSON names; -1 where that cannot be told. A guess, too. */
export function lastOffset(beginning: Uint8Array): number {
  const end = bufferOf(beginning).subarray(-LAST_BYTES);
  return Number([...end.toString('latin1').matchAll(OFFSET)].at(-1)?.[1] ?? -1);
}

/** How a gzip member of deflate begins (RFC 1952, 2.3.1). */
const MEMBER = Buffer.from([0x1f, 0x8b, 0x08]);
/** Compressed bytes within which the header of the TOC's file is there. */
const HEADER_INPUT_BYTES = 1024;
/** Of a TOC's JSON, what is looked at before all of it has come: some 500 files. */
const GLANCED_BYTES = 256 * 1024;

/**
 * The beginning of a TOC, as far as it is in what has come of its blob's end so far. Nothing of it is verified: it may decide what is asked for,
 * and nothing else.
 */
export class TocGlance {
  /** Where the search for the TOC's member goes on. */
  #from = 0;
  #found = false;

  /** Where the TOC's member begins in `come`, and the JSON that is in what is there of it; undefined where there is none yet. `come` is what it was the last time, and more. */
  look(come: Uint8Array): { readonly at: number; readonly json: Uint8Array } | undefined {
    const bytes = bufferOf(come);
    while (!this.#found) {
      const at = bytes.indexOf(MEMBER, this.#from);
      this.#from = at < 0 ? Math.max(this.#from, bytes.byteLength - MEMBER.byteLength + 1) : at;
      if (at < 0 || bytes.byteLength - at < HEADER_INPUT_BYTES) return undefined;
      this.#found =
        beginning(bytes.subarray(at, at + HEADER_INPUT_BYTES), TAR_BLOCK).toString('latin1', 0, TOC_NAME.length + 1) ===
        `${TOC_NAME}\0`;
      if (!this.#found) this.#from++;
    }
    const json = beginning(bytes.subarray(this.#from), GLANCED_BYTES).subarray(TAR_BLOCK);
    return { at: this.#from, json };
  }
}

function beginning(member: Uint8Array, most: number): Buffer {
  const out = Buffer.allocUnsafe(most);
  try {
    return out.subarray(0, inflateBeginning(member, out).byteLength);
  } catch {
    return out.subarray(0, 0); // three bytes that only look like a member, or one that whoever reads it tells of
  }
}
