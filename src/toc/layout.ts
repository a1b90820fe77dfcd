import { FormatError } from '../errors.js';
import { roundUp } from '../util/bytes.js';
import type { ChunkList } from './chunk-list.js';
import { MAX_MEMBER_CHUNKS } from './entry.js';
import { Directory, Leaf } from './nodes.js';
import { S_IFCHR, S_IFLNK, S_IFMT, Tree, type TreeFacts } from './tree.js';
import type { XattrTable } from './xattrs.js';

/** Each file begins on one in the cache file, so that a page of it is a page there. */
export const CACHE_ALIGN = 4096;

export interface LayoutOptions {
  /** The blob itself, uncompressed, serves as the cache file: chunks lie there where they lie in the blob. */
  readonly inPlace?: boolean;
}

/** Numbers the inodes of a built layer and writes them into a tree's sections: breadth first, so a child's comes after its parent's. */
export class Layout {
  readonly #nodes: Leaf[] = [];
  readonly #direntNames: string[] = [];
  readonly #direntNodes: Leaf[] = [];
  #whiteout: Leaf | undefined;
  #stringBytes = 0;
  #xattrWords = 1; // word 0 stands for none
  #cacheBytes = 0;
  #chunkCount = 0;

  constructor(
    private readonly what: string,
    private readonly root: Directory,
    private files: Leaf[],
    private readonly chunks: ChunkList,
    private readonly xattrs: XattrTable,
  ) {}

  tree(facts: Omit<TreeFacts, 'cacheBytes'>, options?: LayoutOptions): Tree {
    this.#number();
    const sets = this.#measureXattrs();
    const cachePlaces = this.#placeFiles(facts.contentEnd, options?.inPlace === true);
    const tree = Tree.allocate(
      {
        inodes: this.#nodes.length,
        dirents: this.#direntNodes.length,
        chunks: this.#chunkCount,
        xattrWords: this.#xattrWords,
        stringBytes: this.#stringBytes,
      },
      { ...facts, cacheBytes: this.#cacheBytes },
    );
    let at = 0;
    const write = (text: string): number => {
      at += tree.strings.write(text, at, 'latin1');
      return at - text.length;
    };
    this.#writeChunks(tree, cachePlaces);
    this.#writeInodes(tree, write);
    this.#writeDirents(tree, write);
    for (const set of sets) {
      tree.xattrs[set.word] = set.records.length;
      let word = set.word + 1;
      for (const [name, value] of set.records) {
        tree.xattrs.set([write(name), name.length, write(value), value.length], word);
        word += 4;
      }
    }
    return tree;
  }

  #number(): void {
    this.#enter(this.root);
    this.root.nlink = 2;
    for (let i = 0; i < this.#nodes.length; i++) {
      const directory = this.#nodes[i];
      if (!(directory instanceof Directory)) continue;
      const { children } = directory;
      for (const name of directory.whiteouts ?? []) {
        const real = children.get(name);
        if (real === undefined) children.set(name, (this.#whiteout ??= newWhiteout()));
        // Beside a whiteout of its own name a directory is a new one: what lower layers have in it is gone.
        else if (real instanceof Directory) real.opaque = true;
      }
      directory.firstDirent = this.#direntNodes.length;
      directory.direntCount = children.size;
      for (const name of [...children.keys()].sort()) {
        const child = children.get(name)!;
        if (child.inode < 0) this.#enter(child);
        if (child instanceof Directory) {
          child.nlink = 2;
          directory.nlink++;
        } else child.nlink++;
        this.#stringBytes += name.length;
        this.#direntNames.push(name);
        this.#direntNodes.push(child);
      }
    }
  }

  #enter(node: Leaf): void {
    node.inode = this.#nodes.length;
    this.#nodes.push(node);
    this.#stringBytes += node.target.length;
  }

  #measureXattrs() {
    const sets = new Set<NonNullable<Leaf['xattrs']>>();
    for (const node of this.#nodes) {
      if (node instanceof Directory && node.opaque) node.xattrs = this.xattrs.withOpaque(node.xattrs);
      if (node.xattrs !== undefined) sets.add(node.xattrs);
    }
    for (const set of sets) {
      set.word = this.#xattrWords;
      this.#xattrWords += 1 + 4 * set.records.length;
      for (const [name, value] of set.records) this.#stringBytes += name.length + value.length;
    }
    return sets;
  }

  /** Brings the files that are still there into blob order and gives each its place in the cache file. */
  #placeFiles(contentEnd: number, inPlace: boolean): Float64Array {
    const { chunks } = this;
    const inOrder = (a: Leaf, b: Leaf) => chunks.compare(a.firstChunk, b.firstChunk);
    this.files = this.files.filter((file) => file.inode >= 0);
    if (this.files.some((file, i) => i > 0 && inOrder(this.files[i - 1], file) > 0)) this.files.sort(inOrder);
    const places = new Float64Array(this.files.length);
    let last = -1;
    let ofMember = 0;
    this.files.forEach((file, i) => {
      const place = inPlace ? chunks.offset[file.firstChunk] : roundUp(this.#cacheBytes, CACHE_ALIGN);
      places[i] = place;
      let end = place;
      for (let chunk = file.firstChunk; chunk < file.firstChunk + file.chunkCount; last = chunk++) {
        const offset = chunks.offset[chunk];
        if (last >= 0 && chunks.compare(last, chunk) > 0)
          throw new FormatError(`${this.what}, chunks`, {
            offset,
            expected: "each file's chunks together, in file order",
            found: `one after that at ${chunks.offset[last]}`,
          });
        ofMember = last >= 0 && chunks.offset[last] === offset ? ofMember + 1 : 1;
        if (ofMember > MAX_MEMBER_CHUNKS)
          throw new FormatError(`${this.what}, chunks`, {
            offset,
            expected: `at most ${MAX_MEMBER_CHUNKS} in one member`,
            found: 'more',
          });
        if (ofMember > 1 && chunks.inner[chunk] < chunks.inner[last] + chunks.size[last])
          throw new FormatError(`${this.what}, chunks`, {
            offset,
            expected: `the next at inner offset ${chunks.inner[last] + chunks.size[last]} or later`,
            found: `${chunks.inner[chunk]}`,
          });
        if (inPlace && offset !== end)
          throw new FormatError(`${this.what}, chunks`, { offset, expected: `the next at ${end}`, found: `${offset}` });
        end += chunks.size[chunk];
        if (offset >= contentEnd || (inPlace && end > contentEnd))
          throw new FormatError(`${this.what}, chunks`, {
            offset,
            expected: `chunks before byte ${contentEnd}, where content ends`,
            found: 'one beyond',
          });
      }
      this.#chunkCount += file.chunkCount;
      this.#cacheBytes = Math.max(this.#cacheBytes, end);
    });
    return places;
  }

  #writeChunks(tree: Tree, places: Float64Array): void {
    const { chunks } = this;
    let to = 0;
    this.files.forEach((file, i) => {
      const from = file.firstChunk;
      file.firstChunk = to;
      let place = places[i];
      for (let chunk = from; chunk < from + file.chunkCount; chunk++, to++) {
        tree.chunkOffset[to] = chunks.offset[chunk];
        tree.chunkInner[to] = chunks.inner[chunk];
        tree.chunkSize[to] = chunks.size[chunk];
        tree.chunkCache[to] = place;
        place += chunks.size[chunk];
      }
      const digests = chunks.digests.subarray(from * 32, (from + file.chunkCount) * 32);
      tree.chunkDigests.set(digests, (to - file.chunkCount) * 32);
    });
  }

  #writeInodes(tree: Tree, write: (text: string) => number): void {
    this.#nodes.forEach((node, inode) => {
      tree.mode[inode] = node.mode;
      tree.uid[inode] = node.uid;
      tree.gid[inode] = node.gid;
      tree.size[inode] = node.size;
      tree.mtime[inode] = node.mtime;
      tree.mtimeNsec[inode] = node.mtimeNsec;
      tree.nlink[inode] = node.nlink;
      tree.xattr[inode] = node.xattrs?.word ?? 0;
      if (node instanceof Directory) {
        tree.first[inode] = node.firstDirent;
        tree.count[inode] = node.direntCount;
        tree.extra[inode] = node.parent.inode;
      } else if ((node.mode & S_IFMT) === S_IFLNK) {
        tree.first[inode] = write(node.target);
        tree.count[inode] = tree.size[inode] = node.target.length;
      } else {
        tree.first[inode] = node.firstChunk;
        tree.count[inode] = node.chunkCount;
        tree.extra[inode] = node.rdev;
      }
    });
  }

  #writeDirents(tree: Tree, write: (text: string) => number): void {
    this.#direntNodes.forEach((node, dirent) => {
      const name = this.#direntNames[dirent];
      tree.direntInode[dirent] = node.inode;
      tree.direntName[dirent] = write(name);
      tree.direntNameBytes[dirent] = name.length;
    });
  }
}

/** All whiteouts of a layer are one inode, as overlayfs itself links them. */
function newWhiteout(): Leaf {
  const node = new Leaf();
  node.mode = S_IFCHR;
  return node;
}
