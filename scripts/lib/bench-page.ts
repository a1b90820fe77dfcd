import { formatMachine } from '../../src/bench/report.js';
import { fsParts } from '../../src/bench/fs/fs.js';
import { seconds } from '../../src/bench/start/chart.js';
import { medianPhases, medianTotal, type StartReport } from '../../src/bench/start/report.js';
import { median, summarize } from '../../src/bench/statistics.js';
import type { BenchCase } from './bench-cases.js';
import type { OverlayRatio } from './bench-overlay.js';

export interface CaseResult {
  readonly of: BenchCase;
  readonly report: StartReport;
}

const row = (cells: readonly string[]) => `| ${cells.join(' | ')} |`;
const megabytes = (bytes: number) => `${(bytes / 1e6).toFixed(1)} MB`;

/** docs/benchmarks.md: what was measured, on what, and how it compares with what is wanted. */
export function benchmarksPage(results: readonly CaseResult[], overlay: readonly OverlayRatio[] | undefined): string {
  const { date, machine, network, columns } = results[0].report;
  const lines = [
    '# Benchmarks',
    '',
    `Written by \`scripts/bench\`, ${date.slice(0, 10)}, on ${formatMachine(machine)}.`,
    '',
    '## Cold starts',
    '',
    `From the pull to the last output of the command, in a container of Debian's containerd and runc, with nothing of the image on the machine: ` +
      `medians of ${columns[0].runs.length} over an imitated network of ${network} (round trip, rate), and the ratio to the full pull of the same runs.`,
    '',
    ...results.map(({ of: { name, title } }) => `![${title}](benchmarks-${name}.svg)`),
    '',
    row([
      'case',
      'column',
      'pull',
      'create',
      'run',
      'ready',
      'total',
      'from',
      'to',
      'ratio',
      'wanted',
      'requests',
      'bytes',
      'memory',
    ]),
    row(['---', '---', ...Array.from({ length: 12 }, () => '---:')]),
    ...results.flatMap(rowsOf),
    '',
    'The commands:',
    '',
    ...results.map(({ of: { title, command } }) => `- ${title}: \`${command.join(' ')}\``),
    '',
    'Images are made from Debian packages (`scripts/lib/bench-cases.ts`), as eStargz by `ctr-remote images convert`, and "optimized" by ' +
      '`ctr-remote images optimize` with the same command. Requests and bytes are those up to the last output, those of containerd itself included.',
    '',
  ];
  if (overlay !== undefined)
    lines.push(
      '## Files',
      '',
      "overlayfs over lazy layers whose every chunk is in lazylayer's cache, against overlayfs on local disk, with the page cache dropped.",
      '',
      row(['what', 'local', 'lazy', 'ratio', 'wanted']),
      row(['---', '---:', '---:', '---:', '---:']),
      ...overlay.map(({ part, localMs, lazyMs, ratio, wanted }) =>
        row([
          fsParts[part],
          `${localMs.toFixed(1)} ms`,
          `${lazyMs.toFixed(1)} ms`,
          ratio.toFixed(2),
          wanted === undefined ? '' : `≤ ${wanted}`,
        ]),
      ),
      '',
    );
  return lines.join('\n');
}

function rowsOf({ of, report: { columns } }: CaseResult): string[] {
  const first = medianTotal(columns[0]);
  const wanted = [undefined, of.wanted.lazy, of.wanted.optimized];
  const requests = [undefined, of.wantedRequests?.lazy, of.wantedRequests?.optimized];
  return columns.map((column, i) => {
    const { name, runs } = column;
    const total = summarize(runs.map(({ totalMs }) => totalMs));
    const memory = runs.map((run) => run.memory).filter((bytes) => bytes !== undefined);
    const asked = median(runs.map((run) => run.requests.length));
    return row([
      i === 0 ? of.title : '',
      name,
      ...Object.values(medianPhases(column)).map(seconds),
      ...[total.median, total.min, total.max].map(seconds),
      (total.median / first).toFixed(3),
      wanted[i] === undefined ? '' : `≤ ${wanted[i]}`,
      requests[i] === undefined ? String(asked) : `${asked} (wanted ≤ ${requests[i]})`,
      megabytes(median(runs.map((run) => run.bytes))),
      memory.length === 0 ? '' : megabytes(median(memory)),
    ]);
  });
}
