import type { TocEntry } from '../toc/entry.js';
import { bufferOf } from '../util/bytes.js';
import { paddedBytes, TAR_BLOCK } from './header.js';

const typeFlags = { reg: '0', hardlink: '1', symlink: '2', char: '3', block: '4', dir: '5', fifo: '6' } as const;

/** The two blocks of zeros at an archive's end. */
export const TAR_END: Buffer = Buffer.alloc(2 * TAR_BLOCK);

/** What a header says of an entry; chunks are of no concern to it. */
export type TarAttributes = Omit<TocEntry, 'chunks'>;

/**
 * An entry's header: one ustar block, before it a pax header with what does not fit in: long names, names that are not ASCII,
 * attributes, ids from 2^21, sizes from 8 GiB, times with a fraction or before 1970.
 */
export function encodeTarHeader(entry: TarAttributes): Buffer {
  const records: Buffer[] = [];
  const pax = (key: string, value: Uint8Array | string) => records.push(paxRecord(key, value));
  const name = fits(entry.name, 100) ? entry.name : (pax('path', entry.name), entry.name.subarray(0, 100));
  const link = fits(entry.linkName, 100) ? entry.linkName : (pax('linkpath', entry.linkName), NO_BYTES);
  const number = (key: string, value: number, digits: number): number => {
    if (value < 8 ** digits) return value;
    pax(key, String(value));
    return 0;
  };
  const uid = number('uid', entry.uid, 7);
  const gid = number('gid', entry.gid, 7);
  const size = number('size', entry.size, 11);
  let { mtime } = entry;
  if (entry.mtimeNsec !== 0 || mtime < 0 || mtime >= 8 ** 11) {
    pax('mtime', paxTime(mtime, entry.mtimeNsec));
    mtime = 0;
  }
  for (const { name: key, value } of entry.xattrs) pax(`SCHILY.xattr.${bufferOf(key).toString('latin1')}`, value);
  const own = block({ ...entry, name, linkName: link, uid, gid, size, mtime }, typeFlags[entry.type]);
  if (records.length === 0) return own;
  const extended = Buffer.concat(records);
  const before = block(
    {
      ...entry,
      name: Buffer.from('PaxHeaders/entry'),
      linkName: NO_BYTES,
      mode: 0o644,
      uid: 0,
      gid: 0,
      mtime: 0,
      size: extended.length,
    },
    'x',
  );
  return Buffer.concat([before, extended, tarPadding(extended.byteLength), own]);
}

/** The zeros that fill up the last block of a payload of `size` bytes. */
export function tarPadding(size: number): Buffer {
  return TAR_END.subarray(0, paddedBytes(size) - size);
}

const NO_BYTES = Buffer.alloc(0);

/** ASCII only: other bytes are told in a pax record, where no reader takes them for an encoding's. */
function fits(name: Buffer, length: number): boolean {
  return name.byteLength <= length && name.every((byte) => byte < 0x80);
}

function paxRecord(key: string, value: Uint8Array | string): Buffer {
  const body = Buffer.concat([Buffer.from(` ${key}=`, 'latin1'), Buffer.from(value as string), Buffer.from('\n')]);
  let length = body.byteLength;
  // The length counts its own digits.
  while (String(length).length + body.byteLength !== length) length = String(length).length + body.byteLength;
  return Buffer.concat([Buffer.from(String(length)), body]);
}

function paxTime(seconds: number, nanoseconds: number): string {
  const negative = seconds < 0;
  const borrow = negative && nanoseconds > 0;
  const whole = negative ? -seconds - (borrow ? 1 : 0) : seconds;
  const fraction = borrow ? 1_000_000_000 - nanoseconds : nanoseconds;
  return `${negative ? '-' : ''}${whole}${fraction === 0 ? '' : `.${String(fraction).padStart(9, '0')}`}`;
}

function block(entry: TarAttributes, typeFlag: string): Buffer {
  const out = Buffer.alloc(TAR_BLOCK);
  const octal = (at: number, digits: number, value: number) =>
    out.write(value.toString(8).padStart(digits, '0'), at, 'latin1');
  out.set(entry.name, 0);
  octal(100, 7, entry.mode);
  octal(108, 7, entry.uid);
  octal(116, 7, entry.gid);
  octal(124, 11, entry.size);
  octal(136, 11, entry.mtime);
  out.fill(0x20, 148, 156);
  out.write(typeFlag, 156, 'latin1');
  out.set(entry.linkName, 157);
  out.write('ustar\x0000', 257, 'latin1');
  octal(329, 7, entry.devMajor);
  octal(337, 7, entry.devMinor);
  let sum = 0;
  for (const byte of out) sum += byte;
  octal(148, 6, sum);
  out[154] = 0;
  return out;
}
