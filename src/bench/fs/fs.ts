import { closeSync, lstatSync, openSync, readSync } from 'node:fs';
import { stat } from 'node:fs/promises';
import { relative, resolve } from 'node:path';
import { codeOf, LazylayerError } from '../../errors.js';
import { runCommand } from '../../util/command.js';
import { dropCaches } from '../caches.js';
import { requirePrograms } from '../processes.js';
import { places, sampleTree, type Sample } from './sample.js';
import { operations, percentiles, timed, type Timed } from './timing.js';
import { readWhole } from './whole.js';

/** What is measured, and how it is told. */
export const fsParts = {
  walk: 'find',
  stat: 'find, looking at each file',
  lstat: 'lstat of files anywhere',
  small: 'open, read, close of small files',
  sequential: 'large files from begin to end',
  random: '4 KiB from anywhere in large files',
  whole: 'tar c of everything',
} as const;
export type FsPart = keyof typeof fsParts;

/** `cold` is after the page cache was dropped, `warm` after the same was done before. */
export type CacheState = 'cold' | 'warm';

/** One measurement. */
export interface FsFigure extends Timed {
  readonly part: FsPart;
  readonly state: CacheState;
}

export interface FsRuns {
  readonly directory: string;
  readonly entries: number;
  /** Files and directories that this user may not read, which are in no figure. */
  readonly leftOut: number;
  readonly figures: readonly FsFigure[];
}

export interface BenchFsOptions {
  readonly directories: readonly string[];
  readonly runs: number;
  /** Before each cold pass: takes root. Without it there is none, since looking for what is to be read warms the caches. */
  readonly dropCaches: boolean;
  readonly signal: AbortSignal;
  readonly onRun?: (run: number, directory: string) => void;
}

const piece = 1024 * 1024;
const block = 4096;
const randomReads = 2000;

/**
 * Measures trees side by side, part by part, taking turns. Calls are synchronous: nothing but them is in the way. It must not run in the
 * process that serves one of the trees.
 * @throws INVALID_ARGUMENT for what is no directory, PERMISSION_DENIED where caches are to be dropped and this process may not
 */
export async function benchFs(options: BenchFsOptions): Promise<FsRuns[]> {
  const { directories, runs, signal } = options;
  requirePrograms('bash', 'find', 'tar');
  for (const directory of directories) await checkDirectory(directory);
  if (options.dropCaches) await dropCaches();
  const trees = directories.map((directory) => {
    const root = resolve(directory);
    return { directory, root, sample: sampleTree(root), figures: [] as FsFigure[] };
  });
  for (let run = 1; run <= runs; run++)
    for (const part of Object.keys(fsParts) as FsPart[])
      for (const { directory, root, sample, figures } of trees) {
        options.onRun?.(run, `${directory}, ${fsParts[part]}`);
        const pass = async () => {
          signal.throwIfAborted();
          return measure(part, root, sample, signal);
        };
        if (options.dropCaches) {
          await dropCaches();
          figures.push({ part, state: 'cold', ...(await pass()) });
        } else if (run === 1) await pass();
        figures.push({ part, state: 'warm', ...(await pass()) });
      }
  return trees.map(({ directory, sample, figures }) => {
    const { entries, leftOut } = sample;
    return { directory, entries, leftOut: leftOut.length, figures };
  });
}

async function checkDirectory(path: string): Promise<void> {
  const found = await stat(path).catch((error: unknown) => {
    if (codeOf(error) !== 'NOT_FOUND' && codeOf(error) !== 'NOT_A_DIRECTORY') throw error;
    return undefined;
  });
  if (found?.isDirectory() !== true)
    throw new LazylayerError(
      'INVALID_ARGUMENT',
      `${path}: expected a directory, found ${found === undefined ? 'nothing' : 'another type of file'}: name the top of a tree, such as a mount point`,
    );
}

async function measure(part: FsPart, root: string, sample: Sample, signal: AbortSignal): Promise<Timed> {
  switch (part) {
    case 'walk':
      return timed(() => find(root, sample, ['-fprintf', '/dev/null', '%p\n'], signal));
    case 'stat':
      // No file is as new, but each has to be looked at.
      return timed(() => find(root, sample, ['-newermt', '2200-01-01'], signal));
    case 'lstat':
      return operations(sample.any, (path) => lstatSync(path));
    case 'whole': {
      const excluded = sample.leftOut.map((path) => `--exclude=./${relative(root, path)}`);
      const flags = excluded.length === 0 ? [] : ['--anchored', '--no-wildcards', ...excluded];
      return timed(() => readWhole(root, flags, { signal }));
    }
    case 'small': {
      const bytes = Buffer.allocUnsafe(64 * 1024);
      return operations(sample.small, ({ path }) => {
        const file = openSync(path, 'r');
        readSync(file, bytes);
        closeSync(file);
      });
    }
    case 'sequential':
      return sequentially(sample);
    case 'random':
      return randomly(sample);
  }
}

/** What the sample leaves out is not asked for: that find cannot read something else is a failure. */
async function find(root: string, { leftOut }: Sample, test: readonly string[], signal: AbortSignal): Promise<void> {
  const names = leftOut.flatMap((path) => ['-path', path.replace(/[*?[\\]/g, '\\$&'), '-prune', '-o']);
  await runCommand('find', ['-H', root, '-xdev', ...names, ...test], { signal });
}

function sequentially({ large }: Sample): Timed {
  const bytes = Buffer.allocUnsafe(piece);
  const reads: number[] = [];
  const begin = performance.now();
  for (const { path } of large) {
    const file = openSync(path, 'r');
    try {
      for (let before = performance.now(); readSync(file, bytes) > 0; before = performance.now())
        reads.push((performance.now() - before) * 1000);
    } finally {
      closeSync(file);
    }
  }
  return { ms: performance.now() - begin, ...percentiles(reads) };
}

function randomly({ large }: Sample): Timed {
  const files = new Map(large.map(({ path }) => [path, openSync(path, 'r')]));
  const bytes = Buffer.allocUnsafe(block);
  try {
    return operations(places(large, randomReads, block), ({ path, offset }) =>
      readSync(files.get(path)!, bytes, 0, block, offset),
    );
  } finally {
    for (const file of files.values()) closeSync(file);
  }
}
