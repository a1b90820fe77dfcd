import { FormatError } from '../errors.js';
import { NO_BYTES, type EntryType, type Xattr } from '../toc/entry.js';
import { Words, type JsonCursor } from './json.js';
import { parseRfc3339, type Time } from './time.js';

/** One object of a TOC's `entries`, as written: of a file, or of a further chunk of the file before it. */
export interface TocRecord {
  /** Byte in the JSON where the object begins. */
  at: number;
  name: Buffer;
  type: EntryType | 'chunk';
  size: number;
  mode: number;
  uid: number;
  gid: number;
  mtime: number;
  mtimeNsec: number;
  linkName: Buffer;
  devMajor: number;
  devMinor: number;
  xattrs: Xattr[] | undefined;
  digest: Uint8Array | undefined;
  offset: number;
  innerOffset: number;
  chunkOffset: number;
  chunkSize: number;
  chunkDigest: Uint8Array | undefined;
}

const CLOSE = 0x7d;
const COLON = 0x3a;

type Setter = (record: TocRecord, json: JsonCursor) => void;

/** A whole number in [0, max]. */
function integer(json: JsonCursor, max = Number.MAX_SAFE_INTEGER): number {
  json.peek();
  const at = json.at;
  const value = json.number();
  if (!Number.isSafeInteger(value) || value < 0 || value > max) json.fail(`a whole number from 0 to ${max}`, at);
  return value;
}

const U32 = 0xffff_ffff;

const types = new Words<TocRecord['type']>(
  (['dir', 'reg', 'symlink', 'hardlink', 'char', 'block', 'fifo', 'chunk'] as const).map((type) => [type, type]),
);

function setType(record: TocRecord, json: JsonCursor): void {
  json.peek();
  const { at } = json;
  record.type = json.word(types) ?? json.fail('a known type', at);
}

const setters = new Words<Setter>(
  Object.entries<Setter>({
    name: (r, json) => (r.name = json.string()),
    type: setType,
    size: (r, json) => (r.size = integer(json)),
    modtime: (r, json) => {
      const time = json.parsed(modtime, 'an RFC 3339 time', 20);
      r.mtime = time.seconds;
      r.mtimeNsec = time.nanoseconds;
    },
    linkName: (r, json) => (r.linkName = json.string()),
    mode: (r, json) => (r.mode = integer(json) % 0o10000),
    uid: (r, json) => (r.uid = integer(json, U32)),
    gid: (r, json) => (r.gid = integer(json, U32)),
    devMajor: (r, json) => (r.devMajor = integer(json, U32)),
    devMinor: (r, json) => (r.devMinor = integer(json, U32)),
    xattrs: (r, json) => (r.xattrs = xattrs(json)),
    digest: (r, json) => (r.digest = sha256(json)),
    offset: (r, json) => (r.offset = integer(json)),
    innerOffset: (r, json) => (r.innerOffset = integer(json, U32)),
    chunkOffset: (r, json) => (r.chunkOffset = integer(json)),
    chunkSize: (r, json) => (r.chunkSize = integer(json)),
    chunkDigest: (r, json) => (r.chunkDigest = sha256(json, r.digest)),
  }),
);

/** Reads the object at the cursor. Members that are not known, names of users and groups among them, are passed over. */
export function parseRecord(json: JsonCursor): TocRecord {
  json.expect(0x7b);
  const record: TocRecord = {
    at: json.at - 1,
    name: NO_BYTES,
    type: 'reg',
    size: 0,
    mode: 0,
    uid: 0,
    gid: 0,
    mtime: 0,
    mtimeNsec: 0,
    linkName: NO_BYTES,
    devMajor: 0,
    devMinor: 0,
    xattrs: undefined,
    digest: undefined,
    offset: 0,
    innerOffset: 0,
    chunkOffset: 0,
    chunkSize: 0,
    chunkDigest: undefined,
  };
  let typed = false;
  for (let first = true; json.more(first, CLOSE); first = false) {
    const set = json.word(setters);
    json.expect(COLON);
    if (set === undefined) json.skip();
    else if (!json.null()) {
      set(record, json);
      typed ||= set === setType;
    }
  }
  if (!typed) throw new FormatError('TOC', { offset: record.at, expected: 'an entry with a type', found: 'none' });
  if (record.name.byteLength === 0 && record.type !== 'chunk')
    throw new FormatError('TOC', { offset: record.at, expected: 'an entry with a name', found: 'none' });
  return record;
}

const EXPECTED_SHA256 = 'sha256: and 64 lower-case hex digits';
/** What the last `rawSha256` read. */
const scratch = Buffer.alloc(32);

/** `sha256:` and 64 hex digits as raw bytes; undefined for an empty text. `likely` is given again where it has the same. */
function sha256(json: JsonCursor, likely?: Uint8Array): Uint8Array | undefined {
  const bytes = json.parsed(rawSha256, EXPECTED_SHA256, 71);
  if (bytes === 0) return undefined;
  if (likely !== undefined && isScratch(likely)) return likely;
  return Buffer.from(scratch);
}

function isScratch(bytes: Uint8Array): boolean {
  for (let i = 0; i < 32; i++) if (bytes[i] !== scratch[i]) return false;
  return true;
}

/** Gives the bytes that it put in `scratch`; undefined where the text is none. */
function rawSha256(text: Uint8Array, start: number, end: number): number | undefined {
  if (start === end) return 0;
  if (end - start !== 71) return undefined;
  for (let i = 0; i < 7; i++) if (text[start + i] !== PREFIX[i]) return undefined;
  for (let i = 0, at = start + 7; i < 32; i++, at += 2) {
    const byte = (nibble[text[at]] << 4) | nibble[text[at + 1]];
    if (byte < 0) return undefined;
    scratch[i] = byte;
  }
  return 32;
}

/** An absent time is 1970. */
function modtime(text: Uint8Array, start: number, end: number): Time | undefined {
  return start === end ? EPOCH : parseRfc3339(text, start, end);
}

const EPOCH: Time = { seconds: 0, nanoseconds: 0 };
const PREFIX = Buffer.from('sha256:');
const nibble = Int16Array.from({ length: 256 }, (_, c) => '0123456789abcdef'.indexOf(String.fromCharCode(c)));

function xattrs(json: JsonCursor): Xattr[] {
  const list: Xattr[] = [];
  json.expect(0x7b);
  for (let first = true; json.more(first, CLOSE); first = false) {
    const name = json.string();
    json.expect(COLON);
    if (json.null()) list.push({ name, value: NO_BYTES });
    else {
      const at = json.at;
      const text = json.string().toString('latin1');
      if (text.length % 4 !== 0 || !/^[A-Za-z0-9+/]*={0,2}$/.test(text)) json.fail('base64', at);
      list.push({ name, value: Buffer.from(text, 'base64') });
    }
  }
  return list;
}
