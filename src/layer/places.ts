import { NONE, ROOT, type Tree } from '../toc/tree.js';

const DOT = 0x2e;
const isDigit = (byte: number) => byte >= 0x30 && byte <= 0x39;

/** Which file each chunk belongs to, and where files lie and what they are: by inodes, as the first of several names has it. */
export class Places {
  readonly #tree: Tree;
  /** By chunk. */
  readonly #inodes: Uint32Array;
  /** By inode: the directory, NONE of the root and of what has no name. */
  readonly #directories: Int32Array;
  readonly #kinds: Uint32Array;
  /** By inode: compressed bytes of a file, or of all files below a directory. */
  readonly #bytes: Float64Array;

  constructor(tree: Tree) {
    this.#tree = tree;
    this.#inodes = new Uint32Array(tree.counts.chunks);
    this.#directories = new Int32Array(tree.counts.inodes).fill(NONE);
    this.#kinds = new Uint32Array(tree.counts.inodes);
    this.#bytes = new Float64Array(tree.counts.inodes);
    const directories = [ROOT];
    for (const directory of directories) {
      const end = tree.first[directory] + tree.count[directory];
      for (let dirent = tree.first[directory]; dirent < end; dirent++) {
        const inode = tree.direntInode[dirent];
        if (this.#directories[inode] !== NONE) continue;
        this.#directories[inode] = directory;
        if (tree.isDirectory(inode)) directories.push(inode);
        else if (tree.isRegular(inode) && tree.count[inode] > 0) this.#addFile(inode, dirent);
      }
    }
    for (const directory of directories.reverse())
      if (directory !== ROOT) this.#bytes[this.#directories[directory]] += this.#bytes[directory];
  }

  #addFile(inode: number, dirent: number): void {
    const tree = this.#tree;
    const first = tree.first[inode];
    const end = first + tree.count[inode];
    this.#inodes.fill(inode, first, end);
    this.#kinds[inode] = kindOf(tree.name(dirent));
    this.#bytes[inode] = tree.compressedBytes(first, end);
    this.#bytes[this.#directories[inode]] += this.#bytes[inode];
  }

  /** The directory of a chunk's file; NONE where the chunk belongs to no file. */
  directory(chunk: number): number {
    return this.#directories[this.#inodes[chunk]];
  }

  /** The directory that a directory lies in; NONE of the root. */
  parent(directory: number): number {
    return this.#directories[directory];
  }

  /** A number for the ending of the name of a chunk's file: see `kindOf`. */
  kind(chunk: number): number {
    return this.#kinds[this.#inodes[chunk]];
  }

  /** Compressed bytes of a chunk's file. */
  fileBytes(chunk: number): number {
    return this.#bytes[this.#inodes[chunk]];
  }

  /** Whether a chunk's file is a program by its mode, and by a name without an ending: libraries may be executable, too. */
  isProgram(chunk: number): boolean {
    const inode = this.#inodes[chunk];
    return this.#kinds[inode] === 0 && (this.#tree.mode[inode] & 0o111) !== 0;
  }

  /** The highest directory, from this one up, that has no more than so many compressed bytes below it; NONE where this has more. */
  enclosing(directory: number, bytes: number): number {
    let found = NONE;
    for (let at = directory; at !== NONE && this.#bytes[at] <= bytes; at = this.#directories[at]) found = at;
    return found;
  }

  /** Whether a chunk's file lies anywhere below a directory. */
  isBelow(chunk: number, directory: number): boolean {
    let at = this.directory(chunk);
    while (at > ROOT && at !== directory) at = this.#directories[at];
    return at === directory;
  }
}

/** A number for what follows the last dot in a name, versions left out (`libz.so.1.2` ends in `so`); 0 where there is none. */
export function kindOf(name: Uint8Array): number {
  for (let end = name.byteLength; end > 0;) {
    const dot = name.lastIndexOf(DOT, end - 1);
    if (dot < 0) return 0;
    const ending = name.subarray(dot + 1, end);
    end = dot;
    if (ending.every(isDigit)) continue;
    let hash = 2166136261; // FNV-1a
    for (const byte of ending) hash = Math.imul(hash ^ byte, 16777619);
    return hash >>> 0;
  }
  return 0;
}
