import { JsonCursor } from './json.js';
import { parseRecord } from './record.js';

const OPEN_BRACE = 0x7b;
const CLOSE_BRACKET = 0x5d;
/** Records that are looked at for where a file ends: what follows on a file may be many directories. */
const MAX_RECORDS = 256;

/** Where a file's members lie in the blob. */
export interface Place {
  readonly start: number;
  /** Where what follows begins. */
  readonly end: number;
}

/** Bytes of a TOC that are looked through for digests, and how they are written there. */
const BEGINNING_BYTES = 32 * 1024;
const DIGEST = /igest":\s?"sha256:([0-9a-f]{64})"/g;

/** The digests of the first files and chunks that a TOC names, up to `count`; fewer of what is no TOC. */
export function digestsFrom(json: Uint8Array, count: number): Uint8Array[] {
  const beginning = Buffer.from(json.buffer, json.byteOffset, Math.min(json.byteLength, BEGINNING_BYTES));
  const found = new Set<string>();
  for (const [, hex] of beginning.toString('latin1').matchAll(DIGEST)) if (found.add(hex).size === count) break;
  return [...found].map((hex) => Buffer.from(hex, 'hex'));
}

/**
 * Where a regular file lies, by a look at a TOC's JSON, long before that is read. A guess, to ask for bytes sooner: a name that is written in
 * another way, or is in the TOC twice, is not found, or found in a wrong place. Undefined where nothing is found.
 */
export function placeOf(json: Uint8Array, name: string): Place | undefined {
  const bytes = Buffer.from(json.buffer, json.byteOffset, json.byteLength);
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
