import type { BigIntStats, Dirent } from 'node:fs';
import { lstat, readdir } from 'node:fs/promises';
import type { Usage } from './snapshotter.js';

/** Names whose metadata is asked for at once: some for each thread of libuv's pool, so that none idles. */
const batch = 64;

/** What a tree takes on disk, its root included: allocated blocks, each inode once (du(1) counts so). Names may be any bytes. */
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
    const entries: Dirent<Buffer>[] = await readdir(directory, { withFileTypes: true, encoding: 'buffer' });
    for (let from = 0; from < entries.length; from += batch) {
      const paths = entries.slice(from, from + batch).map((entry) => join(directory, entry));
      for (const stats of await Promise.all(paths.map((path) => lstat(path, { bigint: true })))) add(stats);
    }
    for (const entry of entries) if (entry.isDirectory()) directories.push(join(directory, entry));
  }
  return { size, inodes };
}

const slash = Buffer.from('/');

function join(directory: Buffer, entry: Dirent<Buffer>): Buffer {
  return Buffer.concat([directory, slash, entry.name]);
}
