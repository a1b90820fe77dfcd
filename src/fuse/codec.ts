import { endianness } from 'node:os';
import { LazylayerError } from '../errors.js';
import { NAME_MAX } from '../fs/served-tree.js';
import type { Attributes, DirectoryEntry, Statistics } from '../fs/nodes.js';

/*
 * The kernel's FUSE protocol, version 7, as uapi/linux/fuse.h lays it out: native byte order, every structure a multiple of 8
 * bytes. Requests and replies are seen as 32-bit words, so that no field costs an allocation; a u64 is two words, low first.
 * That fixes the byte order to little-endian, which `checkByteOrder` holds.
 */

export const Opcode = {
  LOOKUP: 1,
  FORGET: 2,
  GETATTR: 3,
  SETATTR: 4,
  READLINK: 5,
  SYMLINK: 6,
  MKNOD: 8,
  MKDIR: 9,
  UNLINK: 10,
  RMDIR: 11,
  RENAME: 12,
  LINK: 13,
  READ: 15,
  WRITE: 16,
  STATFS: 17,
  SETXATTR: 21,
  GETXATTR: 22,
  LISTXATTR: 23,
  REMOVEXATTR: 24,
  INIT: 26,
  READDIR: 28,
  CREATE: 35,
  INTERRUPT: 36,
  DESTROY: 38,
  BATCH_FORGET: 42,
  FALLOCATE: 43,
  READDIRPLUS: 44,
  RENAME2: 45,
  TMPFILE: 51,
} as const;

/** Negated, in the error field of a message with unique 0. */
export const Notification = { INVAL_INODE: 2, INVAL_ENTRY: 3, RESEND: 7 } as const;

const InitFlag = {
  ASYNC_READ: 1 << 0,
  DO_READDIRPLUS: 1 << 13,
  NO_OPEN_SUPPORT: 1 << 17,
  PARALLEL_DIROPS: 1 << 18,
  ABORT_ERROR: 1 << 21,
  MAX_PAGES: 1 << 22,
  CACHE_SYMLINKS: 1 << 23,
  NO_OPENDIR_SUPPORT: 1 << 24,
  EXPLICIT_INVAL_DATA: 1 << 25,
  INIT_EXT: 1 << 30,
} as const;

/** Of flags2, which counts from bit 32 on. */
const InitFlag2 = {
  /** Mounts of the filesystem may be id-mapped; the kernel demands the mount option `default_permissions`. Linux 6.12 and later. */
  ALLOW_IDMAP: 1 << 8,
} as const;

/** What this server asks of the kernel; it gets what the kernel offers of it. */
const wantedFlags = Object.values(InitFlag).reduce((all, flag) => all | flag, 0);
const wantedFlags2 = InitFlag2.ALLOW_IDMAP;

export const PROTOCOL_MAJOR = 7;
export const PROTOCOL_MINOR = 45;
/** Below this minor the structures are shorter than those here. */
export const OLDEST_MINOR = 31;

export const IN_HEADER = 40;
export const OUT_HEADER = 16;
export const ATTR = 88;
export const ENTRY_OUT = 40 + ATTR;
export const DIRENT = 24;

/** Seconds that stand for ever: the most that old kernels take without overflow. */
export const FOREVER = 0x7fff_ffff;

/** Largest READ that the kernel sends: 256 pages. */
export const MAX_READ = 256 * 4096;
const MAX_WRITE = 4096;

/** @throws UNSUPPORTED on a big-endian machine. */
export function checkByteOrder(): void {
  if (endianness() !== 'LE')
    throw new LazylayerError('UNSUPPORTED', 'the kernel backend works on little-endian machines only: use fuse-native');
}

/** What kernel and server agreed on. */
export interface Negotiated {
  /** Protocol minor that both speak. */
  readonly minor: number;
  /** The kernel's flags that this server took. */
  readonly flags: number;
  /** The same of flags2. */
  readonly flags2: number;
}

/** Whether the mounts of this connection can be id-mapped. */
export function allowsIdmap({ flags2 }: Negotiated): boolean {
  return (flags2 & InitFlag2.ALLOW_IDMAP) !== 0;
}

/*
 * fuse_in_header                          fuse_out_header
 *    0 4 len       4 4 opcode                0 4 len   4 4 error (negated errno)
 *    8 8 unique   16 8 nodeid                8 8 unique
 *   24 4 uid      28 4 gid
 *   32 4 pid      36 2 total_extlen  38 2 padding
 */

/** Memory for messages, seen as bytes and as words. */
export class Message {
  readonly bytes: Buffer;
  readonly words: Uint32Array;

  constructor(readonly capacity: number) {
    const memory = new ArrayBuffer(capacity);
    this.bytes = Buffer.from(memory);
    this.words = new Uint32Array(memory);
  }
}

/** Writes a reply's header. `error` is 0 or a negated errno; unique is echoed as its two words. */
export function putHeader(
  words: Uint32Array,
  length: number,
  error: number,
  uniqueLow: number,
  uniqueHigh: number,
): void {
  words[0] = length;
  words[1] = error;
  words[2] = uniqueLow;
  words[3] = uniqueHigh;
}

/** A u64, or an i64 in two's complement, of at most 53 bits. `at` counts words. */
export function putU64(words: Uint32Array, at: number, value: number): void {
  words[at] = value;
  words[at + 1] = Math.floor(value / 2 ** 32);
}

export function getU64(words: Uint32Array, at: number): number {
  return words[at + 1] * 2 ** 32 + words[at];
}

/** A unique as a number. They count up from 0, and bit 63 marks a request that is sent again: without it they are exact. */
export function uniqueOf(uniqueLow: number, uniqueHigh: number): number {
  return (uniqueHigh & 0x7fff_ffff) * 2 ** 32 + uniqueLow;
}

/** Whether the kernel sends the request again, since it had no answer by the process before. */
export function isResent(uniqueHigh: number): boolean {
  return uniqueHigh >>> 31 === 1;
}

/*
 * fuse_attr, by words
 *    0 ino   2 size   4 blocks (512 bytes)   6 atime   8 mtime   10 ctime
 *   12 atimensec  13 mtimensec  14 ctimensec  15 mode  16 nlink  17 uid  18 gid  19 rdev  20 blksize  21 flags
 */
export function putAttributes(words: Uint32Array, at: number, a: Attributes): void {
  putU64(words, at, a.node);
  putU64(words, at + 2, a.size);
  putU64(words, at + 4, Math.ceil(a.size / 512));
  putU64(words, at + 6, a.mtime);
  putU64(words, at + 8, a.mtime);
  putU64(words, at + 10, a.mtime);
  words[at + 12] = a.mtimeNsec;
  words[at + 13] = a.mtimeNsec;
  words[at + 14] = a.mtimeNsec;
  words[at + 15] = a.mode;
  words[at + 16] = a.nlink;
  words[at + 17] = a.uid;
  words[at + 18] = a.gid;
  words[at + 19] = a.rdev;
  words[at + 20] = 4096;
  words[at + 21] = 0;
}

/*
 * fuse_entry_out, by words: 0 nodeid  2 generation  4 entry_valid  6 attr_valid  8 entry_valid_nsec  9 attr_valid_nsec  10 attr
 */
export function putEntry(words: Uint32Array, at: number, a: Attributes, entryValid: number, attrValid: number): void {
  putU64(words, at, a.node);
  putU64(words, at + 2, 0);
  putU64(words, at + 4, entryValid);
  putU64(words, at + 6, attrValid);
  words[at + 8] = 0;
  words[at + 9] = 0;
  putAttributes(words, at + 10, a);
}

/** An entry_out with node 0: the name is not there (with a validity), or the entry is not to be kept. */
export function putNoEntry(words: Uint32Array, at: number, entryValid: number): void {
  words.fill(0, at, at + ENTRY_OUT / 4);
  putU64(words, at + 4, entryValid);
}

/** fuse_attr_out, by words: 0 attr_valid  2 attr_valid_nsec  3 dummy  4 attr */
export function putAttrOut(words: Uint32Array, at: number, a: Attributes, attrValid: number): void {
  putU64(words, at, attrValid);
  words[at + 2] = 0;
  words[at + 3] = 0;
  putAttributes(words, at + 4, a);
}
export const ATTR_OUT = 16 + ATTR;

/** Bytes of a directory record whose fixed part is `fixed` bytes long: padded to 8. */
export function recordBytes(fixed: number, entry: DirectoryEntry): number {
  return (fixed + entry.nameEnd - entry.nameStart + 7) & ~7;
}

/** fuse_dirent, by words: 0 ino  2 off (of the next entry)  4 namelen  5 type (mode bits 12-15)  6 name, padded with zeros */
export function putDirent(message: Message, atByte: number, entry: DirectoryEntry): void {
  const { words, bytes } = message;
  const at = atByte >>> 2;
  const length = entry.nameEnd - entry.nameStart;
  putU64(words, at, entry.node);
  putU64(words, at + 2, entry.next);
  words[at + 4] = length;
  words[at + 5] = entry.type >>> 12;
  const padded = (length + 7) & ~7;
  words[at + 6 + padded / 4 - 1] = 0;
  words[at + 6 + padded / 4 - 2] = 0;
  const to = atByte + DIRENT;
  for (let i = 0; i < length; i++) bytes[to + i] = entry.name[entry.nameStart + i];
}

/*
 * fuse_statfs_out, by words
 *    0 blocks  2 bfree  4 bavail  6 files  8 ffree  10 bsize  11 namelen  12 frsize  13 padding  14 spare[6]
 */
export const STATFS_OUT = 80;
export function putStatfs(words: Uint32Array, at: number, s: Statistics): void {
  words.fill(0, at, at + STATFS_OUT / 4);
  putU64(words, at, Math.ceil(s.bytes / 4096));
  putU64(words, at + 6, s.files);
  words[at + 10] = 4096;
  words[at + 11] = NAME_MAX;
  words[at + 12] = 4096;
}

/*
 * fuse_init_in, behind the header at word 10: 10 major  11 minor  12 max_readahead  13 flags  14 flags2
 * fuse_init_out, by words
 *    0 major  1 minor  2 max_readahead  3 flags  4 max_background u16, congestion_threshold u16  5 max_write  6 time_gran
 *    7 max_pages u16, map_alignment u16  8 flags2  9 max_stack_depth  10 request_timeout u16  11 unused[11 × u16]
 */
export const INIT_OUT = 64;
const MAX_BACKGROUND = 64;
const CONGESTION = 48;
export function putInit(words: Uint32Array, at: number, negotiated: Negotiated, maxReadahead: number): void {
  words.fill(0, at, at + INIT_OUT / 4);
  words[at] = PROTOCOL_MAJOR;
  words[at + 1] = negotiated.minor;
  words[at + 2] = maxReadahead;
  words[at + 3] = negotiated.flags;
  words[at + 4] = MAX_BACKGROUND | (CONGESTION << 16);
  words[at + 5] = MAX_WRITE;
  words[at + 6] = 1;
  words[at + 7] = MAX_READ / 4096;
  words[at + 8] = negotiated.flags2;
}

/** `flags2` counts only where `flags` says that the kernel sent it. */
export function negotiate(minor: number, flags: number, flags2: number): Negotiated {
  return {
    minor: Math.min(minor, PROTOCOL_MINOR),
    flags: (flags & wantedFlags) >>> 0,
    flags2: (flags & InitFlag.INIT_EXT) === 0 ? 0 : flags2 & wantedFlags2,
  };
}

/** notify_inval_inode: 0 ino  2 off (i64)  4 len (i64). A negative offset drops attributes and leaves data. */
export function invalidateAttributes(node: number): Buffer {
  const { bytes, words } = new Message(OUT_HEADER + 24);
  putHeader(words, bytes.byteLength, Notification.INVAL_INODE, 0, 0);
  putU64(words, 4, node);
  putU64(words, 6, -1);
  return bytes;
}

/** notify_inval_entry: 0 parent  2 namelen  3 flags, then the name and a zero byte. */
export function invalidateEntry(parent: number, name: string): Buffer {
  const bytesOfName = Buffer.from(name);
  const { bytes, words } = new Message(OUT_HEADER + 16 + Math.ceil((bytesOfName.byteLength + 1) / 4) * 4);
  const length = OUT_HEADER + 16 + bytesOfName.byteLength + 1;
  putHeader(words, length, Notification.INVAL_ENTRY, 0, 0);
  putU64(words, 4, parent);
  words[6] = bytesOfName.byteLength;
  bytes.set(bytesOfName, OUT_HEADER + 16);
  return bytes.subarray(0, length);
}

/** Asks the kernel for every request again that it has no reply to; bit 63 of their unique is then set. Linux 6.9 and later. */
export function resendRequests(): Buffer {
  const { bytes, words } = new Message(OUT_HEADER);
  putHeader(words, bytes.byteLength, Notification.RESEND, 0, 0);
  return bytes;
}

/**
 * Whether reading or writing the device failed because there is nobody to talk to: who asked is gone (ENOENT), or the mount is
 * (ENODEV), or its connection was aborted (ECONNABORTED).
 */
export function isGone(error: unknown): boolean {
  const { code } = error as NodeJS.ErrnoException;
  return code === 'ENOENT' || code === 'ENODEV' || code === 'ECONNABORTED';
}
