import { LazylayerError } from '../errors.js';
import { MergedTree, type MergedEntry, type MergedNode } from '../fs/merged.js';

/** Components of paths that one walk passes: symlinks may be as long as paths, and lead to others. */
const MAX_STEPS = 16_384;

/** An image's tree for one walk that guesses: what an image says costs no more than so much, whatever that is. */
export class BoundedTree extends MergedTree {
  #left = MAX_STEPS;

  /** What a process in the image would meet at a path; undefined where nothing is, or nothing more is looked for. */
  find(path: string): MergedNode | undefined {
    if (this.#left <= 0) return undefined;
    try {
      return this.resolve(path, { onStep: () => this.#step() });
    } catch {
      return undefined; // not there, or not to be reached
    }
  }

  /** The regular file at a path. */
  file(path: string): MergedNode | undefined {
    return this.fileOf(this.find(path), path);
  }

  /** The regular file that a directory's entry is, or leads to; `path` is that of the entry. */
  fileOf(entry: MergedNode | undefined, path: string): MergedNode | undefined {
    const node = entry !== undefined && this.isSymlink(entry) ? this.find(path) : entry;
    return node !== undefined && this.isRegular(node) ? node : undefined;
  }

  /** The entries of a directory; none where there is no directory, or where it has more than `most` and is not what is looked for. */
  list(path: string, most: number): MergedEntry[] {
    const directory = this.find(path);
    if (directory === undefined || !this.isDirectory(directory)) return [];
    const size = directory.parts.reduce((sum, part) => sum + this.treeOf(part).count[part.inode], 0);
    return size > most ? [] : this.readdir(directory);
  }

  #step(): void {
    if (--this.#left < 0) throw new LazylayerError('RESOURCE_EXHAUSTED', `more than ${MAX_STEPS} steps through a tree`);
  }
}
