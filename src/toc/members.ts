import type { Tree } from './tree.js';

/** The first chunk at or after `chunk + 1` that lies in another member, at most `end`. */
export function endOfMember(tree: Tree, chunk: number, end: number): number {
  const { chunkOffset } = tree;
  const offset = chunkOffset[chunk];
  let inside = chunk;
  let beyond = chunk + 1;
  for (let step = 1; beyond < end && chunkOffset[beyond] === offset; step *= 2) {
    inside = beyond;
    beyond = Math.min(end, beyond + step);
  }
  while (beyond - inside > 1) {
    const middle = (inside + beyond) >>> 1;
    if (chunkOffset[middle] === offset) inside = middle;
    else beyond = middle;
  }
  return beyond;
}

/** The first chunk, at or after `floor`, of the member that `chunk` lies in. */
export function firstOfMember(tree: Tree, chunk: number, floor = 0): number {
  const { chunkOffset } = tree;
  const offset = chunkOffset[chunk];
  let inside = chunk;
  let before = chunk - 1;
  for (let step = 1; before >= floor && chunkOffset[before] === offset; step *= 2) {
    inside = before;
    before = Math.max(floor - 1, before - step);
  }
  while (inside - before > 1) {
    const middle = (inside + before) >> 1;
    if (chunkOffset[middle] === offset) inside = middle;
    else before = middle;
  }
  return inside;
}
