import { constants } from 'node:os';
import type { Presence } from '../cache/presence.js';
import { NONE, S_IFMT, type Tree } from '../toc/tree.js';
import { ASLEEP, DEFERRED, nodeNumber } from './nodes.js';
import type { Attributes, CachedRange, DirectoryEntry, NodeOperations, Statistics } from './nodes.js';

const { EINVAL, EIO, EISDIR, ENODATA, ENOENT, ENOTDIR, ESTALE } = constants.errno;

/** What a slot serves. All of it is shared memory or a number, so it can be handed to another thread. */
export interface LayerView {
  readonly slot: number;
  readonly tree: Tree;
  readonly presence: Presence;
  /** Descriptor of the layer's cache file; stays the caller's. */
  readonly fd: number;
}

/** A layer that is known and not in memory, as far as the tree has to know it. */
export interface SleepingLayer {
  readonly slot: number;
  readonly statistics: Statistics;
}

const dot = Buffer.from('.');
const dotDot = Buffer.from('..');
const nothing = new Uint8Array(0);

/** Node operations on one layer. Immutable, so every answer holds for good. */
export class LayerNodes implements NodeOperations {
  readonly #slot: number;
  readonly #tree: Tree;
  readonly #presence: Presence;
  readonly #fd: number;

  constructor(view: LayerView) {
    this.#slot = view.slot;
    this.#tree = view.tree;
    this.#presence = view.presence;
    this.#fd = view.fd;
  }

  lookup(directory: number, bytes: Uint8Array, start: number, end: number): number {
    const tree = this.#tree;
    if (directory >= tree.counts.inodes) return -ESTALE;
    if (!tree.isDirectory(directory)) return -ENOTDIR;
    const dirent = tree.findDirent(directory, bytes, start, end);
    return dirent === NONE ? -ENOENT : nodeNumber(this.#slot, tree.direntInode[dirent]);
  }

  getattr(inode: number, into: Attributes): number {
    const tree = this.#tree;
    if (inode >= tree.counts.inodes) return -ESTALE;
    into.node = nodeNumber(this.#slot, inode);
    into.mode = tree.mode[inode];
    into.nlink = tree.nlink[inode];
    into.uid = tree.uid[inode];
    into.gid = tree.gid[inode];
    into.rdev = tree.rdev(inode);
    into.size = tree.size[inode];
    into.mtime = tree.mtime[inode];
    into.mtimeNsec = tree.mtimeNsec[inode];
    return 0;
  }

  readlink(inode: number): Uint8Array | number {
    if (inode >= this.#tree.counts.inodes) return -ESTALE;
    return this.#tree.isSymlink(inode) ? this.#tree.target(inode) : -EINVAL;
  }

  /** Offsets: 0 is `.`, 1 is `..`, 2 + n is the directory's dirent n. */
  readdir(directory: number, offset: number, into: DirectoryEntry): number {
    const tree = this.#tree;
    if (directory >= tree.counts.inodes) return -ESTALE;
    if (!tree.isDirectory(directory)) return -ENOTDIR;
    if (offset >= tree.count[directory] + 2) return 0;
    into.next = offset + 1;
    if (offset < 2) {
      into.name = offset === 0 ? dot : dotDot;
      into.nameStart = 0;
      into.nameEnd = offset + 1;
      const inode = offset === 0 ? directory : tree.parent(directory);
      into.node = nodeNumber(this.#slot, inode);
      into.type = tree.mode[inode] & S_IFMT;
      return 1;
    }
    const dirent = tree.first[directory] + offset - 2;
    const inode = tree.direntInode[dirent];
    into.node = nodeNumber(this.#slot, inode);
    into.type = tree.mode[inode] & S_IFMT;
    into.name = tree.strings;
    into.nameStart = tree.direntName[dirent];
    into.nameEnd = into.nameStart + tree.direntNameBytes[dirent];
    return 1;
  }

  getxattr(inode: number, bytes: Uint8Array, start: number, end: number): Uint8Array | number {
    if (inode >= this.#tree.counts.inodes) return -ESTALE;
    if (this.#tree.xattr[inode] === 0) return -ENODATA;
    return this.#tree.xattrValue(inode, bytes.subarray(start, end)) ?? -ENODATA;
  }

  listxattr(inode: number): Uint8Array | number {
    if (inode >= this.#tree.counts.inodes) return -ESTALE;
    if (this.#tree.xattr[inode] === 0) return nothing;
    const names: Uint8Array[] = [];
    for (const { name } of this.#tree.xattrsOf(inode)) names.push(name, Buffer.alloc(1));
    return Buffer.concat(names);
  }

  read(inode: number, offset: number, length: number, into: CachedRange): number {
    const tree = this.#tree;
    if (inode >= tree.counts.inodes) return -ESTALE;
    if (!tree.isRegular(inode)) return tree.isDirectory(inode) ? -EISDIR : -EINVAL;
    const bytes = Math.min(length, tree.size[inode] - offset);
    if (bytes <= 0) return 0;
    // A file that has bytes but no chunk to verify them by is never served.
    if (tree.count[inode] === 0) return -EIO;
    const { first, end } = tree.chunksOf(inode, offset, bytes);
    if (!this.#presence.hasAll(first, end)) return DEFERRED;
    into.fd = this.#fd;
    into.position = tree.cacheOffset(inode) + offset;
    return bytes;
  }
}

/** In place of the nodes of a layer that is not in memory. */
export const sleepingNodes: NodeOperations = {
  lookup: () => ASLEEP,
  getattr: () => ASLEEP,
  readlink: () => ASLEEP,
  readdir: () => ASLEEP,
  getxattr: () => ASLEEP,
  listxattr: () => ASLEEP,
  read: () => ASLEEP,
};

/** What a layer adds to the numbers of the whole tree. */
export function statisticsOf({ counts, facts }: Pick<Tree, 'counts' | 'facts'>): Statistics {
  return { bytes: facts.cacheBytes, files: counts.inodes };
}
