import { stackedBars } from '../svg.js';
import { phases, type Phase } from './engine.js';
import { medianTotal, middleRun, type StartReport, type TimedColumn } from './report.js';

export const phaseColours: Readonly<Record<Phase, string>> = {
  pull: '#0969da',
  create: '#8250df',
  run: '#bf8700',
  ready: '#1a7f37',
};

export const seconds = (ms: number): string => `${(ms / 1000).toFixed(ms < 10_000 ? 2 : 1)} s`;

type Charted = Pick<StartReport, 'title' | 'network' | 'engine'> & { readonly columns: readonly TimedColumn[] };

/** The phases of the run in the middle, stacked, a bar for each column of the report. */
export function startChart(report: Charted): string {
  const first = medianTotal(report.columns[0]);
  const bars = report.columns.map((column) => {
    const total = medianTotal(column);
    const values = Object.values(middleRun(column.runs).phases);
    return { label: column.name, values, note: `${seconds(total)} (${(total / first).toFixed(3)})` };
  });
  const network = report.network === undefined ? '' : `, network ${report.network}`;
  return stackedBars(bars, {
    title: `${report.title}: from nothing to ready`,
    subtitle: `median of ${report.columns[0].runs.length}, through ${report.engine}${network}; in brackets the ratio to the first`,
    parts: phases.map((name) => ({ name, colour: phaseColours[name] })),
    format: seconds,
  });
}
