import { readFile, writeFile } from 'node:fs/promises';
import { format } from 'prettier';
import type { Machine } from '../../src/bench/report.js';
import type { CandidateRuns, StartRun } from '../../src/bench/start/start.js';
import type { TraceReport } from '../../src/bench/trace/report.js';
import type { OverlayRatio } from './bench-overlay.js';
import type { Verdict } from './measure.js';

export const engines = ['containerd', 'podman'] as const;
export type EngineName = (typeof engines)[number];

/** What a run has cost: the requests by their number alone. */
export type RunFigures = Pick<StartRun, 'phases' | 'totalMs' | 'connections' | 'bytes' | 'memory'> & {
  readonly requests: number;
  /** Of these, those that lazylayer sent, but for manifest and config where it was the only one that asked for them. */
  readonly ownRequests: number;
};

/** One more start, traced: what was read is held against what was fetched. */
export type TracedFigures = Pick<TraceReport['totals'], 'fetchedBytes' | 'neededBytes' | 'readBytes' | 'waitedMs'> & {
  readonly stalls: number;
};

export interface ColumnFigures {
  readonly name: string;
  readonly runs: readonly RunFigures[];
  readonly traced?: TracedFigures;
}

interface Taken {
  /** ISO 8601. */
  readonly date: string;
  readonly machine: Machine;
}

/** All columns of one case, which took turns: ratios are of one such. */
export interface StartFigures extends Taken {
  readonly engine: EngineName;
  readonly name: string;
  readonly network: string;
  readonly columns: readonly ColumnFigures[];
}

export interface FileFigures extends Taken {
  readonly runs: number;
  readonly ratios: readonly OverlayRatio[];
  /** The same with idle processors that poll for so long, where the machine could and did not by itself. */
  readonly polling?: { readonly ns: number; readonly ratios: readonly OverlayRatio[] };
  readonly verdicts: readonly Verdict[];
}

/** All figures of docs/benchmarks.md, from one run of the script or from several. */
export interface Results {
  readonly starts: readonly StartFigures[];
  readonly files?: FileFigures;
}

export function columnFigures({ name, runs }: CandidateRuns, traced: TraceReport | undefined): ColumnFigures {
  return {
    name,
    runs: runs.map(({ phases, totalMs, connections, bytes, memory, requests }) => ({
      phases,
      totalMs,
      connections,
      bytes,
      memory,
      requests: requests.length,
      ownRequests: ownRequests(requests),
    })),
    ...(traced && { traced: tracedFigures(traced) }),
  };
}

function ownRequests(requests: StartRun['requests']): number {
  const own = requests.filter(({ agent }) => agent === 'lazylayer').length;
  return own === requests.length ? own - 2 : own;
}

function tracedFigures({ totals, stalls }: TraceReport): TracedFigures {
  const { fetchedBytes, neededBytes, readBytes, waitedMs } = totals;
  return { fetchedBytes, neededBytes, readBytes, waitedMs, stalls: stalls.length };
}

/** What was measured now takes the place of what was measured before. */
export function merge(before: Results, now: Results): Results {
  const same = (a: StartFigures) => (b: StartFigures) => a.engine === b.engine && a.name === b.name;
  return {
    starts: [...before.starts.filter((old) => !now.starts.some(same(old))), ...now.starts],
    files: now.files ?? before.files,
  };
}

export async function readResults(path: string): Promise<Results> {
  const text = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'ENOENT') throw error;
    return '{"starts":[]}';
  });
  return JSON.parse(text) as Results;
}

export async function writeResults(path: string, results: Results): Promise<void> {
  const rounded = (_: string, value: unknown) => (typeof value === 'number' ? Math.round(value * 1000) / 1000 : value);
  await writeFile(path, await format(JSON.stringify(results, rounded), { parser: 'json', printWidth: 120 }));
}
