import { phases } from '../bench/start/engine.js';
import type { CandidateRuns } from '../bench/start/start.js';
import { median, summarize } from '../bench/statistics.js';
import { humanBytes, table } from './text.js';

const milliseconds = (ms: number) => `${Math.round(ms)} ms`;

/** Medians of each candidate's runs, and the ratio of its total to the first one's. */
export function formatStart(candidates: readonly CandidateRuns[]): string {
  const right = true;
  const columns = [
    { title: 'COLUMN' },
    ...phases.map((phase) => ({ title: phase.toUpperCase(), right })),
    { title: 'TOTAL', right },
    { title: 'FROM', right },
    { title: 'TO', right },
    { title: 'RATIO', right },
    { title: 'REQUESTS', right },
    { title: 'BYTES', right },
    { title: 'CONNECTIONS', right },
    { title: 'MEMORY', right },
  ];
  const first = median(candidates[0].runs.map((run) => run.totalMs));
  const rows = candidates.map(({ name, runs }) => {
    const total = summarize(runs.map((run) => run.totalMs));
    const memory = runs.map((run) => run.memory).filter((bytes) => bytes !== undefined);
    return [
      name,
      ...phases.map((phase) => milliseconds(median(runs.map((run) => run.phases[phase])))),
      ...[total.median, total.min, total.max].map(milliseconds),
      (total.median / first).toFixed(3),
      String(median(runs.map((run) => run.requests.length))),
      humanBytes(median(runs.map((run) => run.bytes))),
      String(median(runs.map((run) => run.connections))),
      memory.length === 0 ? '-' : humanBytes(median(memory)),
    ];
  });
  return table(columns, rows);
}
