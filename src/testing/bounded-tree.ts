import { BoundedTree } from '../ahead/bounded-tree.js';
import type { FileSpec } from './image-files.js';
import { treeOf } from './image-tree.js';
import { pycPath } from './pyc.js';

/** A `~` at the end stands for what a compiled module's name has there. */
export const pathOf = (path: string) => (path.endsWith('~') ? pycPath(path.slice(0, -1)) : path);

/** Files of a byte, or of so many: `/path = bytes`; symlinks: `/from -> to`. */
function filesOf(paths: readonly string[]): FileSpec[] {
  return paths.map((line) => {
    const [word, target] = line.slice(1).split(' -> ');
    const [path, bytes = '1'] = word.split(' = ');
    const name = pathOf(path);
    return target === undefined ? { path: name, content: Buffer.alloc(Number(bytes)) } : { path: name, target };
  });
}

/** A tree of layers, each said in such lines. */
export const boundedTreeOf = (...layers: (readonly string[])[]) =>
  new BoundedTree(layers.map((lines) => ({ tree: treeOf(filesOf(lines)) })));
