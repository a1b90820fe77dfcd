import { accessSync, constants, lstatSync, readdirSync, statSync, type Dirent, type Stats } from 'node:fs';
import { join } from 'node:path';
import { codeOf } from '../../errors.js';

export interface SampledFile {
  readonly path: string;
  readonly size: number;
}

/** Which files of a tree are read. The same for two trees with the same files. */
export interface Sample {
  /** Regular files and directories and all else. */
  readonly entries: number;
  /** Paths of files and directories that this user may not read: none of them is an entry, nor is what is below. */
  readonly leftOut: readonly string[];
  /** Paths of entries of every type, evenly over the whole tree. */
  readonly any: readonly string[];
  /** Regular files of 1 byte to 64 KiB, evenly over the whole tree. */
  readonly small: readonly SampledFile[];
  /** The largest regular files, up to `largeBytes` together. */
  readonly large: readonly SampledFile[];
}

const sampled = 2000;
const smallest = 64 * 1024;
const largeBytes = 256 * 1024 * 1024;

/** Looks at every file below a directory, on its file system. @throws what the system says where the directory itself cannot be read */
export function sampleTree(root: string): Sample {
  const { dev } = statSync(root);
  const paths = [root];
  const leftOut: string[] = [];
  const files: SampledFile[] = [];
  const walk = (directory: string): void => {
    for (const { name } of readdirSync(directory, { withFileTypes: true }).sort(byName)) {
      const path = join(directory, name);
      const found = readable(path);
      if (found === undefined) {
        leftOut.push(path);
        continue;
      }
      paths.push(path);
      if (found.isFile()) files.push({ path, size: found.size });
      else if (found.isDirectory() && found.dev === dev) walk(path);
    }
  };
  walk(root);
  const small = files.filter(({ size }) => size > 0 && size <= smallest);
  const large: SampledFile[] = [];
  let bytes = 0;
  for (const file of [...files].sort((a, b) => b.size - a.size || (a.path < b.path ? -1 : 1))) {
    if (file.size === 0 || (large.length > 0 && bytes + file.size > largeBytes)) break;
    large.push(file);
    bytes += file.size;
  }
  return { entries: paths.length, leftOut, any: evenly(paths), small: evenly(small), large };
}

/** Undefined where this user may not look at a file, or read what it has. */
function readable(path: string): Stats | undefined {
  try {
    const found = lstatSync(path);
    if (found.isFile()) accessSync(path, constants.R_OK);
    if (found.isDirectory()) accessSync(path, constants.R_OK | constants.X_OK);
    return found;
  } catch (error) {
    if (codeOf(error) !== 'PERMISSION_DENIED') throw error;
    return undefined;
  }
}

function evenly<T>(all: readonly T[]): T[] {
  const step = Math.max(1, all.length / sampled);
  return Array.from({ length: Math.min(sampled, all.length) }, (_, i) => all[Math.floor(i * step)]);
}

const byName = (a: Dirent, b: Dirent) => (a.name < b.name ? -1 : 1);

/** Blocks of `size` bytes anywhere in the files, by a linear congruential generator: the same in every run. */
export function places(files: readonly SampledFile[], count: number, size: number): { path: string; offset: number }[] {
  const blocks = files.map((file) => Math.ceil(file.size / size));
  const all = blocks.reduce((sum, some) => sum + some, 0);
  if (all === 0) return [];
  let state = 1;
  return Array.from({ length: count }, () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    let block = Math.floor((state / 2 ** 32) * all);
    let file = 0;
    while (block >= blocks[file]) block -= blocks[file++];
    return { path: files[file].path, offset: block * size };
  });
}
