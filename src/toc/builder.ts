import { FormatError } from '../errors.js';
import { ChunkList } from './chunk-list.js';
import { MAX_CHUNK_BYTES, MAX_INNER_OFFSET, type LayerFacts, type TocEntry } from './entry.js';
import { Layout, type LayoutOptions } from './layout.js';
import { MAX_COMPONENT_BYTES, normalizeName, showName } from './names.js';
import { Directory, Leaf } from './nodes.js';
import { encodeDevice, S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG, type Tree } from './tree.js';
import { XattrTable } from './xattrs.js';

const typeBits = {
  dir: S_IFDIR,
  reg: S_IFREG,
  symlink: S_IFLNK,
  char: S_IFCHR,
  block: S_IFBLK,
  fifo: S_IFIFO,
} as const;

const WHITEOUT = '.wh.';
/** Names that aufs keeps for itself; all but the opaque mark mean nothing in an image. */
const WHITEOUT_META = '.wh..wh.';
const OPAQUE = '.wh..wh..opq';

/** A file in the root whose place is the end of what a start needs. */
export const PREFETCH_LANDMARK = '.prefetch.landmark';
const NO_PREFETCH_LANDMARK = '.no.prefetch.landmark';
const hiddenInRoot = new Set([PREFETCH_LANDMARK, NO_PREFETCH_LANDMARK, 'stargz.index.json']);

/** Inodes and whiteouts of a layer at most: a few names of a short TOC could bring more directories than memory holds. */
const MAX_NODES = 2 ** 21;
/**
 * Bytes of names, targets of links and xattrs that a layer's entries may have in all, xattrs with what they cost besides: all of it is held
 * in memory while the tree is made. Layers have some 70 bytes an entry, large ones less than 50 MB.
 */
const MAX_TEXT_BYTES = 256 * 1024 * 1024;
/** Symlinks that one path may lead through, as Linux has it. */
const MAX_SYMLINKS = 40;
/**
 * Parts of paths and of symlinks' targets that a layer may have walked: so many, and so many more for each of its entries. 40 symlinks of
 * 4 KiB are 80,000 parts, for each entry behind the last one; a million take some 20 ms. Entries that lie together take one walk, of ten parts or so.
 */
const FREE_STEPS = 2 ** 20;
const STEPS_PER_NODE = 64;

/**
 * Puts a layer's entries together, in archive order, to the tree that extracting them in that order would leave, as overlayfs
 * wants to see it: the last of equal names wins, a directory named again keeps its children, what stood where no directory
 * can stay is dropped with all below it. A parent that is missing is made, 0755 and root's; one that is a symlink leads where
 * it leads inside this layer, as it does for extractors that confine themselves to a root.
 */
export class TreeBuilder {
  readonly #root = new Directory(undefined);
  readonly #chunks = new ChunkList();
  readonly #files: Leaf[] = [];
  readonly #xattrs = new XattrTable();
  #landmarkAt: number | undefined;
  #prefetch = true;
  #nodes = 0;
  #steps = 0;
  #text = 0;
  // Entries come directory by directory: the last parent is nearly always the next one's.
  #lastPath = '';
  #lastDirectory = this.#root;

  /** @param what names the layer in errors */
  constructor(
    private readonly what = 'layer',
    private readonly maxNodes = MAX_NODES,
    private readonly maxTextBytes = MAX_TEXT_BYTES,
  ) {}

  /** @throws FormatError for an entry that no extraction could place */
  add(entry: TocEntry): void {
    const path = normalizeName(entry.name, this.what);
    this.#count();
    this.#text += entry.name.byteLength + entry.linkName.byteLength;
    this.#checkText();
    const slash = path.lastIndexOf('/');
    const parentPath = slash < 0 ? '' : path.slice(0, slash);
    const name = path.slice(slash + 1);
    if (path === '') return this.#updateRoot(entry);
    if (slash < 0 && hiddenInRoot.has(name)) return this.#landmark(name, entry);
    if (name.startsWith(WHITEOUT) || path.includes(WHITEOUT_META)) return this.#whiteout(path, parentPath, name);
    const parent = this.#walk(parentPath, true);
    const existing = parent.children.get(name);
    if (entry.type === 'dir') {
      if (existing instanceof Directory) return this.#setAttributes(existing, entry);
      const directory = new Directory(parent);
      // Extraction removes what stood here before, and with it what a lower layer has: nothing of that shines through.
      directory.opaque = existing !== undefined;
      this.#setAttributes(directory, entry);
      return this.#place(parent, name, directory);
    }
    if (entry.type === 'hardlink') {
      const target = this.#hardlinkTarget(entry);
      if (target !== existing) this.#place(parent, name, target);
      return;
    }
    const leaf = new Leaf();
    this.#setAttributes(leaf, entry);
    if (entry.type === 'reg') this.#addChunks(leaf, entry);
    else if (entry.type === 'symlink') leaf.target = this.#symlinkTarget(entry);
    else if (entry.type !== 'fifo') leaf.rdev = this.#device(entry);
    this.#place(parent, name, leaf);
  }

  /**
   * The finished tree. The builder is spent afterwards.
   * @throws FormatError where chunks leave the blob's content, overlap, are too many for a member, or those of two files are interleaved
   */
  build(facts: LayerFacts, options?: LayoutOptions): Tree {
    const prefetchBytes = this.#prefetch ? this.#landmarkAt : 0;
    return new Layout(this.what, this.#root, this.#files, this.#chunks, this.#xattrs).tree(
      { ...facts, ...(prefetchBytes !== undefined && { prefetchBytes: Math.min(prefetchBytes, facts.contentEnd) }) },
      options,
    );
  }

  #refuse(entry: TocEntry, expected: string, found: string): never {
    throw new FormatError(`${this.what}, entry ${showName(entry.name)}`, { expected, found });
  }

  #count(): void {
    if (++this.#nodes > this.maxNodes)
      throw new FormatError(this.what, { expected: `at most ${this.maxNodes} files and directories`, found: 'more' });
  }

  #checkText(): void {
    if (this.#text + this.#xattrs.cost > this.maxTextBytes)
      throw new FormatError(this.what, {
        expected: `at most ${this.maxTextBytes} bytes of names, links and xattrs`,
        found: 'more',
      });
  }

  #step(): void {
    const most = FREE_STEPS + STEPS_PER_NODE * this.#nodes;
    if (++this.#steps > most)
      throw new FormatError(this.what, {
        expected: `at most ${most} parts of paths, and of symlinks on them, to walk for ${this.#nodes} files and directories`,
        found: 'more',
      });
  }

  #place(parent: Directory, name: string, node: Leaf): void {
    const existing = parent.children.get(name);
    parent.children.set(name, node);
    if (existing === undefined) return;
    this.#lastPath = '';
    this.#lastDirectory = this.#root;
  }

  #updateRoot(entry: TocEntry): void {
    if (entry.type !== 'dir') this.#refuse(entry, 'a directory as the root', `type ${entry.type}`);
    this.#setAttributes(this.#root, entry);
  }

  #landmark(name: string, entry: TocEntry): void {
    if (name === NO_PREFETCH_LANDMARK) this.#prefetch = false;
    else if (name === PREFETCH_LANDMARK) this.#landmarkAt = entry.chunks.at(0)?.offset ?? 0;
  }

  #whiteout(path: string, parentPath: string, name: string): void {
    if (name === OPAQUE && !parentPath.includes(WHITEOUT_META)) this.#walk(parentPath, true).opaque = true;
    if (path.includes(WHITEOUT_META)) return;
    const hidden = name.slice(WHITEOUT.length);
    if (hidden === '' || hidden === '.' || hidden === '..')
      throw new FormatError(this.what, { expected: 'a whiteout that names a file', found: showName(path) });
    (this.#walk(parentPath, true).whiteouts ??= new Set()).add(hidden);
  }

  #setAttributes(node: Leaf, entry: TocEntry): void {
    node.mode = typeBits[entry.type as keyof typeof typeBits] | (entry.mode & 0o7777);
    node.uid = entry.uid;
    node.gid = entry.gid;
    node.mtime = entry.mtime;
    node.mtimeNsec = entry.mtimeNsec;
    if (entry.xattrs.length === 0) node.xattrs = undefined;
    else {
      node.xattrs = this.#xattrs.intern(entry.xattrs, (expected, found) => this.#refuse(entry, expected, found));
      this.#checkText();
    }
  }

  #addChunks(leaf: Leaf, entry: TocEntry): void {
    leaf.size = entry.size;
    leaf.firstChunk = this.#chunks.length;
    leaf.chunkCount = entry.chunks.length;
    let total = 0;
    for (const chunk of entry.chunks) {
      if (!(chunk.size > 0 && chunk.size <= MAX_CHUNK_BYTES))
        this.#refuse(entry, `chunks of 1 to ${MAX_CHUNK_BYTES} bytes`, `one of ${chunk.size}`);
      if (!Number.isSafeInteger(chunk.offset) || chunk.offset < 0 || chunk.innerOffset >>> 0 !== chunk.innerOffset)
        this.#refuse(entry, 'a chunk within the blob', `offset ${chunk.offset}, inner offset ${chunk.innerOffset}`);
      if (chunk.innerOffset > MAX_INNER_OFFSET)
        this.#refuse(
          entry,
          `chunks in the first ${MAX_INNER_OFFSET} bytes of their member`,
          `one at ${chunk.innerOffset}`,
        );
      this.#chunks.push(chunk);
      total += chunk.size;
    }
    if (total !== entry.size) this.#refuse(entry, `chunks of ${entry.size} bytes in all`, `${total}`);
    if (entry.chunks.length > 0) this.#files.push(leaf);
  }

  #symlinkTarget(entry: TocEntry): string {
    const length = entry.linkName.byteLength;
    if (length === 0 || length > 4095 || entry.linkName.includes(0))
      this.#refuse(entry, 'a symlink target of 1 to 4095 bytes without NUL', `${length} bytes`);
    return entry.linkName.toString('latin1');
  }

  #device(entry: TocEntry): number {
    const { devMajor, devMinor } = entry;
    if (!(devMajor >= 0 && devMajor <= 0xfff && devMinor >= 0 && devMinor <= 0xfffff))
      this.#refuse(entry, 'a device number of 12 bits major, 20 bits minor', `${devMajor}:${devMinor}`);
    return encodeDevice(devMajor, devMinor);
  }

  #hardlinkTarget(entry: TocEntry): Leaf {
    const path = normalizeName(entry.linkName, `${this.what}, hardlink ${showName(entry.name)}`);
    const slash = path.lastIndexOf('/');
    const target = this.#walk(slash < 0 ? '' : path.slice(0, slash), false)?.children.get(path.slice(slash + 1));
    if (target === undefined) this.#refuse(entry, 'a hardlink to an earlier entry', `${showName(path)}, which is none`);
    if (target instanceof Directory) this.#refuse(entry, 'a hardlink to a file', `the directory ${showName(path)}`);
    return target;
  }

  #walk(path: string, create: true): Directory;
  #walk(path: string, create: boolean): Directory | undefined;
  #walk(path: string, create: boolean): Directory | undefined {
    if (path === this.#lastPath) return this.#lastDirectory;
    let directory = this.#root;
    let symlinks = 0;
    const rest = path.split('/').reverse();
    for (let name = rest.pop(); name !== undefined; name = rest.pop()) {
      this.#step();
      if (name === '' || name === '.') continue;
      if (name === '..') {
        directory = directory.parent;
        continue;
      }
      const child = directory.children.get(name);
      if (child instanceof Directory) directory = child;
      else if (child === undefined) {
        if (!create) return undefined;
        if (name.length > MAX_COMPONENT_BYTES) return this.#noDirectory(path);
        this.#count();
        const made = new Directory(directory);
        directory.children.set(name, made);
        directory = made;
      } else {
        if ((child.mode & S_IFMT) !== S_IFLNK || ++symlinks > MAX_SYMLINKS) return this.#noDirectory(path);
        if (child.target.startsWith('/')) directory = this.#root;
        rest.push(...child.target.split('/').reverse());
      }
    }
    this.#lastPath = path;
    this.#lastDirectory = directory;
    return directory;
  }

  #noDirectory(path: string): never {
    throw new FormatError(this.what, { expected: 'a directory as the parent', found: showName(path) });
  }
}
