import { formatHaltPolling, formatMachine, quoteCommand } from '../../src/bench/report.js';
import { fsParts } from '../../src/bench/fs/fs.js';
import { seconds } from '../../src/bench/start/chart.js';
import { phases } from '../../src/bench/start/engine.js';
import { megabytes, startFigures } from '../../src/bench/start/report.js';
import { median } from '../../src/bench/statistics.js';
import { benchCases, wantedBytes, type BenchCase } from './bench-cases.js';
import { engines, type EngineName, type FileFigures, type Results, type StartFigures } from './bench-results.js';

const row = (cells: readonly string[]) => `| ${cells.join(' | ')} |`;
const verdict = (value: number, wanted: number) => (value <= wanted ? 'met' : '**missed**');

export const chartOf = ({ engine, name }: Pick<StartFigures, 'engine' | 'name'>) =>
  `benchmarks-${engine === 'containerd' ? '' : `${engine}-`}${name}.svg`;

const throughWhat: Readonly<Record<EngineName, string>> = {
  containerd:
    "In a container of Debian's containerd and runc: pulled whole by the overlayfs snapshotter (`ctr`), and lazily by `lazylayer pull` through `lazylayer serve`. What is wanted is held against that. The last two rows are the same images pulled by another client of containerd, `ctr-remote images rpull`: it asks the registry itself, as the kubelet's containerd does, and tells of layers only then.",
  podman:
    "In a container of Debian's Podman and runc: pulled whole into its overlay storage, and lazily with layers from `lazylayer store`.",
};

/** docs/benchmarks.md: what was measured, on what, and how it compares with what is wanted. */
export function benchmarksPage(results: Results): string {
  const { starts, files } = results;
  const taken = [...starts, ...(files === undefined ? [] : [files])];
  const machines = [...new Set(taken.map(({ date, machine }) => `${date.slice(0, 10)}, on ${formatMachine(machine)}`))];
  return [
    '# Benchmarks',
    '',
    'Written by `scripts/bench --write`; the figures are in [benchmarks.json](benchmarks.json). Taken',
    '',
    ...machines.map((machine) => `- ${machine}.`),
    '',
    'What is wanted is told beside what was found, met or missed. A start alone: `lazylayer bench start --network 40ms,200mbit IMAGE -- COMMAND`; what it waits for: `lazylayer trace`; files alone: `lazylayer bench fs --drop-caches DIR DIR`.',
    '',
    '## Cold starts',
    '',
    `From the pull to the last output of the command, with nothing of the image on the machine: medians, and the ratio to the full pull that took turns with it. The network is imitated on loopback: ${[...new Set(starts.map(({ network }) => network))].join('; ')} (round trip, rate). The registry, Debian's docker-registry, stands for another machine: it has the image in its memory when a run begins, which drops the page cache of the machine that starts the container. Images are made from Debian packages (\`scripts/lib/bench-cases.ts\`), as eStargz by \`ctr-remote images convert\`, and "optimized" by \`ctr-remote images optimize\` with the same command. Requests are those that began before the last output, bytes what came by them until the container had ended; "its own", of which the wanted number is, are those beyond the ones for manifest and config by which every pull begins, lazy or not: what lazylayer sent, and where another client had asked for manifest and config before, lazylayer's own request for the manifest too.`,
    '',
    ...engines.flatMap((engine) => startsOf(engine, inOrder(starts.filter((figures) => figures.engine === engine)))),
    'The commands:',
    '',
    ...benchCases.map(({ title, command }) => `- ${title}: \`${quoteCommand(command)}\``),
    '',
    ...bytesOf(inOrder(starts.filter(({ engine }) => engine === 'containerd'))),
    ...(files === undefined ? [] : filesOf(files)),
  ].join('\n');
}

type Case = readonly [BenchCase, StartFigures];

/** As the cases are listed; what is of no case any more is left out. */
const inOrder = (starts: readonly StartFigures[]): Case[] =>
  benchCases.flatMap((of) => starts.filter(({ name }) => name === of.name).map((figures) => [of, figures] as const));

function startsOf(engine: EngineName, cases: readonly Case[]): string[] {
  if (cases.length === 0) return [];
  const heads = [
    'case',
    'column',
    ...phases,
    'total',
    'from',
    'to',
    'ratio',
    'wanted',
    '',
    'requests',
    'its own',
    '',
    'bytes',
    'memory',
  ];
  return [
    `### ${engine}`,
    '',
    throughWhat[engine],
    '',
    ...cases.map(([{ title }, figures]) => `![${title}](${chartOf(figures)})`),
    '',
    row(heads),
    row(heads.map((_, i) => (i < 2 ? '---' : '---:'))),
    ...cases.flatMap(([of, figures]) => rowsOf(of, figures)),
    '',
  ];
}

function rowsOf(of: BenchCase, { engine, columns }: StartFigures): string[] {
  // What is wanted is so of containerd.
  const { lazy, optimized } = (engine === 'containerd' ? of.wanted : {}) as Partial<BenchCase['wanted']>;
  // The full pull comes first; what comes behind these is told for comparison.
  const wanted = [undefined, lazy, optimized];
  const requests = [undefined, of.wantedRequests?.lazy, of.wantedRequests?.optimized];
  return startFigures(columns, (run) => run.requests).map(({ phases: lengths, total, ratio, ...figures }, i) => {
    const { name, runs } = columns[i];
    const own = i === 0 ? undefined : median(runs.map((run) => run.ownRequests));
    return row([
      i === 0 ? `${of.title} (${runs.length} times)` : '',
      name,
      ...phases.map((phase) => seconds(lengths[phase])),
      ...[total.median, total.min, total.max].map(seconds),
      ratio.toFixed(3),
      wanted[i] === undefined ? '' : `≤ ${wanted[i]}`,
      wanted[i] === undefined ? '' : verdict(ratio, wanted[i]),
      String(figures.requests),
      own === undefined ? '' : String(own),
      own === undefined || requests[i] === undefined ? '' : `≤ ${requests[i]}: ${verdict(own, requests[i])}`,
      megabytes(figures.bytes),
      figures.memory === undefined ? '' : megabytes(figures.memory),
    ]);
  });
}

/** What was fetched for what was read, by one more start of each column that was traced. */
function bytesOf(cases: readonly Case[]): string[] {
  const rows = cases.flatMap(([{ title }, { columns }]) =>
    columns.flatMap(({ name, traced }) => {
      if (traced === undefined) return [];
      const { readBytes, neededBytes, fetchedBytes, stalls, waitedMs } = traced;
      const ratio = fetchedBytes / neededBytes;
      const sizes = [readBytes, neededBytes, fetchedBytes].map(megabytes);
      const waited = [String(stalls), seconds(waitedMs)];
      return [
        row([title, name, ...sizes, ratio.toFixed(2), `≤ ${wantedBytes}`, verdict(ratio, wantedBytes), ...waited]),
      ];
    }),
  );
  if (rows.length === 0) return [];
  const heads = ['case', 'column', 'read', 'of that, compressed', 'fetched', 'ratio', 'wanted', '', 'stalls', 'waited'];
  return [
    '### Bytes',
    '',
    'One more start of each, traced as by `lazylayer trace --engine containerd`: what was read of files, what that is compressed, what was fetched up to the last output, reads that took 20 ms and more, and how long one was under way.',
    '',
    row(heads),
    row(heads.map((_, i) => (i < 2 ? '---' : '---:'))),
    ...rows,
    '',
  ];
}

function filesOf({ runs, machine, ratios, polling, verdicts }: FileFigures): string[] {
  return [
    '## Files',
    '',
    `The files of one such image, of six layers, medians of ${runs} runs with the page cache dropped before each: overlayfs over lazy layers whose every chunk is in lazylayer's cache, mounted by containerd's \`ctr\` over \`lazylayer serve\` and by Podman over \`lazylayer store\`, against overlayfs on local disk. What is mounted when all of a layer is there, the kernel reads by itself (EROFS over the cache file, Linux 6.12); "by FUSE" is the same through the daemon, as what was mounted before goes on, and as older kernels have it.`,
    '',
    ...(polling === undefined
      ? ratioTable(ratios)
      : [
          `The same mounts twice: as the machine is, whose idle processors halt at once, and once more while they poll before they halt. By itself lazylayer keeps the processors of a small machine awake only while requests through FUSE follow each other closely; what that is about, and how a machine polls for all programs, is in [the README](../README.md#in-a-virtual-machine).`,
          '',
          `### As the machine is${machine.haltPollNs === undefined ? '' : `, ${formatHaltPolling(machine.haltPollNs)}`}`,
          '',
          ...ratioTable(ratios),
          `### With ${formatHaltPolling(polling.ns)}`,
          '',
          ...ratioTable(polling.ratios),
          '### Beside a fetch',
          '',
        ]),
    ...verdicts.map(
      ({ claim, value, bound, holds }) =>
        `- ${claim}: ${value.toFixed(2)}, wanted ${bound}: ${holds ? 'met' : '**missed**'}`,
    ),
    '',
  ];
}

function ratioTable(ratios: FileFigures['ratios']): string[] {
  return [
    row(['what', 'mounted by', 'local', 'lazy', 'ratio', 'wanted', '']),
    row(['---', '---', '---:', '---:', '---:', '---:', '---:']),
    ...ratios.map(({ part, by, localMs, lazyMs, ratio, wanted }) =>
      row([
        fsParts[part],
        by,
        `${localMs.toFixed(1)} ms`,
        `${lazyMs.toFixed(1)} ms`,
        ratio.toFixed(2),
        wanted === undefined ? '' : `≤ ${wanted}`,
        wanted === undefined ? '' : verdict(ratio, wanted),
      ]),
    ),
    '',
  ];
}
