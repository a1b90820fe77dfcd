import { ROOT, S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG, type Tree } from '../toc/tree.js';
import { roundUp } from '../util/bytes.js';

/** The one entry of the image's root directory: the layer. */
export const IMAGE_ENTRY = 'l';

/*
 * The kernel's EROFS, as erofs_fs.h of Linux 6.12 lays it out: little-endian, blocks of 4096 bytes. An image has metadata alone; the content of
 * files is the layer's cache file, as the image's second device. In bytes:
 *
 *    0            nothing
 *    1024  128    superblock
 *    1152  128    the slot of the second device
 *    1280         inodes, each at a multiple of 32, which is its number (nid), with what belongs to it behind it:
 *                 xattrs; the place of a file's content; a link's target; what of a directory's entries fills no block
 *    ...          blocks of directories, and of links' targets that have no room there
 *
 * The first inode is the image's root directory, whose one entry is the layer: a path to it leads nowhere where the image is not mounted.
 */
const BLOCK = 4096;
const SUPERBLOCK = 1024;
const SLOT_BYTES = 128;
const DEVICE_SLOT = SUPERBLOCK + 128;
const INODES = DEVICE_SLOT + SLOT_BYTES;
const NID_BYTES = 32;

const MAGIC = 0xe0f5e1e2;
/** Times of inodes are of modification. */
const COMPAT_MTIME = 2;
const INCOMPAT_CHUNKED_FILE = 4;
const INCOMPAT_DEVICE_TABLE = 8;

/** Of a device: their numbers have 32 bits, and the last stands for none. */
const MAX_BLOCKS = 2 ** 32 - 1;
/** Extended inodes: 64 bytes, with ids of 32 bits and a time. */
const INODE_BYTES = 64;
const EXTENDED = 1;
const Layout = { PLAIN: 0, INLINE: 2, CHUNKS: 4 } as const;
/** A chunk's place is a record of 8 bytes, not a block's number alone. */
const CHUNK_INDEXES = 0x20;
const MAX_CHUNK_BITS = 31;

const DIRENT_BYTES = 12;
const fileTypes = new Map([
  [S_IFREG, 1],
  [S_IFDIR, 2],
  [S_IFCHR, 3],
  [S_IFBLK, 4],
  [S_IFIFO, 5],
  [S_IFLNK, 7],
]);

const XATTR_HEADER = 12;
const XATTR_ENTRY = 4;
/** An inode counts them, in entries' units, by 16 bits. */
const MAX_XATTRS = XATTR_HEADER + XATTR_ENTRY * 0xfffe;
/** Xattrs of the image's root directory, by which whoever mounts it sees that this kernel shows any. */
export const PROBES = ['trusted.lazylayer', 'security.lazylayer'] as const;
/** What a number stands for: beginnings of names, or whole names. */
const prefixes = [
  ['user.', 1],
  ['system.posix_acl_access', 2],
  ['system.posix_acl_default', 3],
  ['trusted.', 4],
  ['security.', 6],
] as const;

/** What a directory's blocks hold. */
interface Listing {
  /** Names in the order of their bytes, `.` and `..` among them, with the inodes that they name. */
  readonly names: readonly Uint8Array[];
  readonly inodes: readonly number[];
  /** The first name of each block. */
  readonly blocks: readonly number[];
  /** Bytes of the last block. */
  readonly tail: number;
}

const dot = Buffer.from('.');
const dotDot = Buffer.from('..');

/**
 * An image of the layer whose files lie in its cache file, which must end at a block's end; undefined where EROFS cannot show the layer as
 * it is: an xattr of a namespace that it does not know, a file without chunks to verify it by, or one that does not begin on a block of the
 * cache file.
 */
export function erofsImage(tree: Tree): Buffer | undefined {
  if (tree.facts.cacheBytes > BLOCK * MAX_BLOCKS) return undefined;
  const image = new Image(tree);
  return image.place() ? image.write() : undefined;
}

class Image {
  /** The image's root directory: by number behind the layer's inodes, by place before them. */
  readonly #top: number;
  /** Byte where each inode begins. */
  readonly #at: Float64Array;
  readonly #xattrs: (Buffer | undefined)[] = [];
  readonly #listings = new Map<number, Listing>();
  /** First block of each directory, or link, that has blocks of its own. */
  readonly #firstBlock = new Map<number, number>();
  #end = INODES;

  constructor(private readonly tree: Tree) {
    this.#top = tree.counts.inodes;
    this.#at = new Float64Array(tree.counts.inodes + 1);
  }

  /** Gives everything its place. False where there is something that cannot be shown. */
  place(): boolean {
    const { tree } = this;
    const records = new Map<number, Buffer | undefined>();
    this.#xattrs[this.#top] = probes;
    this.#listings.set(this.#top, inBlocks([dot, dotDot, Buffer.from(IMAGE_ENTRY)], [this.#top, this.#top, ROOT]));
    this.#placeInode(this.#top);
    for (let inode = 0; inode < tree.counts.inodes; inode++) {
      const set = tree.xattr[inode];
      if (set !== 0 && !records.has(set)) records.set(set, xattrRecords(tree.xattrsOf(inode)));
      const xattrs = records.get(set);
      if ((set !== 0 && xattrs === undefined) || !this.#showable(inode)) return false;
      this.#xattrs[inode] = xattrs;
      if (tree.isDirectory(inode))
        this.#listings.set(inode, listing(tree, inode, inode === ROOT ? this.#top : tree.parent(inode)));
      this.#placeInode(inode);
    }
    let block = Math.ceil(this.#end / BLOCK);
    for (let inode = 0; inode <= this.#top; inode++) {
      const own = this.#ownBlocks(inode);
      if (own === 0) continue;
      this.#firstBlock.set(inode, block);
      block += own;
    }
    this.#end = block * BLOCK;
    return true;
  }

  #showable(inode: number): boolean {
    const { tree } = this;
    if (!fileTypes.has(this.#typeOf(inode))) return false;
    if (!tree.isRegular(inode) || tree.size[inode] === 0) return true;
    return tree.count[inode] > 0 && tree.cacheOffset(inode) % BLOCK === 0;
  }

  /** Bytes behind inode and xattrs that are the end of its content, or all. They must not cross a block's end. */
  #inline(inode: number): number {
    const { tree } = this;
    const bytes = this.#listings.get(inode)?.tail ?? (tree.isSymlink(inode) ? tree.count[inode] : 0);
    return INODE_BYTES + this.#xattrBytes(inode) + bytes <= BLOCK ? bytes : 0;
  }

  /** How many blocks a directory, or a link, has for what does not lie behind its inode. */
  #ownBlocks(inode: number): number {
    const all = this.#listings.get(inode)?.blocks.length ?? (this.tree.isSymlink(inode) ? 1 : 0);
    return all - (this.#inline(inode) > 0 ? 1 : 0);
  }

  #xattrBytes(inode: number): number {
    return this.#xattrs[inode]?.byteLength ?? 0;
  }

  #placeInode(inode: number): void {
    const { tree } = this;
    let bytes = INODE_BYTES + this.#xattrBytes(inode);
    if (inode !== this.#top && tree.isRegular(inode)) {
      if (tree.size[inode] > 0) bytes = roundUp(bytes, 8) + 8 * chunks(tree.size[inode]).count;
    } else {
      bytes += this.#inline(inode);
      if ((this.#end % BLOCK) + bytes > BLOCK) this.#end = roundUp(this.#end, BLOCK);
    }
    this.#at[inode] = this.#end;
    this.#end = roundUp(this.#end + bytes, NID_BYTES);
  }

  write(): Buffer {
    const image = Buffer.alloc(this.#end);
    this.#writeSuperblock(image);
    this.#writeTop(image);
    for (let inode = 0; inode < this.tree.counts.inodes; inode++) this.#writeInode(image, inode);
    return image;
  }

  /** File type bits of a mode. */
  #typeOf(inode: number): number {
    return inode === this.#top ? S_IFDIR : this.tree.mode[inode] & S_IFMT;
  }

  #nid(inode: number): number {
    return this.#at[inode] / NID_BYTES;
  }

  #writeSuperblock(image: Buffer): void {
    const { counts, facts } = this.tree;
    image.writeUInt32LE(MAGIC, SUPERBLOCK);
    image.writeUInt32LE(COMPAT_MTIME, SUPERBLOCK + 8);
    image[SUPERBLOCK + 12] = Math.log2(BLOCK);
    image.writeUInt16LE(this.#nid(this.#top), SUPERBLOCK + 14);
    image.writeUInt32LE(counts.inodes + 1, SUPERBLOCK + 16);
    image.writeUInt32LE(image.byteLength / BLOCK, SUPERBLOCK + 36);
    image.writeUInt32LE(INCOMPAT_CHUNKED_FILE | INCOMPAT_DEVICE_TABLE, SUPERBLOCK + 80);
    image.writeUInt16LE(1, SUPERBLOCK + 86);
    image.writeUInt16LE(DEVICE_SLOT / SLOT_BYTES, SUPERBLOCK + 88);
    image.writeUInt32LE(Math.ceil(facts.cacheBytes / BLOCK), DEVICE_SLOT + 64);
  }

  #writeTop(image: Buffer): void {
    const at = this.#at[this.#top];
    putLayout(image, at, Layout.INLINE);
    image.writeUInt16LE(S_IFDIR | 0o755, at + 4);
    image.writeUInt32LE(this.#top + 1, at + 20);
    image.writeUInt32LE(3, at + 44);
    putXattrs(image, at, probes);
    this.#writeListing(image, this.#top, at + INODE_BYTES + probes.byteLength);
  }

  #writeInode(image: Buffer, inode: number): void {
    const { tree } = this;
    const at = this.#at[inode];
    const xattrs = this.#xattrs[inode];
    image.writeUInt16LE(tree.mode[inode], at + 4);
    putU64(image, tree.size[inode], at + 8);
    image.writeUInt32LE(inode + 1, at + 20);
    image.writeUInt32LE(tree.uid[inode], at + 24);
    image.writeUInt32LE(tree.gid[inode], at + 28);
    putU64(image, tree.mtime[inode], at + 32);
    image.writeUInt32LE(tree.mtimeNsec[inode], at + 40);
    image.writeUInt32LE(tree.nlink[inode], at + 44);
    if (xattrs !== undefined) putXattrs(image, at, xattrs);
    const rest = at + INODE_BYTES + this.#xattrBytes(inode);
    if (tree.isRegular(inode) && tree.size[inode] > 0) this.#writeChunks(image, inode, at, roundUp(rest, 8));
    else {
      putLayout(image, at, this.#inline(inode) > 0 ? Layout.INLINE : Layout.PLAIN);
      if (tree.isDirectory(inode)) this.#writeListing(image, inode, rest);
      else if (tree.isSymlink(inode)) this.#writeTarget(image, inode, rest);
      else image.writeUInt32LE(tree.rdev(inode), at + 16);
    }
  }

  #writeChunks(image: Buffer, inode: number, at: number, rest: number): void {
    const { bits, count } = chunks(this.tree.size[inode]);
    putLayout(image, at, Layout.CHUNKS);
    image.writeUInt16LE(bits | CHUNK_INDEXES, at + 16);
    const first = this.tree.cacheOffset(inode) / BLOCK;
    for (let chunk = 0; chunk < count; chunk++) {
      image.writeUInt16LE(1, rest + chunk * 8 + 2);
      image.writeUInt32LE(first + chunk * 2 ** bits, rest + chunk * 8 + 4);
    }
  }

  #writeTarget(image: Buffer, inode: number, rest: number): void {
    const own = this.#firstBlock.get(inode);
    image.writeUInt32LE(own ?? 0, this.#at[inode] + 16);
    this.tree.target(inode).copy(image, own === undefined ? rest : own * BLOCK);
  }

  #writeListing(image: Buffer, inode: number, rest: number): void {
    const { names, inodes, blocks, tail } = this.#listings.get(inode)!;
    const at = this.#at[inode];
    const inline = this.#inline(inode) > 0;
    const own = this.#firstBlock.get(inode) ?? 0;
    putU64(image, (blocks.length - 1) * BLOCK + tail, at + 8);
    image.writeUInt32LE(own, at + 16);
    blocks.forEach((first, i) => {
      const last = i === blocks.length - 1;
      const start = last && inline ? rest : (own + i) * BLOCK;
      const end = last ? names.length : blocks[i + 1];
      let name = (end - first) * DIRENT_BYTES;
      for (let n = first, record = start; n < end; n++, record += DIRENT_BYTES) {
        putU64(image, this.#nid(inodes[n]), record);
        image.writeUInt16LE(name, record + 8);
        image[record + 10] = fileTypes.get(this.#typeOf(inodes[n]))!;
        image.set(names[n], start + name);
        name += names[n].byteLength;
      }
    });
  }
}

/** A u64, or an i64 in two's complement, of at most 53 bits. */
function putU64(image: Buffer, value: number, at: number): void {
  image.writeInt32LE(value | 0, at);
  image.writeInt32LE(Math.floor(value / 2 ** 32), at + 4);
}

function putLayout(image: Buffer, at: number, layout: number): void {
  image.writeUInt16LE(EXTENDED | (layout << 1), at);
}

function putXattrs(image: Buffer, at: number, records: Buffer): void {
  image.writeUInt16LE(1 + (records.byteLength - XATTR_HEADER) / XATTR_ENTRY, at + 2);
  records.copy(image, at + INODE_BYTES);
}

/** A file's content lies together: one chunk of 2^bits blocks, as long as that is long enough. */
function chunks(size: number): { bits: number; count: number } {
  const blocks = Math.ceil(size / BLOCK);
  const bits = Math.min(MAX_CHUNK_BITS, Math.ceil(Math.log2(blocks)));
  return { bits, count: Math.ceil(blocks / 2 ** bits) };
}

function listing(tree: Tree, directory: number, parent: number): Listing {
  const names: Uint8Array[] = [];
  const inodes: number[] = [];
  const put = (name: Uint8Array, inode: number) => {
    names.push(name);
    inodes.push(inode);
  };
  const own: [Buffer, number][] = [
    [dot, directory],
    [dotDot, parent],
  ];
  const first = tree.first[directory];
  for (let dirent = first; dirent < first + tree.count[directory]; dirent++) {
    const name = tree.name(dirent);
    while (own.length > 0 && own[0][0].compare(name) < 0) put(...own.shift()!);
    put(name, tree.direntInode[dirent]);
  }
  for (const entry of own) put(...entry);
  return inBlocks(names, inodes);
}

function inBlocks(names: readonly Uint8Array[], inodes: readonly number[]): Listing {
  const blocks = [0];
  let filled = 0;
  names.forEach((name, i) => {
    const bytes = DIRENT_BYTES + name.byteLength;
    if (filled + bytes > BLOCK) {
      blocks.push(i);
      filled = 0;
    }
    filled += bytes;
  });
  return { names, inodes, blocks, tail: filled };
}

/** What stands behind an inode that has these xattrs; undefined where one of them has no form. */
function xattrRecords(xattrs: Iterable<{ name: Buffer; value: Buffer }>): Buffer | undefined {
  const records = [Buffer.alloc(XATTR_HEADER)];
  for (const { name, value } of xattrs) {
    const text = name.toString('latin1');
    const prefix = prefixes.find(([start]) => (start.endsWith('.') ? text.startsWith(start) : text === start));
    if (prefix === undefined || value.byteLength > 0xffff) return undefined;
    const rest = name.subarray(prefix[0].length);
    // A length that did not fit would make the kernel read the rest of the name as xattrs of their own.
    if (rest.byteLength > 0xff) return undefined;
    const record = Buffer.alloc(roundUp(XATTR_ENTRY + rest.byteLength + value.byteLength, XATTR_ENTRY));
    record[0] = rest.byteLength;
    record[1] = prefix[1];
    record.writeUInt16LE(value.byteLength, 2);
    record.set(rest, XATTR_ENTRY);
    record.set(value, XATTR_ENTRY + rest.byteLength);
    records.push(record);
  }
  const all = Buffer.concat(records);
  return all.byteLength <= MAX_XATTRS ? all : undefined;
}

const probes = xattrRecords(PROBES.map((name) => ({ name: Buffer.from(name), value: Buffer.alloc(0) })))!;
