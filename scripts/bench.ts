import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { startDockerRegistry, type DockerRegistry } from '../native-tests/support/docker-registry.js';
import { program } from '../native-tests/support/scene.js';
import { projectRoot, Teardown } from '../native-tests/support/tools.js';
import { HALT_POLL_NS } from '../src/util/halt-polling.js';
import { parseNetwork } from '../src/bench/network.js';
import { ProxyHandle } from '../src/bench/proxy.js';
import { describeMachine, formatHaltPolling } from '../src/bench/report.js';
import { startChart } from '../src/bench/start/chart.js';
import { ContainerdEngine } from '../src/bench/start/containerd.js';
import type { Candidate, Engine, Lazylayer, StartOptions, Way } from '../src/bench/start/engine.js';
import { startPage } from '../src/bench/start/html.js';
import { PodmanEngine } from '../src/bench/start/podman.js';
import type { StartReport } from '../src/bench/start/report.js';
import { benchStart, type StartRun } from '../src/bench/start/start.js';
import { tracePage } from '../src/bench/trace/page.js';
import { traceReport, type TraceReport } from '../src/bench/trace/report.js';
import { traceStart } from '../src/bench/trace/trace.js';
import { formatFs, formatStart } from '../src/cli/bench-table.js';
import { formatTrace } from '../src/cli/trace-table.js';
import { benchBusy } from './lib/bench-busy.js';
import { benchCases, type BenchCase } from './lib/bench-cases.js';
import { benchImages, repositoryOf, type Form } from './lib/bench-images.js';
import { benchOverlay, overlayRatios } from './lib/bench-overlay.js';
import { benchmarksPage, chartOf } from './lib/bench-page.js';
import { BesideRegistry } from './lib/bench-registry.js';
import {
  columnFigures,
  engines,
  merge,
  readResults,
  writeResults,
  type EngineName,
  type FileFigures,
  type Results,
  type StartFigures,
} from './lib/bench-results.js';
import { Measurements } from './lib/measure.js';

/*
 * Cold starts of four workloads through containerd, and of two of them through Podman, over an imitated network: pulled whole, lazily from
 * the image as it was converted, and from one that was optimized for the command; one more lazy start of each is traced. Then the files
 * of such an image, through overlayfs over lazy layers and over unpacked ones.
 */

/** By a client that asks the registry itself, before it tells containerd of layers. */
const pull = 'ctr-remote --address {address} images rpull --plain-http --snapshotter {snapshotter} {image}';
const byCtrRemote = { kind: 'lazy', pull } as const;

interface ColumnSetting {
  readonly form: Form;
  readonly name: string;
  readonly way: Way;
}

/** What is wanted is so of the first three. */
const columns = {
  full: { form: 'plain', name: 'full pull, overlayfs', way: { kind: 'full' } },
  lazy: { form: 'lazy', name: 'lazylayer', way: { kind: 'lazy' } },
  optimized: { form: 'optimized', name: 'lazylayer, optimized', way: { kind: 'lazy' } },
  'ctr-remote': { form: 'lazy', name: 'by ctr-remote', way: byCtrRemote },
  'ctr-remote-optimized': { form: 'optimized', name: 'by ctr-remote, optimized', way: byCtrRemote },
} as const satisfies Record<string, ColumnSetting>;
type Column = keyof typeof columns;
const allColumns = Object.keys(columns) as Column[];

/** Podman has no other client. */
const columnsOf = (engine: EngineName): Column[] =>
  allColumns.filter((column) => engine === 'containerd' || !column.startsWith('ctr-remote'));

/** Cases that go through Podman where none were chosen: a full pull of the large images takes most of the time. */
const podmanCases: readonly string[] = ['python', 'numpy'];
const stallMs = 20;
/** Parts about files are short, and a virtual machine is quicker in one minute than in the next: so many times the runs of a start. */
const FILE_ROUNDS = 3;
/** As the imitated network's: what stands for another machine does not wait for the processors of this one. */
const REGISTRY_NICE = -15;

interface Setting {
  readonly values: Values;
  readonly runs: number;
  readonly lazylayer: Lazylayer;
  readonly registry: DockerRegistry;
  readonly proxy: ProxyHandle;
  readonly only: readonly Column[];
  readonly signal: AbortSignal;
  readonly say: (text: string) => void;
}

type Values = ReturnType<typeof parseFlags>;

function parseFlags() {
  return parseArgs({
    options: {
      case: { type: 'string', multiple: true },
      only: { type: 'string', multiple: true },
      engine: { type: 'string', multiple: true },
      runs: { type: 'string', default: '3' },
      network: { type: 'string', default: '40ms,200mbit' },
      config: { type: 'string' },
      program: { type: 'string', default: program },
      json: { type: 'string' },
      html: { type: 'string' },
      write: { type: 'boolean' },
    },
  }).values;
}

/** Choices of one flag, which may be given several times and with commas. */
function chosen<T extends string>(flag: string, given: readonly string[] | undefined, all: readonly T[]): T[] {
  const words = given?.flatMap((text) => text.split(','));
  for (const word of words ?? [])
    if (!all.includes(word as T)) throw new Error(`--${flag}: expected one of ${all.join(', ')}, found ${word}`);
  return all.filter((one) => words === undefined || words.includes(one));
}

async function main(): Promise<void> {
  const values = parseFlags();
  const parts = chosen('case', values.case, [...benchCases.map(({ name }) => name), 'files']);
  const only = chosen('only', values.only, allColumns);
  const through = chosen('engine', values.engine, engines);
  const runs = Number(values.runs);
  if (!Number.isInteger(runs) || runs < 1)
    throw new Error(`--runs: expected a whole number from 1, found ${values.runs}`);
  if (values.write === true && only.length < allColumns.length)
    throw new Error('--write: ratios are of columns that took turns, leave --only out');
  const network = parseNetwork(values.network);
  if (process.getuid?.() !== 0) throw new Error('containers and mounts need root: run scripts/bench as root');
  const begun = performance.now();
  const say = (text: string) => {
    const seconds = Math.round((performance.now() - begun) / 1000);
    process.stderr.write(`bench, ${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, '0')}: ${text}\n`);
  };
  const interrupted = new AbortController();
  for (const name of ['SIGINT', 'SIGTERM'] as const)
    process.on(name, () => interrupted.abort(new Error('interrupted')));
  await using cleanup = new Teardown();
  const { storage } = await benchImages(say);
  const registry = await startDockerRegistry(cleanup, storage, { readOnly: true, nice: REGISTRY_NICE });
  const proxy = cleanup.use(await ProxyHandle.start({ host: '127.0.0.1', port: registry.port }, network));
  const lazylayer: Lazylayer = { command: [process.execPath, values.program], config: values.config };
  const setting: Setting = { values, runs, lazylayer, registry, proxy, only, signal: interrupted.signal, say };
  if (values.html !== undefined) await mkdir(values.html, { recursive: true });
  const reports: StartReport[] = [];
  const save = async (results: Results) => {
    if (values.write === true) await write(results);
  };
  for (const engine of through)
    for (const of of benchCases) {
      if (!parts.includes(of.name)) continue;
      if (engine === 'podman' && values.case === undefined && !podmanCases.includes(of.name)) continue;
      const { report, figures } = await benchCase(setting, engine, of);
      reports.push(report);
      await save({ starts: [figures] });
    }
  let files: FileFigures | undefined;
  if (parts.includes('files')) {
    const image = `${registry.host}/${repositoryOf('lazy', { name: 'numpy', image: 'numpy' })}:1`;
    const podman = through.includes('podman');
    const fileRuns = runs * FILE_ROUNDS;
    const overlay = { cleanup, image, runs: fileRuns, podman, lazylayer, signal: interrupted.signal, say };
    const { asIs, polling } = await benchOverlay(overlay);
    process.stdout.write(formatFs(asIs));
    if (polling !== undefined) process.stdout.write(`\nwith ${formatHaltPolling(HALT_POLL_NS)}\n${formatFs(polling)}`);
    const place = await mkdtemp(join(tmpdir(), 'lazylayer-bench-'));
    cleanup.teardown(() => rm(place, { recursive: true, force: true }));
    const tell = (text: string) => say(`files, cached reads beside a fetch: ${text}`);
    const verdicts = await benchBusy({
      cleanup,
      directory: place,
      runs: 1,
      measurements: new Measurements(),
      say: tell,
    });
    for (const { claim, value, bound } of verdicts)
      process.stdout.write(`${claim}: ${value.toFixed(2)}, wanted ${bound}\n`);
    files = {
      date: new Date().toISOString(),
      machine: describeMachine(),
      runs: fileRuns,
      ratios: overlayRatios(asIs),
      ...(polling && { polling: { ns: HALT_POLL_NS, ratios: overlayRatios(polling) } }),
      verdicts,
    };
    await save({ starts: [], files });
  }
  if (values.json !== undefined)
    await writeFile(values.json, `${JSON.stringify({ starts: reports, files }, undefined, 1)}\n`);
  say('done');
}

async function benchCase(setting: Setting, engineName: EngineName, of: BenchCase) {
  const { values, runs, lazylayer, registry, proxy, only, signal, say } = setting;
  const engineOf = { containerd: ContainerdEngine, podman: PodmanEngine }[engineName];
  const engine: Engine = new BesideRegistry(new engineOf(lazylayer), registry);
  const title = `${of.title}, ${engineName}`;
  const options: StartOptions = { command: of.command, ready: { kind: 'output' }, signal };
  const taken = columnsOf(engineName).filter((column) => only.includes(column));
  const candidates = taken.map((column) => candidateOf(of, column, proxy.port));
  const found = await benchStart({
    ...options,
    engine,
    proxy,
    candidates,
    runs,
    onRun: (i, { name }) => say(`${title}, run ${i} of ${runs}: ${name}`),
  });
  for (const { name, runs } of found) checkRuns(`${title}, ${name}`, of, runs, say);
  const facts = {
    command: of.command,
    network: values.network,
    engine: engineName,
    date: new Date().toISOString(),
    machine: describeMachine(),
  };
  const report: StartReport = { ...facts, title: of.title, columns: found };
  process.stdout.write(`${title}\n${formatStart(found)}\n`);
  const page = async (name: string, text: string) => {
    if (values.html !== undefined) await writeFile(join(values.html, `${engineName}-${of.name}${name}.html`), text);
  };
  await page('', startPage(report));
  const traced = new Map<string, TraceReport>();
  if (engineName === 'containerd')
    for (const candidate of candidates.filter(({ way }) => way.kind === 'lazy' && way.pull === undefined)) {
      say(`${title}, traced: ${candidate.name}`);
      const { trace, moments, output, notes } = await traceStart(engine, candidate, options);
      checkRuns(`${title}, ${candidate.name}, traced`, of, [{ output, notes }], say);
      const told = traceReport(trace, moments, stallMs, { ...facts, image: candidate.image, notes });
      traced.set(candidate.name, told);
      process.stdout.write(`${title}, ${candidate.name}\n${formatTrace(told)}\n`);
      await page(`-trace-${candidate.name.replace(/\W+/g, '-')}`, tracePage(told));
    }
  const { date, machine, network } = facts;
  const figures: StartFigures = {
    engine: engineName,
    name: of.name,
    date,
    machine,
    network,
    columns: found.map((column) => columnFigures(column, traced.get(column.name))),
  };
  return { report, figures };
}

/** A start that did not say what it must counts as none. */
function checkRuns(
  title: string,
  of: BenchCase,
  runs: readonly Pick<StartRun, 'output' | 'notes'>[],
  say: (text: string) => void,
): void {
  for (const { output, notes } of runs) {
    if (!output.split('\n').includes(of.says)) throw new Error(`${title}: it said ${output}`);
    for (const note of notes) say(`${title}: ${note}`);
  }
}

/** Puts figures among those of the page, after each case: what was measured is kept, whatever comes then. */
async function write(results: Results): Promise<void> {
  const docs = join(projectRoot, 'docs');
  const path = join(docs, 'benchmarks.json');
  const all = merge(await readResults(path), results);
  await writeResults(path, all);
  for (const { engine, name, network, columns } of results.starts) {
    const { title } = benchCases.find((one) => one.name === name)!;
    await writeFile(join(docs, chartOf({ engine, name })), startChart({ title, engine, network, columns }));
  }
  await writeFile(join(docs, 'benchmarks.md'), benchmarksPage(all));
}

function candidateOf(of: BenchCase, column: Column, port: number): Candidate {
  const { form, name, way } = columns[column];
  return { name, image: `127.0.0.1:${port}/${repositoryOf(form, of)}:1`, way };
}

main().catch((error: unknown) => {
  // What failed first, where the cleanup after it failed too.
  const cause = error instanceof Error && 'suppressed' in error ? error.suppressed : error;
  process.stderr.write(`bench: ${cause instanceof Error ? cause.message : String(cause)}\n`);
  process.exitCode = 2;
});
