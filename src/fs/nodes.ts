/** One file or directory of the served tree, named by a pair that means the same after a restart. */
export interface Node {
  /** Slot of the layer; UPPER for the tree above the layers. */
  slot: number;
  inode: number;
}

/** Slot of the tree above the layers. */
export const UPPER = 0;
/** Inode of that tree's root, so that the whole tree's root is node 1, as FUSE wants it. */
export const UPPER_ROOT = 1;

const INODES = 2 ** 32;
/** Slots above this one would make node numbers that a double cannot hold. */
export const MAX_SLOT = 2 ** 21 - 1;

/** The pair as one number, which is also what stat(2) shows as st_ino. */
export function nodeNumber(slot: number, inode: number): number {
  return slot * INODES + inode;
}

export function slotOf(node: number): number {
  return Math.floor(node / INODES);
}

export function inodeOf(node: number): number {
  return node >>> 0;
}

/**
 * What an operation gives in place of a result when the answer is not at hand: the session then asks the main thread and
 * replies later. Below every negated errno.
 */
export const DEFERRED = -0x1_0000;

/** What every operation on a slot gives whose layer is known and not in memory: the session has it woken, and tries again. */
export const ASLEEP = -0x2_0000;

/** What stat(2) shows. Operations fill in one that the caller keeps, so that nothing is allocated for a request. */
export interface Attributes {
  /** See `nodeNumber`. */
  node: number;
  /** Type and permission bits. */
  mode: number;
  nlink: number;
  uid: number;
  gid: number;
  /** As the kernel's new_encode_dev() has it. */
  rdev: number;
  /** Bytes. */
  size: number;
  /** Whole seconds since 1970, may be negative; the times of access and of change are the same. */
  mtime: number;
  mtimeNsec: number;
}

export function blankAttributes(): Attributes {
  return { node: 0, mode: 0, nlink: 0, uid: 0, gid: 0, rdev: 0, size: 0, mtime: 0, mtimeNsec: 0 };
}

/** One entry of a directory. The name's bytes lie in memory that belongs to the tree. */
export interface DirectoryEntry {
  node: number;
  /** File type bits of a mode. */
  type: number;
  name: Uint8Array;
  nameStart: number;
  nameEnd: number;
  /** Offset from which the listing goes on behind this entry. */
  next: number;
}

const noBytes = new Uint8Array(0);

export function blankEntry(): DirectoryEntry {
  return { node: 0, type: 0, name: noBytes, nameStart: 0, nameEnd: 0, next: 0 };
}

/** Where cached bytes are. */
export interface CachedRange {
  /** Descriptor of the cache file. */
  fd: number;
  /** Offset in it. */
  position: number;
}

/** What statfs(2) shows of the whole tree. Read-only: no block and no inode is free. */
export interface Statistics {
  /** Bytes of all layers, once everything is in the cache. */
  bytes: number;
  /** Inodes. */
  files: number;
}

/**
 * The operations of one slot. Numbers below zero are negated errnos, except DEFERRED and ASLEEP. Names are bytes `[start, end)` of a buffer.
 */
export interface NodeOperations {
  /** Number of the named node, -ENOENT, -ENOTDIR, or DEFERRED. */
  lookup(directory: number, bytes: Uint8Array, start: number, end: number): number;
  /** 0, or -ESTALE for an inode that the slot does not have. */
  getattr(inode: number, into: Attributes): number;
  /** The target's bytes, or -EINVAL for what is no symlink. */
  readlink(inode: number): Uint8Array | number;
  /**
   * The first entry at or behind `offset`: 1, or 0 at the end. Offset 0 is `.`, whatever else an offset means is the slot's own
   * business: go on with the last entry's `next`.
   */
  readdir(directory: number, offset: number, into: DirectoryEntry): number;
  /** The value's bytes, or -ENODATA. */
  getxattr(inode: number, bytes: Uint8Array, start: number, end: number): Uint8Array | number;
  /** Every name, each followed by a zero byte. */
  listxattr(inode: number): Uint8Array | number;
  /**
   * How many bytes from `offset` on are in the cache, and where: `length`, or fewer at the file's end, or DEFERRED when one of
   * them is missing.
   */
  read(inode: number, offset: number, length: number, into: CachedRange): number;
}
