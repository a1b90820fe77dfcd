import { FormatError } from '../errors.js';
import type { Xattr } from '../toc/entry.js';

/** What extended headers may say of the entry that follows them. Absent members leave the header block its word. */
export interface PaxAttributes {
  path?: Buffer;
  linkpath?: Buffer;
  size?: number;
  uid?: number;
  gid?: number;
  mtime?: number;
  mtimeNsec?: number;
  /** By name, one character a byte. */
  xattrs?: Map<string, Xattr>;
}

const SCHILY = 'SCHILY.xattr.';
const LIBARCHIVE = 'LIBARCHIVE.xattr.';

/**
 * Reads the records of an extended header (POSIX.1-2001 pax): `<length> <keyword>=<value>\n`, where length counts the whole
 * record. Values are bytes and may hold newlines and NULs. Later records win; an empty value takes a keyword back.
 * @param offset where the records lie in the archive, for errors
 * @throws FormatError, also for sparse files, which need what no layer has
 */
export function parsePax(records: Buffer, offset: number, into: PaxAttributes): void {
  for (let at = 0; at < records.byteLength;) {
    const place = offset + at;
    const space = records.indexOf(0x20, at);
    const digits = space < 0 ? '' : records.toString('latin1', at, space);
    const end = /^[0-9]{1,10}$/.test(digits) ? at + Number(digits) : NaN;
    const equals = records.indexOf(0x3d, space);
    if (!(end <= records.byteLength) || records[end - 1] !== 0x0a || equals < 0 || equals >= end)
      throw new FormatError('pax record', {
        offset: place,
        expected: '"length keyword=value" and a newline',
        found: JSON.stringify(records.toString('latin1', at, at + 32)),
      });
    set(into, records.toString('latin1', space + 1, equals), records.subarray(equals + 1, end - 1), place);
    at = end;
  }
}

function set(into: PaxAttributes, key: string, value: Buffer, offset: number): void {
  const empty = value.byteLength === 0;
  if (key === 'path') into.path = empty ? undefined : value;
  else if (key === 'linkpath') into.linkpath = empty ? undefined : value;
  else if (key === 'size') into.size = empty ? undefined : integer(key, value, Number.MAX_SAFE_INTEGER, offset);
  else if (key === 'uid') into.uid = empty ? undefined : integer(key, value, 0xffff_ffff, offset);
  else if (key === 'gid') into.gid = empty ? undefined : integer(key, value, 0xffff_ffff, offset);
  else if (key === 'mtime') {
    if (empty) into.mtime = into.mtimeNsec = undefined;
    else setTime(into, value, offset);
  } else if (key.startsWith(SCHILY)) addXattr(into, Buffer.from(key.slice(SCHILY.length), 'latin1'), value);
  else if (key.startsWith(LIBARCHIVE))
    addXattr(into, percentDecoded(key.slice(LIBARCHIVE.length)), Buffer.from(value.toString('latin1'), 'base64'));
  else if (key.startsWith('GNU.sparse.'))
    throw new FormatError('pax record', { offset, expected: 'no sparse file: layers hold none', found: key });
}

/** GNU tar and Go write both forms of one attribute side by side: the last one stands. */
function addXattr(into: PaxAttributes, name: Buffer, value: Buffer): void {
  const key = name.toString('latin1');
  into.xattrs ??= new Map();
  into.xattrs.delete(key);
  into.xattrs.set(key, { name, value });
}

function integer(key: string, value: Buffer, max: number, offset: number): number {
  const text = value.toString('latin1');
  const n = /^[0-9]{1,16}$/.test(text) ? Number(text) : NaN;
  if (!(n <= max))
    throw new FormatError(`pax record, ${key}`, { offset, expected: `0 to ${max}`, found: JSON.stringify(text) });
  return n;
}

/** Seconds with a fraction, rounded down to nanoseconds: -1.25 is second -2 and 750,000,000 ns. */
function setTime(into: PaxAttributes, value: Buffer, offset: number): void {
  const text = value.toString('latin1');
  const match = /^(-?)([0-9]{1,15})(?:\.([0-9]*))?$/.exec(text);
  if (match === null)
    throw new FormatError('pax record, mtime', { offset, expected: 'decimal seconds', found: JSON.stringify(text) });
  const [, sign, whole, fraction = ''] = match;
  const nanoseconds = Number(fraction.slice(0, 9).padEnd(9, '0'));
  if (sign === '') {
    into.mtime = Number(whole);
    into.mtimeNsec = nanoseconds;
    return;
  }
  into.mtime = 0 - Number(whole) - (nanoseconds > 0 ? 1 : 0);
  into.mtimeNsec = nanoseconds > 0 ? 1_000_000_000 - nanoseconds : 0;
}

function percentDecoded(text: string): Buffer {
  const plain = text.replace(/%([0-9a-fA-F]{2})/g, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)));
  return Buffer.from(plain, 'latin1');
}
