import { FormatError } from '../errors.js';
import { NO_BYTES, type Xattr } from '../toc/entry.js';
import type { JsonCursor } from './json.js';
import { parseRfc3339 } from './time.js';

/** One object of a TOC's `entries`, as written: of a file, or of a further chunk of the file before it. */
export interface TocRecord {
  /** Byte in the JSON where the object begins. */
  at: number;
  name: Buffer;
  type: string;
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
// One string for each type, not one for each record.
const types = ['dir', 'reg', 'symlink', 'hardlink', 'char', 'block', 'fifo', 'chunk'];
const typeByBytes = types.map((type) => ({ type, bytes: Buffer.from(type) }));

const setters: Readonly<Record<string, Setter>> = {
  name: (r, json) => (r.name = json.string()),
  type: (r, json) => {
    const bytes = json.string();
    r.type = typeByBytes.find((known) => known.bytes.equals(bytes))?.type ?? bytes.toString('utf8');
  },
  size: (r, json) => (r.size = integer(json)),
  modtime: (r, json) => {
    json.peek();
    const at = json.at;
    const text = json.string();
    if (text.byteLength === 0) return;
    const time = parseRfc3339(text);
    if (time === undefined) return json.fail('an RFC 3339 time', at);
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
  chunkDigest: (r, json) => (r.chunkDigest = sha256(json)),
};

/** The key's number: cheap, and different for every key known. */
const keyHash = (key: Uint8Array): number => {
  let h = key.length;
  for (let i = 0; i < key.length; i++) h = (Math.imul(h, 31) + key[i]) | 0;
  return h;
};

const settersByHash = new Map(
  Object.entries(setters).map(([key, set]) => {
    const bytes = Buffer.from(key);
    return [keyHash(bytes), { bytes, set }];
  }),
);

/** Reads the object at the cursor. Members that are not known, names of users and groups among them, are passed over. */
export function parseRecord(json: JsonCursor): TocRecord {
  json.expect(0x7b);
  const record: TocRecord = {
    at: json.at - 1,
    name: NO_BYTES,
    type: '',
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
  for (let first = true; json.more(first, CLOSE); first = false) {
    const key = json.string();
    json.expect(COLON);
    const known = settersByHash.get(keyHash(key));
    if (known === undefined || !known.bytes.equals(key)) json.skip();
    else if (!json.null()) known.set(record, json);
  }
  if (record.name.byteLength === 0 && record.type !== 'chunk')
    throw new FormatError('TOC', { offset: record.at, expected: 'an entry with a name', found: 'none' });
  return record;
}

/** `sha256:` and 64 hex digits as raw bytes; undefined for an empty text. */
function sha256(json: JsonCursor): Uint8Array | undefined {
  json.peek();
  const at = json.at;
  const text = json.string();
  if (text.byteLength === 0) return undefined;
  const raw = Buffer.allocUnsafe(32);
  let ok = text.byteLength === 71 && text.compare(PREFIX, 0, 7, 0, 7) === 0;
  for (let i = 0; ok && i < 32; i++) {
    const byte = (nibble[text[7 + 2 * i]] << 4) | nibble[text[8 + 2 * i]];
    ok = byte >= 0;
    raw[i] = byte;
  }
  if (!ok) json.fail('sha256: and 64 lower-case hex digits', at);
  return raw;
}

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
