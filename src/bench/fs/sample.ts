import { lstatSync, readdirSync, type Dirent } from 'node:fs';
import { join } from 'node:path';

export interface SampledFile {
  readonly path: string;
  readonly size: number;
}

/** Which files of a tree are read. The same for two trees with the same files. */
export interface Sample {
  /** Regular files and directories and all else. */
  readonly entries: number;
  /** Regular files of 1 byte to 64 KiB, evenly over the whole tree. */
  readonly small: readonly SampledFile[];
  /** The largest regular files, up to `largeBytes` together. */
  readonly large: readonly SampledFile[];
}

const smallCount = 2000;
const smallest = 64 * 1024;
const largeBytes = 256 * 1024 * 1024;

/** Looks at every file below a directory, on its file system. */
export function sampleTree(root: string): Sample {
  const device = lstatSync(root).dev;
  const files: SampledFile[] = [];
  let entries = 1;
  const walk = (directory: string): void => {
    const found = readdirSync(directory, { withFileTypes: true }).sort(byName);
    for (const entry of found) {
      entries++;
      const path = join(directory, entry.name);
      if (entry.isFile()) files.push({ path, size: lstatSync(path).size });
      else if (entry.isDirectory() && lstatSync(path).dev === device) walk(path);
    }
  };
  walk(root);
  const small = files.filter(({ size }) => size > 0 && size <= smallest);
  const step = Math.max(1, small.length / smallCount);
  const picked = Array.from({ length: Math.min(smallCount, small.length) }, (_, i) => small[Math.floor(i * step)]);
  const large: SampledFile[] = [];
  let bytes = 0;
  for (const file of [...files].sort((a, b) => b.size - a.size || (a.path < b.path ? -1 : 1))) {
    if (file.size === 0 || (large.length > 0 && bytes + file.size > largeBytes)) break;
    large.push(file);
    bytes += file.size;
  }
  return { entries, small: picked, large };
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
