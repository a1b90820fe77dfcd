import { inodeOf, nodeNumber, slotOf, UPPER, UPPER_ROOT } from './nodes.js';
import type { ServedTree } from './served-tree.js';

/** The node at an absolute path of bytes, not following symlinks: its number, or what the failing lookup gave. */
export function nodeAt(tree: ServedTree, path: Uint8Array): number {
  const slash = 0x2f;
  let node = nodeNumber(UPPER, UPPER_ROOT);
  for (let start = 0; start < path.byteLength;) {
    const found = path.indexOf(slash, start);
    const end = found < 0 ? path.byteLength : found;
    if (end > start) {
      node = tree.lookup(slotOf(node), inodeOf(node), path, start, end);
      if (node < 0) return node;
    }
    start = end + 1;
  }
  return node;
}
