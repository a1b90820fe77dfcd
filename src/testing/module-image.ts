import type { BoundedTree } from '../ahead/bounded-tree.js';
import { ModuleFinder, newListings, type ModulePlaces } from '../ahead/modules.js';
import type { Import } from '../ahead/python.js';
import { boundedTreeOf, pathOf } from './bounded-tree.js';
import { pycFile } from './pyc.js';

/** An image of modules alone, and what is found in it. */
export class ModuleImage {
  readonly places: ModulePlaces = { roots: new Set(), listings: newListings(), image: 0 };
  readonly tree: BoundedTree;
  readonly finder: ModuleFinder;

  constructor(...layers: (readonly string[])[]) {
    this.tree = boundedTreeOf(...layers);
    this.finder = new ModuleFinder(this.tree, this.places);
  }

  /** The paths, each once, of what a module at a path leads to, source or compiled by 3.11. */
  imports(path: string, content: string | readonly Import[] | Uint8Array): string[] {
    const file = pathOf(path);
    const bytes =
      typeof content === 'string'
        ? Buffer.from(content)
        : content instanceof Uint8Array
          ? content
          : pycFile('3.11', { imports: content });
    const found = this.finder.leadsTo({ path: file, node: this.tree.resolve(file) }, bytes);
    return this.#shown(found);
  }

  start(interpreter: string): string[] {
    return this.#shown(this.finder.start(interpreter));
  }

  #shown(found: ReturnType<ModuleFinder['start']>): string[] {
    const paths = found.map(({ path, node }) => {
      const { layer, inode } = this.tree.resolve(path);
      if (node.layer !== layer || node.inode !== inode) throw new Error(`${path} is another file`);
      return path.replace(/__pycache__\/([^/.]*)\.cpython-311\.pyc$/, '$1~');
    });
    return [...new Set(paths)];
  }
}
