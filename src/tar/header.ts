import { FormatError } from '../errors.js';
import { bufferOf, roundUp } from '../util/bytes.js';

export const TAR_BLOCK = 512;

/** Bytes that `size` bytes of payload take in the archive. */
export const paddedBytes = (size: number): number => roundUp(size, TAR_BLOCK);

/** The fields of one 512-byte block, before extended headers have their say. */
export interface TarHeader {
  readonly name: Buffer;
  /** The type flag's character; NUL (old archives' regular file) is given as '0'. */
  readonly typeFlag: string;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly size: number;
  readonly mtime: number;
  readonly linkName: Buffer;
  readonly devMajor: number;
  readonly devMinor: number;
}

/**
 * A header block (POSIX.1-1988 ustar, GNU, or the older V7, which ends after linkname), starting at `at` in `bytes`:
 *
 *    0 100 name        100  8 mode      108  8 uid       116  8 gid      124 12 size    136 12 mtime
 *  148   8 checksum    156  1 typeflag  157 100 linkname 257  6 magic    263  2 version
 *  265  32 uname       297 32 gname     329  8 devmajor  337  8 devminor 345 155 prefix (ustar only)
 *
 * Numbers are octal text, or, with the first byte's high bit set, big-endian two's complement.
 * @param offset where the block lies in the archive, for errors
 * @returns copies of nothing: names are views. Undefined for a block of zeros, which ends an archive.
 * @throws FormatError
 */
export function parseTarHeader(bytes: Uint8Array, at: number, offset: number): TarHeader | undefined {
  if (bytes.byteLength - at < TAR_BLOCK)
    throw new FormatError('tar', {
      offset,
      expected: `a header of ${TAR_BLOCK} bytes`,
      found: `${bytes.byteLength - at} bytes`,
    });
  const block = bufferOf(bytes, at, TAR_BLOCK);
  let sum = 0;
  let signed = 0;
  for (let i = 0; i < TAR_BLOCK; i++) {
    const byte = i >= 148 && i < 156 ? 0x20 : block[i];
    sum += byte;
    signed += (byte << 24) >> 24;
  }
  if (sum === 8 * 0x20 && block.every((byte) => byte === 0)) return undefined;
  const claimed = number(block, 148, 8, 'checksum', offset);
  // Some old writers summed signed characters.
  if (claimed !== sum && claimed !== signed)
    throw new FormatError('tar header', { offset, expected: `checksum ${claimed}, as it says`, found: `${sum}` });
  const magic = block.toString('latin1', 257, 263);
  const known = magic === 'ustar\0' || magic === 'ustar ';
  let name = text(block, 0, 100);
  if (magic === 'ustar\0' && block[345] !== 0) name = Buffer.concat([text(block, 345, 155), Buffer.from('/'), name]);
  const typeFlag = block[156] === 0 ? '0' : String.fromCharCode(block[156]);
  const device = known && (typeFlag === '3' || typeFlag === '4');
  return {
    name,
    typeFlag,
    mode: number(block, 100, 8, 'mode', offset) & 0o7777,
    uid: unsigned(number(block, 108, 8, 'uid', offset), 0xffff_ffff, 'uid', offset),
    gid: unsigned(number(block, 116, 8, 'gid', offset), 0xffff_ffff, 'gid', offset),
    size: unsigned(number(block, 124, 12, 'size', offset), Number.MAX_SAFE_INTEGER, 'size', offset),
    mtime: number(block, 136, 12, 'mtime', offset),
    linkName: text(block, 157, 100),
    devMajor: device ? unsigned(number(block, 329, 8, 'devmajor', offset), 0xffff_ffff, 'devmajor', offset) : 0,
    devMinor: device ? unsigned(number(block, 337, 8, 'devminor', offset), 0xffff_ffff, 'devminor', offset) : 0,
  };
}

/** @throws FormatError unless 0 <= value <= max */
export function unsigned(value: number, max: number, field: string, offset: number): number {
  if (!Number.isSafeInteger(value) || value < 0 || value > max)
    throw new FormatError(`tar header, ${field}`, { offset, expected: `0 to ${max}`, found: `${value}` });
  return value;
}

/** A field's bytes up to its first NUL. */
function text(block: Buffer, at: number, length: number): Buffer {
  const field = block.subarray(at, at + length);
  const end = field.indexOf(0);
  return end < 0 ? field : field.subarray(0, end);
}

function number(block: Buffer, at: number, length: number, field: string, offset: number): number {
  if ((block[at] & 0x80) !== 0) return base256(block, at, length, field, offset);
  let value = 0;
  let i = at;
  const end = at + length;
  while (i < end && block[i] === 0x20) i++;
  for (; i < end && block[i] >= 0x30 && block[i] <= 0x37; i++) value = value * 8 + (block[i] - 0x30);
  for (; i < end && (block[i] === 0x20 || block[i] === 0); i++);
  if (i < end)
    throw new FormatError(`tar header, ${field}`, {
      offset: offset + i,
      expected: 'octal digits',
      found: JSON.stringify(block.toString('latin1', at, end)),
    });
  return value;
}

function base256(block: Buffer, at: number, length: number, field: string, offset: number): number {
  const negative = (block[at] & 0x40) !== 0;
  let value = negative ? -1n : 0n;
  value = (value << 6n) | BigInt(block[at] & 0x3f);
  for (let i = at + 1; i < at + length; i++) value = (value << 8n) | BigInt(block[i]);
  const result = Number(value);
  if (!Number.isSafeInteger(result))
    throw new FormatError(`tar header, ${field}`, {
      offset: offset + at,
      expected: 'a number of at most 53 bits',
      found: `${value}`,
    });
  return result;
}
