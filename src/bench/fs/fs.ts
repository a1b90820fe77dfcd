import { closeSync, openSync, readSync } from 'node:fs';
import { LazylayerError } from '../../errors.js';
import { runCommand } from '../../util/command.js';
import { dropCaches } from '../caches.js';
import { requirePrograms } from '../processes.js';
import { quantile } from '../statistics.js';
import { places, sampleTree, type Sample } from './sample.js';

/** What is measured, and how it is told. */
export const fsParts = {
  walk: 'find',
  stat: 'find, looking at each file',
  small: 'open, read, close of small files',
  sequential: 'large files from begin to end',
  random: '4 KiB from anywhere in large files',
  whole: 'tar c of everything',
} as const;
export type FsPart = keyof typeof fsParts;

/** `cold` is after the page cache was dropped, `first` the first time where that was not asked for, `warm` the time after it. */
export type CacheState = 'cold' | 'first' | 'warm';

/** One measurement. */
export interface FsFigure {
  readonly part: FsPart;
  readonly state: CacheState;
  readonly ms: number;
  /** Of single operations, in microseconds; of parts that are made of many. */
  readonly p50?: number;
  readonly p99?: number;
}

export interface FsRuns {
  readonly directory: string;
  readonly entries: number;
  readonly figures: readonly FsFigure[];
}

export interface BenchFsOptions {
  readonly directories: readonly string[];
  readonly runs: number;
  /** Before each first pass: takes root. */
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
 * @throws PERMISSION_DENIED where caches are to be dropped and this user may not
 */
export async function benchFs(options: BenchFsOptions): Promise<FsRuns[]> {
  const { directories, runs, signal } = options;
  requirePrograms('find', 'tar');
  const trees = directories.map((directory) => ({
    directory,
    sample: sampleTree(directory),
    figures: [] as FsFigure[],
  }));
  for (let run = 1; run <= runs; run++)
    for (const part of Object.keys(fsParts) as FsPart[])
      for (const { directory, sample, figures } of trees) {
        options.onRun?.(run, `${directory}, ${fsParts[part]}`);
        if (options.dropCaches && !(await dropCaches()))
          throw new LazylayerError('PERMISSION_DENIED', 'only root can drop the page cache');
        for (const state of [options.dropCaches ? 'cold' : 'first', 'warm'] as const) {
          signal.throwIfAborted();
          figures.push({ part, state, ...(await measure(part, directory, sample, signal)) });
        }
      }
  return trees.map(({ directory, sample, figures }) => ({ directory, entries: sample.entries, figures }));
}

async function measure(part: FsPart, directory: string, sample: Sample, signal: AbortSignal) {
  switch (part) {
    case 'walk':
      return timed(() => runCommand('find', [directory, '-xdev', '-fprintf', '/dev/null', '%p\n'], { signal }));
    case 'stat':
      // No file is as new, but each has to be looked at.
      return timed(() => runCommand('find', [directory, '-xdev', '-newermt', '2200-01-01'], { signal }));
    case 'whole': {
      // GNU tar does not read what it would write to /dev/null.
      const script = 'tar -C "$0" --one-file-system -cf - . | cat >/dev/null';
      return timed(() => runCommand('sh', ['-c', script, directory], { signal }));
    }
    case 'small': {
      const bytes = Buffer.allocUnsafe(64 * 1024);
      return operations(sample.small, ({ path }) => {
        const file = openSync(path, 'r');
        readSync(file, bytes);
        closeSync(file);
      });
    }
    case 'sequential': {
      const bytes = Buffer.allocUnsafe(piece);
      return timed(async () => {
        for (const { path } of sample.large) readAll(path, bytes);
      });
    }
    case 'random':
      return randomly(sample);
  }
}

function readAll(path: string, bytes: Buffer): void {
  const file = openSync(path, 'r');
  while (readSync(file, bytes) > 0);
  closeSync(file);
}

function randomly({ large }: Sample) {
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

async function timed(work: () => Promise<unknown>): Promise<{ ms: number }> {
  const begin = performance.now();
  await work();
  return { ms: performance.now() - begin };
}

function operations<T>(all: readonly T[], operation: (one: T) => unknown): { ms: number; p50: number; p99: number } {
  const microseconds = new Float64Array(all.length);
  let ms = 0;
  for (const [i, one] of all.entries()) {
    const begin = performance.now();
    operation(one);
    const took = performance.now() - begin;
    microseconds[i] = took * 1000;
    ms += took;
  }
  return { ms, p50: quantile(microseconds, 0.5), p99: quantile(microseconds, 0.99) };
}
