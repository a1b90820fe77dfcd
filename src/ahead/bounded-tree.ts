import { LazylayerError } from '../errors.js';
import { MergedTree, type MergedNode } from '../fs/merged.js';

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

  #step(): void {
    if (--this.#left < 0) throw new LazylayerError('RESOURCE_EXHAUSTED', `more than ${MAX_STEPS} steps through a tree`);
  }
}
