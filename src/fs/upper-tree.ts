import { constants } from 'node:os';
import { hash } from 'node:crypto';
import { S_IFDIR, S_IFLNK, S_IFREG } from '../toc/tree.js';
import { bufferOf } from '../util/bytes.js';
import { DEFERRED, nodeNumber, UPPER, UPPER_ROOT } from './nodes.js';
import type { Attributes, DirectoryEntry, NodeOperations } from './nodes.js';

const { EINVAL, EISDIR, ENODATA, ENOENT, ENOTDIR, ESTALE } = constants.errno;

interface Child {
  readonly name: Buffer;
  readonly node: number;
  /** File type bits of a mode. */
  readonly type: number;
  /** Place in listings: grows with every child that a directory was ever given, so a listing goes on after changes. */
  readonly offset: number;
}

interface Directory {
  readonly type: typeof S_IFDIR;
  readonly path: string;
  readonly parent: number;
  /** Whether a name that is not there may come to be when it is asked for. */
  resolves: boolean;
  /** In the order of their offsets. */
  children: Child[];
  readonly byName: Map<string, Child>;
  nextOffset: number;
  /** Nanoseconds since 1970; grows with every change, which is how the kernel knows that a kept listing is out of date. */
  mtime: bigint;
}

interface Symlink {
  readonly type: typeof S_IFLNK;
  readonly target: Buffer;
  readonly mtime: bigint;
}

/** A file whose bytes the main thread has, by its path. */
interface File {
  readonly type: typeof S_IFREG;
  readonly path: string;
  /** Bytes. */
  readonly size: number;
  readonly mtime: bigint;
}

type UpperNode = Directory | Symlink | File;

const dot = Buffer.from('.');
const dotDot = Buffer.from('..');
const nothing = new Uint8Array(0);
/**
 * For root alone, wherever the mount is shown: whoever could look a reference up would read what root may pull. Overlays reach the layers
 * by the rights of who mounted them, and each layer's own root directory has the layer's mode.
 */
const modes = { [S_IFDIR]: S_IFDIR | 0o700, [S_IFLNK]: S_IFLNK | 0o777, [S_IFREG]: S_IFREG | 0o400 } as const;

/**
 * A small tree of directories, symlinks and files in memory that changes while it is served, and whose directories can hold nodes of
 * other slots. A node's inode comes from its path, so that after a restart the same path is the same node.
 */
export class UpperTree implements NodeOperations {
  readonly #nodes = new Map<number, UpperNode>();
  readonly #changed: (directory: number) => void;
  readonly #gone: (directory: number, name: string) => void;

  /** `changed` hears of every directory whose entries changed, `gone` of names that mean nothing any more, or something else. */
  constructor(
    changed: (directory: number) => void = () => undefined,
    gone: (directory: number, name: string) => void = () => undefined,
  ) {
    this.#changed = changed;
    this.#gone = gone;
    this.#nodes.set(UPPER_ROOT, emptyDirectory('', UPPER_ROOT));
  }

  get size(): number {
    return this.#nodes.size;
  }

  /** The inode of a directory, made where it is missing. */
  addDirectory(parent: number, name: string): number {
    const existing = this.child(parent, name);
    if (existing !== undefined) return existing;
    const path = `${this.#directory(parent).path}/${name}`;
    return this.#add(parent, name, path, emptyDirectory(path, parent));
  }

  /** Makes a symlink, in place of what had the name. The kernel keeps targets, so another target is another inode. */
  addSymlink(parent: number, name: string, target: string): number {
    this.remove(parent, name);
    const path = `${this.#directory(parent).path}/${name}`;
    return this.#add(parent, name, `${path}\0${target}`, { type: S_IFLNK, target: Buffer.from(target), mtime: now() });
  }

  /**
   * Makes a file, in place of what had the name. Its reads are DEFERRED. The kernel keeps content: `identity` differs where the bytes may.
   */
  addFile(parent: number, name: string, size: number, identity: string): void {
    this.remove(parent, name);
    const path = `${this.#directory(parent).path}/${name}`;
    this.#add(parent, name, `${path}\0${identity}`, { type: S_IFREG, path, size, mtime: now() });
  }

  /** Puts a directory of another slot under a name, in place of what had the name. */
  addForeign(parent: number, name: string, node: number): void {
    this.remove(parent, name);
    this.#enter(parent, name, node, S_IFDIR);
  }

  /** Takes a name away, and what lies below it; does nothing where there is none. */
  remove(parent: number, name: string): void {
    const directory = this.#directory(parent);
    const child = directory.byName.get(name);
    if (child === undefined) return;
    this.#forget(child.node);
    directory.byName.delete(name);
    directory.children = directory.children.filter((c) => c !== child);
    this.#touch(parent);
    this.#gone(parent, name);
  }

  /** A node of this tree and all below it. Nodes of other slots are somebody else's. */
  #forget(inode: number): void {
    const node = inode < 2 ** 32 ? this.#nodes.get(inode) : undefined;
    if (node === undefined) return;
    this.#nodes.delete(inode);
    if (node.type === S_IFDIR) for (const child of node.children) this.#forget(child.node);
  }

  /** From now on a lookup of a name that the directory does not have is DEFERRED. */
  deferUnknown(directory: number): void {
    this.#directory(directory).resolves = true;
  }

  /** Names from the root to a directory or a file; undefined for what is none, or is gone. */
  pathOf(inode: number): string[] | undefined {
    const node = this.#nodes.get(inode);
    return node === undefined || node.type === S_IFLNK ? undefined : node.path.split('/').slice(1);
  }

  /** The node under a name, or undefined. */
  child(parent: number, name: string): number | undefined {
    return this.#directory(parent).byName.get(name)?.node;
  }

  /** Bytes of a file; undefined for anything else. */
  sizeOf(inode: number): number | undefined {
    const node = this.#nodes.get(inode);
    return node?.type === S_IFREG ? node.size : undefined;
  }

  names(parent: number): string[] {
    return [...this.#directory(parent).byName.keys()];
  }

  lookup(directory: number, bytes: Uint8Array, start: number, end: number): number {
    const node = this.#nodes.get(directory);
    if (node === undefined) return -ESTALE;
    if (node.type !== S_IFDIR) return -ENOTDIR;
    const name = bufferOf(bytes, start, end - start).toString('latin1');
    return node.byName.get(name)?.node ?? (node.resolves ? DEFERRED : -ENOENT);
  }

  getattr(inode: number, into: Attributes): number {
    const node = this.#nodes.get(inode);
    if (node === undefined) return -ESTALE;
    into.node = nodeNumber(UPPER, inode);
    into.mode = modes[node.type];
    // One link says "not counted" of a directory: tools that count subdirectories by it must look for themselves.
    into.nlink = 1;
    into.uid = 0;
    into.gid = 0;
    into.rdev = 0;
    into.size = node.type === S_IFDIR ? 0 : node.type === S_IFREG ? node.size : node.target.byteLength;
    into.mtime = Number(node.mtime / 1_000_000_000n);
    into.mtimeNsec = Number(node.mtime % 1_000_000_000n);
    return 0;
  }

  readlink(inode: number): Uint8Array | number {
    const node = this.#nodes.get(inode);
    if (node === undefined) return -ESTALE;
    return node.type === S_IFLNK ? node.target : -EINVAL;
  }

  /** Offsets: 0 is `.`, 1 is `..`, then the children's own. */
  readdir(directory: number, offset: number, into: DirectoryEntry): number {
    const node = this.#nodes.get(directory);
    if (node === undefined) return -ESTALE;
    if (node.type !== S_IFDIR) return -ENOTDIR;
    if (offset < 2) {
      into.node = offset === 0 ? directory : node.parent;
      into.type = S_IFDIR;
      into.name = offset === 0 ? dot : dotDot;
      into.nameStart = 0;
      into.nameEnd = offset + 1;
      into.next = offset + 1;
      return 1;
    }
    const child = node.children[firstAt(node.children, offset)];
    if (child === undefined) return 0;
    into.node = child.node;
    into.type = child.type;
    into.name = child.name;
    into.nameStart = 0;
    into.nameEnd = child.name.byteLength;
    into.next = child.offset + 1;
    return 1;
  }

  getxattr(inode: number): number {
    return this.#nodes.has(inode) ? -ENODATA : -ESTALE;
  }

  listxattr(inode: number): Uint8Array | number {
    return this.#nodes.has(inode) ? nothing : -ESTALE;
  }

  read(inode: number, offset: number): number {
    const node = this.#nodes.get(inode);
    if (node === undefined) return -ESTALE;
    if (node.type === S_IFREG) return offset < node.size ? DEFERRED : 0;
    return node.type === S_IFDIR ? -EISDIR : -EINVAL;
  }

  #directory(inode: number): Directory {
    const node = this.#nodes.get(inode);
    if (node?.type !== S_IFDIR) throw new RangeError(`upper tree: inode ${inode} is no directory`);
    return node;
  }

  #add(parent: number, name: string, identity: string, node: UpperNode): number {
    const inode = this.#freeInode(identity);
    this.#nodes.set(inode, node);
    this.#enter(parent, name, inode, node.type);
    return inode;
  }

  #enter(parent: number, name: string, node: number, type: number): void {
    const directory = this.#directory(parent);
    const child: Child = { name: Buffer.from(name), node, type, offset: directory.nextOffset++ };
    directory.children.push(child);
    directory.byName.set(child.name.toString('latin1'), child);
    this.#touch(parent);
  }

  #touch(inode: number): void {
    const directory = this.#directory(inode);
    const time = now();
    directory.mtime = time > directory.mtime ? time : directory.mtime + 1n;
    this.#changed(inode);
  }

  /** 32 bits of the digest of what the node is; the next free number where two nodes meet. */
  #freeInode(identity: string): number {
    let inode = parseInt(hash('sha256', identity, 'hex').slice(0, 8), 16);
    while (inode <= UPPER_ROOT || this.#nodes.has(inode)) inode = (inode + 1) >>> 0;
    return inode;
  }
}

function emptyDirectory(path: string, parent: number): Directory {
  return { type: S_IFDIR, path, parent, resolves: false, children: [], byName: new Map(), nextOffset: 2, mtime: now() };
}

function now(): bigint {
  return BigInt(Date.now()) * 1_000_000n;
}

/** Index of the first child whose offset is at or behind `offset`. */
function firstAt(children: readonly Child[], offset: number): number {
  let low = 0;
  let high = children.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (children[middle].offset < offset) low = middle + 1;
    else high = middle;
  }
  return low;
}
