import { fsParts, type FsFigure, type FsRuns } from '../bench/fs/fs.js';
import { startHeads, startRows } from '../bench/start/report.js';
import type { CandidateRuns } from '../bench/start/start.js';
import { median, summarize } from '../bench/statistics.js';
import { humanBytes, table } from './text.js';

const milliseconds = (ms: number) => `${Math.round(ms)} ms`;

/** Medians of each candidate's runs, and the ratio of its total to the first one's. */
export function formatStart(candidates: readonly CandidateRuns[]): string {
  const columns = [{ title: 'COLUMN' }, ...startHeads.map((head) => ({ title: head.toUpperCase(), right: true }))];
  return table(columns, startRows(candidates, milliseconds, humanBytes));
}

/**
 * Medians of each tree, a row for each part and state, with the least and the most of the runs and the ratio to the first tree. `-` is
 * what there is none of.
 */
export function formatFs(trees: readonly FsRuns[]): string {
  const right = true;
  const columns = [
    { title: 'PART' },
    { title: '' },
    ...trees.flatMap(({ directory }, i) => [
      { title: directory, right },
      { title: 'FROM', right },
      { title: 'TO', right },
      { title: 'P50/P99', right },
      ...(i > 0 ? [{ title: 'RATIO', right }] : []),
    ]),
  ];
  const rows: string[][] = [];
  const seen = new Set<string>();
  for (const { part, state } of trees[0].figures) {
    if (seen.has(`${part} ${state}`)) continue;
    seen.add(`${part} ${state}`);
    const summaries = trees.map(({ figures }) => {
      const these = figures.filter((figure) => figure.part === part && figure.state === state);
      const of = (value: (figure: FsFigure) => number | undefined) => median(these.map((f) => value(f) ?? NaN));
      return { ...summarize(these.map(({ ms }) => ms)), p50: of((f) => f.p50), p99: of((f) => f.p99) };
    });
    const first = summaries[0].median;
    const cells = summaries.flatMap(({ p50, p99, ...ms }, i) => [
      ...[ms.median, ms.min, ms.max].map((one) => `${one.toFixed(1)} ms`),
      Number.isNaN(p50) ? '-' : `${p50.toFixed(1)}/${p99.toFixed(1)} µs`,
      ...(i > 0 ? [first === 0 ? '-' : (ms.median / first).toFixed(2)] : []),
    ]);
    rows.push([fsParts[part], state, ...cells]);
  }
  return table(columns, rows);
}
