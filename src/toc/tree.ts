import { FormatError } from '../errors.js';
import { digestFromBytes, type Digest } from '../digest/digest.js';
import { endOfMember } from './members.js';

/** File type bits of `mode` (inode(7)). */
export const S_IFMT = 0o170000;
export const S_IFSOCK = 0o140000;
export const S_IFLNK = 0o120000;
export const S_IFREG = 0o100000;
export const S_IFBLK = 0o060000;
export const S_IFDIR = 0o040000;
export const S_IFCHR = 0o020000;
export const S_IFIFO = 0o010000;

/** Inode of the layer's root directory. */
export const ROOT = 0;
/** What lookups give where there is nothing. */
export const NONE = -1;
/** Compressed bytes beyond twice a member's content within which its end is looked for: headers that take no chunk. */
const MEMBER_SLACK = 64 * 1024;

/** Numbers that fix the size of every section. All little-endian in the header. */
export interface TreeCounts {
  readonly inodes: number;
  readonly dirents: number;
  readonly chunks: number;
  /** Words (u32) of the xattr section. */
  readonly xattrWords: number;
  /** Bytes of the string section: names, symlink targets, xattr names and values. */
  readonly stringBytes: number;
}

/** What is true of the layer as a whole. */
export interface TreeFacts {
  /** Digest of the TOC that the tree was built from; for a layer without a TOC, its diffID. */
  readonly source: Digest;
  /** Compressed bytes from 0 to fetch first, as a landmark says; 0 where it says none, absent where there is no landmark. */
  readonly prefetchBytes?: number;
  /** Offset in the blob where the last chunk's compressed bytes end at the latest (where the TOC begins). */
  readonly contentEnd: number;
  /** Length of the layer's cache file once everything is in it. */
  readonly cacheBytes: number;
}

/*
 * Persistent form, which is also the form in memory (offsets in bytes):
 *
 *    0  8  magic "lazytree"
 *    8  4  version
 *   12  4  inodes      16  4  dirents     20  4  chunks
 *   24  4  xattrWords  28  4  stringBytes
 *   32 32  SHA-256 of the source (raw)
 *   64  8  prefetchBytes (f64), -1 for no landmark   72  8  contentEnd (f64)   80  8  cacheBytes (f64)
 *   88  8  reserved, zero
 *   96     sections, widest elements first, so that each is aligned without padding
 */
const MAGIC = 'lazytree';
/** Places in the cache may only change with another name of the cache file: mounts of the one that there is outlive the process. */
const VERSION = 2;
const NO_LANDMARK = -1;
export const HEADER_BYTES = 96;

/** Bytes that a tree of these counts takes. */
export function treeBytes(n: TreeCounts): number {
  return HEADER_BYTES + n.inodes * 52 + n.dirents * 9 + n.chunks * 56 + n.xattrWords * 4 + n.stringBytes;
}

/** What the first HEADER_BYTES of a tree say. @throws FormatError */
export function parseHeader(header: Buffer, what = 'tree'): { counts: TreeCounts; facts: TreeFacts } {
  if (header.byteLength < HEADER_BYTES)
    throw new FormatError(what, {
      expected: `a header of ${HEADER_BYTES} bytes`,
      found: `${header.byteLength} bytes`,
    });
  const magic = header.toString('latin1', 0, 8);
  const version = header.readUInt32LE(8);
  if (magic !== MAGIC || version !== VERSION)
    throw new FormatError(what, {
      offset: 0,
      expected: `"${MAGIC}", version ${VERSION}`,
      found: `${JSON.stringify(magic)}, version ${version}`,
    });
  const counts: TreeCounts = {
    inodes: header.readUInt32LE(12),
    dirents: header.readUInt32LE(16),
    chunks: header.readUInt32LE(20),
    xattrWords: header.readUInt32LE(24),
    stringBytes: header.readUInt32LE(28),
  };
  const prefetchBytes = header.readDoubleLE(64);
  const facts: TreeFacts = {
    source: digestFromBytes(header, 32),
    ...(prefetchBytes !== NO_LANDMARK && { prefetchBytes }),
    contentEnd: header.readDoubleLE(72),
    cacheBytes: header.readDoubleLE(80),
  };
  return { counts, facts };
}

/**
 * One layer's files as typed arrays over one buffer: nothing is parsed when it is loaded, and a worker sees the same memory.
 * It shows the layer as overlayfs wants a lower directory: whiteouts are character devices 0/0, opaque directories carry
 * `trusted.overlay.opaque`, landmarks and the TOC are absent. Immutable once built.
 *
 * Inodes are numbered from ROOT; hardlinks share one. By type of inode, `first`, `count` and `extra` are:
 *
 * | type      | first                       | count            | extra            |
 * | directory | its first dirent            | dirents          | parent inode     |
 * | regular   | its first chunk             | chunks           | 0                |
 * | symlink   | target's place in `strings` | target's bytes   | 0                |
 * | device    | 0                           | 0                | rdev, see `rdev` |
 *
 * A directory's dirents lie together, sorted by the bytes of their names. Chunks are in blob order (`chunkOffset`, then
 * `chunkInner`, ascending), and those of a member do not overlap; a file's chunks lie together, in file order, and their bytes lie
 * together in the cache file.
 */
export class Tree {
  readonly counts: TreeCounts;
  readonly facts: TreeFacts;

  // f64 sections
  /** File size in bytes. */
  readonly size: Float64Array;
  /** Modification time, whole seconds since 1970 (may be negative). */
  readonly mtime: Float64Array;
  /** Where the chunk's compressed member begins in the blob. */
  readonly chunkOffset: Float64Array;
  /** Where the chunk's bytes lie in the layer's cache file. */
  readonly chunkCache: Float64Array;
  // u32 sections
  readonly mode: Uint32Array;
  readonly uid: Uint32Array;
  readonly gid: Uint32Array;
  readonly nlink: Uint32Array;
  /** Nanoseconds of the modification time. */
  readonly mtimeNsec: Uint32Array;
  readonly first: Uint32Array;
  readonly count: Uint32Array;
  readonly extra: Uint32Array;
  /** Word in `xattrs` where the inode's records begin; 0 for none. */
  readonly xattr: Uint32Array;
  readonly direntInode: Uint32Array;
  /** Place of the name in `strings`. */
  readonly direntName: Uint32Array;
  /** Uncompressed bytes of the chunk. */
  readonly chunkSize: Uint32Array;
  /** Where the chunk's bytes begin in its decompressed member. */
  readonly chunkInner: Uint32Array;
  /** Records: number of attributes, then for each: name place, name bytes, value place, value bytes. Word 0 is unused. */
  readonly xattrs: Uint32Array;
  // u8 sections
  /** SHA-256 of each chunk's uncompressed bytes, 32 bytes each. */
  readonly chunkDigests: Uint8Array;
  readonly direntNameBytes: Uint8Array;
  readonly strings: Buffer;

  private constructor(
    /** The whole tree, header included: what is written to disk and handed to workers. */
    readonly buffer: SharedArrayBuffer,
    counts: TreeCounts,
    facts: TreeFacts,
  ) {
    this.counts = counts;
    this.facts = facts;
    const { inodes, dirents, chunks, xattrWords, stringBytes } = counts;
    let at = HEADER_BYTES;
    const f64 = (n: number) => new Float64Array(buffer, (at += n * 8) - n * 8, n);
    const u32 = (n: number) => new Uint32Array(buffer, (at += n * 4) - n * 4, n);
    const u8 = (n: number) => new Uint8Array(buffer, (at += n) - n, n);
    this.size = f64(inodes);
    this.mtime = f64(inodes);
    this.chunkOffset = f64(chunks);
    this.chunkCache = f64(chunks);
    this.mode = u32(inodes);
    this.uid = u32(inodes);
    this.gid = u32(inodes);
    this.nlink = u32(inodes);
    this.mtimeNsec = u32(inodes);
    this.first = u32(inodes);
    this.count = u32(inodes);
    this.extra = u32(inodes);
    this.xattr = u32(inodes);
    this.direntInode = u32(dirents);
    this.direntName = u32(dirents);
    this.chunkSize = u32(chunks);
    this.chunkInner = u32(chunks);
    this.xattrs = u32(xattrWords);
    this.chunkDigests = u8(chunks * 32);
    this.direntNameBytes = u8(dirents);
    this.strings = Buffer.from(buffer, at, stringBytes);
  }

  /** An all-zero tree of these counts, for a builder to fill in. */
  static allocate(counts: TreeCounts, facts: TreeFacts): Tree {
    const buffer = new SharedArrayBuffer(treeBytes(counts));
    const header = Buffer.from(buffer, 0, HEADER_BYTES);
    header.write(MAGIC, 0, 'latin1');
    header.writeUInt32LE(VERSION, 8);
    header.writeUInt32LE(counts.inodes, 12);
    header.writeUInt32LE(counts.dirents, 16);
    header.writeUInt32LE(counts.chunks, 20);
    header.writeUInt32LE(counts.xattrWords, 24);
    header.writeUInt32LE(counts.stringBytes, 28);
    header.write(facts.source.slice('sha256:'.length), 32, 'hex');
    header.writeDoubleLE(facts.prefetchBytes ?? NO_LANDMARK, 64);
    header.writeDoubleLE(facts.contentEnd, 72);
    header.writeDoubleLE(facts.cacheBytes, 80);
    return new Tree(buffer, counts, facts);
  }

  /**
   * A tree over memory that `allocate` laid out: in another thread, or as it was on disk. Checks the header and the length;
   * whether the bytes are those that were written is the persistent form's business (see persist.ts).
   * @throws FormatError
   */
  static over(buffer: SharedArrayBuffer, what = 'tree'): Tree {
    const { counts, facts } = parseHeader(Buffer.from(buffer, 0, Math.min(HEADER_BYTES, buffer.byteLength)), what);
    if (treeBytes(counts) !== buffer.byteLength)
      throw new FormatError(what, {
        expected: `${treeBytes(counts)} bytes, as its header says`,
        found: `${buffer.byteLength} bytes`,
      });
    return new Tree(buffer, counts, facts);
  }

  isDirectory(inode: number): boolean {
    return (this.mode[inode] & S_IFMT) === S_IFDIR;
  }

  isRegular(inode: number): boolean {
    return (this.mode[inode] & S_IFMT) === S_IFREG;
  }

  isSymlink(inode: number): boolean {
    return (this.mode[inode] & S_IFMT) === S_IFLNK;
  }

  /** A whiteout as overlayfs knows it: a character device 0/0. */
  isWhiteout(inode: number): boolean {
    return (this.mode[inode] & S_IFMT) === S_IFCHR && this.extra[inode] === 0;
  }

  /** Device number as the kernel's new_encode_dev() has it (what FUSE carries); 0 for what is no device. */
  rdev(inode: number): number {
    const type = this.mode[inode] & S_IFMT;
    return type === S_IFCHR || type === S_IFBLK ? this.extra[inode] : 0;
  }

  /** The directory's parent; the root's is itself. */
  parent(directory: number): number {
    return this.extra[directory];
  }

  /** The bytes of a dirent's name: a view, not a copy. */
  name(dirent: number): Buffer {
    const at = this.direntName[dirent];
    return this.strings.subarray(at, at + this.direntNameBytes[dirent]);
  }

  /** The dirent of `bytes[start, end)` in a directory, or NONE. A binary search over the sorted names. */
  findDirent(directory: number, bytes: Uint8Array, start = 0, end = bytes.byteLength): number {
    const { strings, direntName, direntNameBytes } = this;
    let low = this.first[directory];
    let high = low + this.count[directory] - 1;
    while (low <= high) {
      const middle = (low + high) >>> 1;
      const at = direntName[middle];
      const order = strings.compare(bytes, start, end, at, at + direntNameBytes[middle]);
      if (order === 0) return middle;
      if (order < 0) low = middle + 1;
      else high = middle - 1;
    }
    return NONE;
  }

  /** The inode of a name in a directory, or NONE (also where `directory` is none). */
  lookup(directory: number, bytes: Uint8Array, start = 0, end = bytes.byteLength): number {
    if (!this.isDirectory(directory)) return NONE;
    const dirent = this.findDirent(directory, bytes, start, end);
    return dirent === NONE ? NONE : this.direntInode[dirent];
  }

  /** Whether the layer says itself what a start needs of it: it has a landmark, and something before that. */
  get isMarked(): boolean {
    return (this.facts.prefetchBytes ?? 0) > 0;
  }

  /** Compressed bytes of the chunks [first, end) in the blob, from the first one's member to the end of the last one's. */
  compressedBytes(first: number, end: number): number {
    return end > first ? this.chunkEnd(end - 1) - this.chunkOffset[first] : 0;
  }

  /** A symlink's target: a view, not a copy. */
  target(symlink: number): Buffer {
    const at = this.first[symlink];
    return this.strings.subarray(at, at + this.count[symlink]);
  }

  /** The inode's extended attributes in the order of their names' bytes: views, not copies. */
  *xattrsOf(inode: number): Generator<{ name: Buffer; value: Buffer }> {
    const at = this.xattr[inode];
    const count = at === 0 ? 0 : this.xattrs[at];
    for (let i = 0, word = at + 1; i < count; i++, word += 4) {
      const [name, nameBytes, value, valueBytes] = this.xattrs.subarray(word, word + 4);
      yield {
        name: this.strings.subarray(name, name + nameBytes),
        value: this.strings.subarray(value, value + valueBytes),
      };
    }
  }

  /** The value of one extended attribute, or undefined. */
  xattrValue(inode: number, name: Uint8Array): Buffer | undefined {
    if (this.xattr[inode] === 0) return undefined;
    for (const attribute of this.xattrsOf(inode)) if (attribute.name.equals(name)) return attribute.value;
    return undefined;
  }

  chunkDigest(chunk: number): Digest {
    return digestFromBytes(this.chunkDigests, chunk * 32);
  }

  /** False for a chunk of which the TOC claims no digest, so that it cannot be verified: only in layers opened without verification. */
  hasDigest(chunk: number): boolean {
    return this.chunkDigests.subarray(chunk * 32, chunk * 32 + 32).some((byte) => byte !== 0);
  }

  /**
   * Offset in the blob up to which the chunk's compressed member has to be read: where the next one begins, or the content's end.
   * Earlier where that is far behind what its chunks can take: there lie the bytes of files that a later entry of the same name
   * replaced, or an invention of the TOC's.
   */
  chunkEnd(chunk: number): number {
    const next = endOfMember(this, chunk, this.counts.chunks);
    const reach = this.chunkInner[next - 1] + this.chunkSize[next - 1];
    const end = next < this.counts.chunks ? this.chunkOffset[next] : this.facts.contentEnd;
    return Math.min(end, this.chunkOffset[chunk] + 2 * reach + MEMBER_SLACK);
  }

  /**
   * The chunks that hold bytes [offset, offset + length) of a regular file, as [first, end); empty where the range is.
   * Bytes past the file's size are not counted.
   */
  chunksOf(inode: number, offset: number, length: number): { first: number; end: number } {
    const begin = this.first[inode];
    const end = begin + this.count[inode];
    const stop = Math.min(offset + length, this.size[inode]);
    if (offset >= stop) return { first: begin, end: begin };
    const base = this.chunkCache[begin];
    return { first: this.#chunkAt(begin, end, base + offset), end: this.#chunkAt(begin, end, base + stop - 1) + 1 };
  }

  /** The last chunk in [low, high) that begins at or before a place in the cache file. */
  #chunkAt(low: number, high: number, place: number): number {
    while (high - low > 1) {
      const middle = (low + high) >>> 1;
      if (this.chunkCache[middle] <= place) low = middle;
      else high = middle;
    }
    return low;
  }

  /** Where byte 0 of a regular file lies in the layer's cache file. */
  cacheOffset(inode: number): number {
    return this.count[inode] === 0 ? 0 : this.chunkCache[this.first[inode]];
  }
}

/** The kernel's 32-bit device number (new_encode_dev): minor in bits 0-7 and 20-31, major in bits 8-19. */
export function encodeDevice(major: number, minor: number): number {
  return ((minor & 0xff) | (major << 8) | ((minor & ~0xff) << 12)) >>> 0;
}

export function decodeDevice(rdev: number): { major: number; minor: number } {
  return { major: (rdev >>> 8) & 0xfff, minor: ((rdev & 0xff) | ((rdev >>> 12) & 0xfff00)) >>> 0 };
}
