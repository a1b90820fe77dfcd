import type { Machine } from '../report.js';
import { median, summarize, type Summary } from '../statistics.js';
import { phases, type Phase } from './engine.js';
import type { CandidateRuns, StartRun } from './start.js';

/** All that `bench start` found out. */
export interface StartReport {
  readonly title: string;
  readonly command: readonly string[];
  /** As `formatNetwork` writes it; undefined for loopback as it is. */
  readonly network: string | undefined;
  readonly engine: string;
  /** ISO 8601. */
  readonly date: string;
  readonly machine: Machine;
  readonly columns: readonly CandidateRuns[];
}

/** The run that lies in the middle by its total time: of an even number, the quicker of the two in the middle. */
export function middleRun<R extends Pick<StartRun, 'totalMs'>>(runs: readonly R[]): R {
  const sorted = [...runs].sort((a, b) => a.totalMs - b.totalMs);
  return sorted[(sorted.length - 1) >> 1];
}

/** A column's name with what its runs took. */
export interface TimedColumn {
  readonly name: string;
  readonly runs: readonly Pick<StartRun, 'phases' | 'totalMs'>[];
}

/** A row of a table about a column: medians of its runs. */
export interface StartFigures {
  readonly phases: Readonly<Record<Phase, number>>;
  /** Of the whole start, in milliseconds. */
  readonly total: Summary;
  /** To the first column's total. */
  readonly ratio: number;
  readonly requests: number;
  readonly bytes: number;
  readonly connections: number;
  /** Undefined where no run has it. */
  readonly memory: number | undefined;
}

/** What tables tell of each column. `requests` tells how many of a run's requests count. */
export function startFigures<R extends FiguredRun>(
  columns: readonly { readonly name: string; readonly runs: readonly R[] }[],
  requests: (run: R) => number,
): StartFigures[] {
  const first = medianTotal(columns[0]);
  return columns.map((column) => {
    const { runs } = column;
    const of = (value: (run: R) => number) => median(runs.map(value));
    const memory = runs.flatMap((run) => run.memory ?? []);
    return {
      phases: medianPhases(column),
      total: summarize(runs.map((run) => run.totalMs)),
      ratio: medianTotal(column) / first,
      requests: of(requests),
      bytes: of((run) => run.bytes),
      connections: of((run) => run.connections),
      memory: memory.length === 0 ? undefined : median(memory),
    };
  });
}

/** Over the cells of `startRows`, but for the name. */
export const startHeads = [
  ...phases,
  'total',
  'from',
  'to',
  'ratio',
  'requests',
  'bytes',
  'connections',
  'memory',
] as const;

/** A row of cells for each column, its name first; `-` is what there is none of. */
export function startRows(
  columns: readonly CandidateRuns[],
  time: (ms: number) => string,
  size: (bytes: number) => string,
): string[][] {
  return startFigures(columns, (run) => run.requests.length).map(({ total, ...of }, i) => [
    columns[i].name,
    ...phases.map((phase) => time(of.phases[phase])),
    ...[total.median, total.min, total.max].map(time),
    of.ratio.toFixed(3),
    String(of.requests),
    size(of.bytes),
    String(of.connections),
    of.memory === undefined ? '-' : size(of.memory),
  ]);
}

type FiguredRun = Pick<StartRun, 'phases' | 'totalMs' | 'bytes' | 'connections' | 'memory'>;

export const megabytes = (bytes: number): string => `${(bytes / 1e6).toFixed(1)} MB`;

export const medianTotal = ({ runs }: TimedColumn): number => median(runs.map((run) => run.totalMs));

const medianPhases = ({ runs }: TimedColumn): Record<Phase, number> =>
  Object.fromEntries(phases.map((phase) => [phase, median(runs.map((run) => run.phases[phase]))])) as Record<
    Phase,
    number
  >;
