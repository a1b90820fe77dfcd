import { LazylayerError } from '../errors.js';
import { decodeDevice, NONE, ROOT, type Tree } from '../toc/tree.js';
import { bufferOf } from '../util/bytes.js';

/** A directory's or file's place in one layer; layers count from the lowest, 0. */
export interface LayerInode {
  readonly layer: number;
  readonly inode: number;
}

/** A file or directory of the merged view: the place in the topmost layer that has it, which its attributes come from. */
export interface MergedNode extends LayerInode {
  /** For a directory, every place that its entries come from, the topmost first; empty for all else. */
  readonly parts: readonly LayerInode[];
}

export interface MergedEntry {
  /** Any bytes but `/` and NUL. */
  readonly name: Buffer;
  readonly node: MergedNode;
}

/** What stat(2) would show of the file in its own layer. */
export interface MergedStat {
  /** Type and permission bits, see inode(7). */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly nlink: number;
  /** Bytes; for a symlink, those of its target. */
  readonly size: number;
  /** Whole seconds since 1970, may be negative. */
  readonly mtime: number;
  readonly mtimeNsec: number;
  /** For character and block devices. */
  readonly device?: { readonly major: number; readonly minor: number };
}

/** Symlinks that one path may lead through, as Linux has it. */
const MAX_SYMLINKS = 40;
const OPAQUE = Buffer.from('trusted.overlay.opaque');
const SLASH = 0x2f;
const DOT = 0x2e;

/**
 * An image's files as a container would see them, from the layers' trees alone: what overlayfs does in the kernel, without a mount.
 * A directory shows what the directories of the same name below it have, down to an opaque one or to something that is none; a
 * whiteout hides its name below. Unlike overlayfs, whiteouts never show, and an opaque root hides the layers below.
 */
export class MergedTree {
  readonly root: MergedNode;
  readonly #trees: readonly Tree[];

  /** @param layers the lowest first */
  constructor(layers: readonly { readonly tree: Tree }[]) {
    this.#trees = layers.map((layer) => layer.tree);
    if (layers.length === 0)
      throw new LazylayerError('INVALID_ARGUMENT', 'an image: expected at least one layer, found none');
    const roots = layers.map((_, layer) => ({ layer, inode: ROOT })).reverse();
    this.root = this.#combine(roots)!;
  }

  /** The lowest layer that anything is seen of: 0, unless the root of a higher one is opaque. */
  get lowest(): number {
    return this.root.parts.at(-1)!.layer;
  }

  treeOf(node: LayerInode): Tree {
    return this.#trees[node.layer];
  }

  isDirectory(node: MergedNode): boolean {
    return node.parts.length > 0;
  }

  isSymlink(node: MergedNode): boolean {
    return this.treeOf(node).isSymlink(node.inode);
  }

  isRegular(node: MergedNode): boolean {
    return this.treeOf(node).isRegular(node.inode);
  }

  /** What a directory has under one name; undefined where there is nothing, or `directory` is none. */
  child(directory: MergedNode, name: Uint8Array): MergedNode | undefined {
    return this.#combine(this.#candidates(directory, name));
  }

  /** The node at a path as it is written: no symlink is followed, `.` and `..` are resolved by the tree. */
  lookup(path: string | Uint8Array): MergedNode | undefined {
    const trail = [this.root];
    for (const name of componentsOf(path)) {
      const here = trail.at(-1)!;
      if (!this.isDirectory(here)) return undefined;
      if (step(trail, name)) continue;
      const node = this.child(here, name);
      if (node === undefined) return undefined;
      trail.push(node);
    }
    return trail.at(-1);
  }

  /**
   * The node that a process in the image would meet at a path; relative paths begin at the root too. Symlinks on the way are followed
   * inside the image's root, the last one only if asked to. `onStep` is called for each component on the way, and ends it by throwing.
   * @throws NOT_FOUND, NOT_A_DIRECTORY, FAILED_PRECONDITION after 40 symlinks
   */
  resolve(path: string | Uint8Array, options: { followSymlinks?: boolean; onStep?: () => void } = {}): MergedNode {
    const follow = options.followSymlinks ?? true;
    const trail = [this.root];
    const rest = componentsOf(path).reverse();
    let symlinks = 0;
    for (let name = rest.pop(); name !== undefined; name = rest.pop()) {
      options.onStep?.();
      const here = trail.at(-1)!;
      if (!this.isDirectory(here)) throw new LazylayerError('NOT_A_DIRECTORY', `${show(path)}: not a directory`);
      if (step(trail, name)) continue;
      const node = this.child(here, name);
      if (node === undefined) throw new LazylayerError('NOT_FOUND', `${show(path)}: no such file or directory`);
      if (!this.isSymlink(node) || (rest.length === 0 && !follow)) {
        trail.push(node);
        continue;
      }
      if (++symlinks > MAX_SYMLINKS)
        throw new LazylayerError(
          'FAILED_PRECONDITION',
          `${show(path)}: more than ${MAX_SYMLINKS} levels of symbolic links`,
        );
      const target = this.readlink(node);
      if (target[0] === SLASH) trail.length = 1;
      rest.push(...componentsOf(target).reverse());
    }
    return trail.at(-1)!;
  }

  stat(node: MergedNode): MergedStat {
    const { inode } = node;
    const tree = this.treeOf(node);
    const rdev = tree.rdev(inode);
    return {
      mode: tree.mode[inode],
      uid: tree.uid[inode],
      gid: tree.gid[inode],
      nlink: tree.nlink[inode],
      size: tree.isSymlink(inode) ? tree.count[inode] : tree.size[inode],
      mtime: tree.mtime[inode],
      mtimeNsec: tree.mtimeNsec[inode],
      ...(rdev !== 0 && { device: decodeDevice(rdev) }),
    };
  }

  /** A directory's entries in the order of their names' bytes, without `.` and `..`. @throws NOT_A_DIRECTORY */
  readdir(directory: MergedNode): MergedEntry[] {
    if (!this.isDirectory(directory)) throw new LazylayerError('NOT_A_DIRECTORY', 'readdir: not a directory');
    const cursors = directory.parts.map(({ layer, inode }) => {
      const tree = this.#trees[layer];
      return { layer, tree, at: tree.first[inode], end: tree.first[inode] + tree.count[inode] };
    });
    const entries: MergedEntry[] = [];
    for (;;) {
      let name: Buffer | undefined;
      for (const { tree, at, end } of cursors) {
        if (at === end) continue;
        const candidate = tree.name(at);
        if (name === undefined || candidate.compare(name) < 0) name = candidate;
      }
      if (name === undefined) return entries;
      const found: LayerInode[] = [];
      for (const cursor of cursors) {
        const { layer, tree, at, end } = cursor;
        if (at === end || !tree.name(at).equals(name)) continue;
        found.push({ layer, inode: tree.direntInode[at] });
        cursor.at++;
      }
      const node = this.#combine(found);
      if (node !== undefined) entries.push({ name, node });
    }
  }

  /** The target's bytes, as they were written. @throws INVALID_ARGUMENT for what is no symlink */
  readlink(node: MergedNode): Buffer {
    if (!this.isSymlink(node)) throw new LazylayerError('INVALID_ARGUMENT', 'readlink: not a symbolic link');
    return this.treeOf(node).target(node.inode);
  }

  /** Everything below a directory, each directory before what it holds; `path` is relative to where the walk began. */
  *walk(directory: MergedNode = this.root): Generator<{ readonly path: Buffer; readonly node: MergedNode }> {
    const stack = this.readdir(directory)
      .map(({ name, node }) => ({ path: name, node }))
      .reverse();
    for (let found = stack.pop(); found !== undefined; found = stack.pop()) {
      yield found;
      if (!this.isDirectory(found.node)) continue;
      for (const { name, node } of this.readdir(found.node).reverse())
        stack.push({ path: Buffer.concat([found.path, Buffer.of(SLASH), name]), node });
    }
  }

  *#candidates(directory: MergedNode, name: Uint8Array): Generator<LayerInode> {
    for (const { layer, inode } of directory.parts) {
      const found = this.#trees[layer].lookup(inode, name);
      if (found !== NONE) yield { layer, inode: found };
    }
  }

  /** What is seen of inodes of one name, the topmost first. */
  #combine(candidates: Iterable<LayerInode>): MergedNode | undefined {
    const parts: LayerInode[] = [];
    for (const part of candidates) {
      const tree = this.#trees[part.layer];
      if (!tree.isDirectory(part.inode)) {
        if (parts.length === 0 && !tree.isWhiteout(part.inode)) return { ...part, parts };
        break;
      }
      parts.push(part);
      if (isOpaque(tree, part.inode)) break;
    }
    return parts.length === 0 ? undefined : { ...parts[0], parts };
  }
}

function isOpaque(tree: Tree, inode: number): boolean {
  const value = tree.xattrValue(inode, OPAQUE);
  return value?.length === 1 && value[0] === 0x79; // "y"
}

/** Goes where `.` and `..` lead, which no directory holds; false for any other name. */
function step(trail: MergedNode[], name: Buffer): boolean {
  if (name.length > 2 || name.some((byte) => byte !== DOT)) return false;
  if (name.length === 2 && trail.length > 1) trail.pop();
  return true;
}

/** The names of a path. One that ends with a slash means a directory, so it gets a `.` there. */
function componentsOf(path: string | Uint8Array): Buffer[] {
  const bytes = typeof path === 'string' ? Buffer.from(path) : bufferOf(path);
  const names: Buffer[] = [];
  for (let start = 0; start <= bytes.length;) {
    const slash = bytes.indexOf(SLASH, start);
    const end = slash < 0 ? bytes.length : slash;
    if (end > start) names.push(bytes.subarray(start, end));
    start = end + 1;
  }
  if (bytes.at(-1) === SLASH) names.push(Buffer.from('.'));
  return names;
}

function show(path: string | Uint8Array): string {
  return typeof path === 'string' ? path : Buffer.from(path).toString();
}
