import type { Machine } from '../report.js';
import { median } from '../statistics.js';
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
export function middleRun(runs: readonly StartRun[]): StartRun {
  const sorted = [...runs].sort((a, b) => a.totalMs - b.totalMs);
  return sorted[(sorted.length - 1) >> 1];
}

/** A column's name with what its runs took. */
export interface TimedColumn {
  readonly name: string;
  readonly runs: readonly Pick<StartRun, 'phases' | 'totalMs'>[];
}

export const medianTotal = ({ runs }: TimedColumn): number => median(runs.map((run) => run.totalMs));

export const medianPhases = ({ runs }: TimedColumn): Record<Phase, number> =>
  Object.fromEntries(phases.map((phase) => [phase, median(runs.map((run) => run.phases[phase]))])) as Record<
    Phase,
    number
  >;
