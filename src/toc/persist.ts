import { createHash } from 'node:crypto';
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { FormatError } from '../errors.js';
import type { ReadOptions } from '../io/reader.js';
import { replaceFile } from '../util/atomic-file.js';
import { HEADER_BYTES, parseHeader, Tree, treeBytes, type TreeCounts, type TreeFacts } from './tree.js';
import { checkTree } from './check.js';

/** After the tree's own bytes: their SHA-256, raw. */
const CHECKSUM_BYTES = 32;

/**
 * Writes a tree so that a reader, and the next process, see the old file or the new one. It is not waited for until the disk has it: a
 * tree that a power cut tears is refused by `loadTree`, and its source is asked for again.
 */
export async function saveTree(tree: Tree, path: string): Promise<void> {
  const bytes = new Uint8Array(tree.buffer);
  const { durable } = await replaceFile(path, [bytes, checksum(bytes)]);
  durable.catch(() => {});
}

/**
 * A saved tree, in shared memory, by one read.
 * @throws FormatError where the file is not what `saveTree` wrote, or holds an index that leads out of the tree: build it anew
 */
export async function loadTree(path: string, options?: ReadOptions): Promise<Tree> {
  await using file = await open(path, 'r');
  const { size } = await file.stat();
  options?.signal?.throwIfAborted();
  if (size < HEADER_BYTES + CHECKSUM_BYTES || size > MAX_TREE_BYTES)
    throw new FormatError(path, {
      expected: `${HEADER_BYTES + CHECKSUM_BYTES} to ${MAX_TREE_BYTES} bytes`,
      found: `${size}`,
    });
  const buffer = new SharedArrayBuffer(size - CHECKSUM_BYTES);
  const bytes = new Uint8Array(buffer);
  const claimed = Buffer.alloc(CHECKSUM_BYTES);
  const { bytesRead } = await file.readv([bytes, claimed], 0);
  if (bytesRead !== size)
    throw new FormatError(path, { offset: bytesRead, expected: `${size} bytes`, found: 'the end of the file' });
  const found = checksum(bytes);
  if (!found.equals(claimed))
    throw new FormatError(path, {
      offset: buffer.byteLength,
      expected: `the checksum ${found.toString('hex')}`,
      found: claimed.toString('hex'),
    });
  const tree = Tree.over(buffer, path);
  checkTree(tree, path);
  return tree;
}

/**
 * What a saved tree says of itself, by its header and the file's length alone: whether its bytes are those that were written is
 * `loadTree`'s business. Synchronous: a daemon looks at a thousand of them before it serves, each in less time than a turn of the event loop.
 * @throws FormatError where the file cannot be what `saveTree` wrote
 */
export function readTreeHeader(path: string): { counts: TreeCounts; facts: TreeFacts } {
  const header = Buffer.allocUnsafe(HEADER_BYTES);
  const fd = openSync(path, 'r');
  let size: number;
  let bytes: number;
  try {
    ({ size } = fstatSync(fd));
    bytes = readSync(fd, header, 0, HEADER_BYTES, 0);
  } finally {
    closeSync(fd);
  }
  const found = parseHeader(header.subarray(0, bytes), path);
  const expected = treeBytes(found.counts) + CHECKSUM_BYTES;
  if (size !== expected)
    throw new FormatError(path, { expected: `${expected} bytes, as its header says`, found: `${size}` });
  return found;
}

/** One read() gives no more than this; no tree comes near it. */
const MAX_TREE_BYTES = 0x7fff_f000;

function checksum(bytes: Uint8Array): Buffer {
  return createHash('sha256').update(bytes).digest();
}
