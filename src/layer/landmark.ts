import { lastOffset, placeOf, type Place } from '../estargz/glance.js';
import { PREFETCH_LANDMARK } from '../toc/builder.js';
import { NONE, ROOT, type Tree } from '../toc/tree.js';
import { JOIN_BYTES, programSpan, type ChunkSpan } from './read-ahead.js';

/** Every container: its runtime looks its user up in them. */
export const RUNTIME_FILES = ['/etc/passwd', '/etc/group'];

/**
 * What to bring of a layer that says itself what a start needs: what its landmark asks for, and what lies near behind it and every
 * container's runtime reads. No trace of what runs in a container sees that, so it is not among what a landmark asks for, and would be a
 * request of its own.
 */
export function markedSpans(tree: Tree): ChunkSpan[] {
  const bytes = tree.facts.prefetchBytes ?? 0;
  const spans = landmarkSpans(tree, bytes);
  const last = spans.at(-1);
  if (last === undefined) return spans;
  let { end } = last;
  for (const file of runtimeSpans(tree))
    if (file.first >= end && tree.chunkOffset[file.first] - tree.chunkEnd(end - 1) <= JOIN_BYTES) ({ end } = file);
  return [...spans.slice(0, -1), { first: last.first, end }];
}

/** What every container's runtime reads of a layer, in the order in which it lies. */
export function runtimeSpans(tree: Tree): ChunkSpan[] {
  return RUNTIME_FILES.map((path) => fileSpan(tree, path))
    .filter(({ first, end }) => first < end)
    .sort((a, b) => a.first - b.first);
}

/**
 * The parts of a blob that are likely to be asked for first, near each other, by a look at a TOC that nobody has read yet: what its landmark asks
 * for, and what every container's runtime reads. None where that cannot be told.
 */
export function firstWanted(json: Uint8Array): Place[] {
  const landmark = placeOf(json, PREFETCH_LANDMARK);
  if (landmark?.start === 0) return [];
  const runtime = RUNTIME_FILES.flatMap((path) => placeOf(json, path.slice(1)) ?? []).sort((a, b) => a.start - b.start);
  const parts = landmark === undefined ? [] : [{ start: 0, end: landmark.end }];
  let files: Place | undefined;
  for (const { start, end } of runtime) {
    const before = files ?? parts.at(-1);
    if (before === undefined || (start >= before.end && start - before.end <= JOIN_BYTES))
      files = { start: files?.start ?? start, end };
  }
  return files === undefined ? parts : [...parts, files];
}

/**
 * The same of a TOC of which the beginning is there; undefined where what follows could change it. TOCs have files in the order in which they
 * lie, so what is far behind a landmark is not near it.
 */
export function firstWantedOf(beginning: Uint8Array): Place[] | undefined {
  const parts = firstWanted(beginning);
  if (parts[0]?.start !== 0) return undefined;
  return lastOffset(beginning) > parts.at(-1)!.end + JOIN_BYTES ? parts : undefined;
}

/** The chunks of a regular file of the layer itself, by its path; none where it has no such file. */
function fileSpan(tree: Tree, path: string): ChunkSpan {
  const names = path.split('/').slice(1);
  let inode = ROOT;
  for (const name of names) {
    inode = tree.isDirectory(inode) ? tree.lookup(inode, Buffer.from(name)) : NONE;
    if (inode === NONE) break;
  }
  if (inode === NONE || !tree.isRegular(inode)) return { first: tree.counts.chunks, end: 0 };
  return programSpan(tree, inode);
}

/** The chunks that begin in the first `bytes` of the blob, of very large files only the first. */
export function landmarkSpans(tree: Tree, bytes: number): ChunkSpan[] {
  const { chunkOffset, counts } = tree;
  let end = 0;
  for (let high = counts.chunks; end < high;) {
    const middle = (end + high) >>> 1;
    if (chunkOffset[middle] < bytes) end = middle + 1;
    else high = middle;
  }
  if (end === 0) return [];
  const large: ChunkSpan[] = [];
  for (let inode = 0; inode < counts.inodes; inode++) {
    if (!tree.isRegular(inode) || tree.first[inode] >= end) continue;
    const program = programSpan(tree, inode);
    const stop = tree.first[inode] + tree.count[inode];
    if (program.end < stop) large.push({ first: program.end, end: Math.min(stop, end) });
  }
  const spans: ChunkSpan[] = [];
  let first = 0;
  for (const passed of [...large.sort((a, b) => a.first - b.first), { first: end, end }]) {
    if (first < passed.first) spans.push({ first, end: passed.first });
    first = passed.end;
  }
  return spans;
}
