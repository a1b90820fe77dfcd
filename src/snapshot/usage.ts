import type { BigIntStats, Dirent } from 'node:fs';
import { lstat, readdir } from 'node:fs/promises';
import { codeOf } from '../errors.js';
import type { Usage } from './snapshotter.js';

/** Names whose metadata is asked for at once: some for each thread of libuv's pool, so that none idles. */
const batch = 64;

/**
 * What a tree takes on disk, its root included: allocated blocks, each inode once (du(1) counts so). Names may be any bytes. What goes while it
 * is counted, as a container's files do, counts not.
 */
export async function diskUsage(root: string): Promise<Usage> {
  let size = 0;
  let inodes = 0;
  const linked = new Set<string>();
  const add = (stats: BigIntStats) => {
    if (stats.nlink > 1n && !stats.isDirectory()) {
      const inode = `${stats.dev}:${stats.ino}`;
      if (linked.has(inode)) return;
      linked.add(inode);
    }
    size += Number(stats.blocks) * 512;
    inodes++;
  };
  add(await lstat(root, { bigint: true }));
  const directories: Buffer[] = [Buffer.from(root)];
  for (let directory = directories.pop(); directory !== undefined; directory = directories.pop()) {
    const listed = readdir(directory, { withFileTypes: true, encoding: 'buffer' });
    const entries: Dirent<Buffer>[] = (await unlessGone(listed)) ?? [];
    for (let from = 0; from < entries.length; from += batch) {
      const paths = entries.slice(from, from + batch).map((entry) => join(directory, entry));
      for (const stats of await Promise.all(paths.map((path) => unlessGone(lstat(path, { bigint: true })))))
        if (stats !== undefined) add(stats);
    }
    for (const entry of entries) if (entry.isDirectory()) directories.push(join(directory, entry));
  }
  return { size, inodes };
}

async function unlessGone<V>(found: Promise<V>): Promise<V | undefined> {
  return found.catch((error: unknown) => {
    if (!['NOT_FOUND', 'NOT_A_DIRECTORY'].includes(codeOf(error))) throw error;
    return undefined;
  });
}

const slash = Buffer.from('/');

function join(directory: Buffer, entry: Dirent<Buffer>): Buffer {
  return Buffer.concat([directory, slash, entry.name]);
}
