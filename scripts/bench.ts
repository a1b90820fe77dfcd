import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { startDockerRegistry } from '../native-tests/support/docker-registry.js';
import { program } from '../native-tests/support/scene.js';
import { projectRoot, Teardown } from '../native-tests/support/tools.js';
import { parseNetwork } from '../src/bench/network.js';
import { ProxyHandle } from '../src/bench/proxy.js';
import { describeMachine } from '../src/bench/report.js';
import { startChart } from '../src/bench/start/chart.js';
import { ContainerdEngine } from '../src/bench/start/containerd.js';
import type { Candidate } from '../src/bench/start/engine.js';
import { startPage } from '../src/bench/start/html.js';
import type { StartReport } from '../src/bench/start/report.js';
import { benchStart } from '../src/bench/start/start.js';
import { formatFs, formatStart } from '../src/cli/bench-table.js';
import { benchCases, type BenchCase } from './lib/bench-cases.js';
import { benchImages, repositoryOf, type Form } from './lib/bench-images.js';
import { benchOverlay, overlayRatios } from './lib/bench-overlay.js';
import { benchmarksPage, type CaseResult } from './lib/bench-page.js';

/*
 * Cold starts of four workloads through containerd, over an imitated network: pulled whole by overlayfs, lazily from the image as it was
 * converted, and from one that was optimized for the command. Then the files of such an image, through overlayfs over lazy layers and over
 * unpacked ones.
 */

const columns = {
  full: { form: 'plain', name: 'full pull, overlayfs', kind: 'full' },
  lazy: { form: 'lazy', name: 'lazylayer', kind: 'lazy' },
  optimized: { form: 'optimized', name: 'lazylayer, optimized', kind: 'lazy' },
} as const satisfies Record<string, { form: Form; name: string; kind: 'full' | 'lazy' }>;
type Column = keyof typeof columns;

/** Choices of one flag, which may be given several times and with commas. */
function chosen<T extends string>(flag: string, given: readonly string[] | undefined, all: readonly T[]): T[] {
  const words = given?.flatMap((text) => text.split(','));
  for (const word of words ?? [])
    if (!all.includes(word as T)) throw new Error(`--${flag}: expected one of ${all.join(', ')}, found ${word}`);
  return all.filter((one) => words === undefined || words.includes(one));
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      case: { type: 'string', multiple: true },
      only: { type: 'string', multiple: true },
      runs: { type: 'string', default: '3' },
      network: { type: 'string', default: '40ms,200mbit' },
      config: { type: 'string' },
      program: { type: 'string', default: program },
      json: { type: 'string' },
      html: { type: 'string' },
      write: { type: 'boolean' },
    },
  });
  const parts = chosen('case', values.case, [...benchCases.map(({ name }) => name), 'files']);
  const only = chosen('only', values.only, Object.keys(columns) as Column[]);
  const runs = Number(values.runs);
  if (!Number.isInteger(runs) || runs < 1)
    throw new Error(`--runs: expected a whole number from 1, found ${values.runs}`);
  const whole = parts.length > benchCases.length && only.length === Object.keys(columns).length;
  if (values.write === true && !whole)
    throw new Error('--write: the page is of all cases and columns, leave --case and --only out');
  const network = parseNetwork(values.network);
  if (process.getuid?.() !== 0) throw new Error('containers and mounts need root: run scripts/bench as root');
  const say = (text: string) => process.stderr.write(`bench: ${text}\n`);
  const interrupted = new AbortController();
  for (const name of ['SIGINT', 'SIGTERM'] as const)
    process.on(name, () => interrupted.abort(new Error('interrupted')));
  await using cleanup = new Teardown();
  const { storage } = await benchImages(say);
  const registry = await startDockerRegistry(cleanup, storage, { readOnly: true });
  const proxy = await ProxyHandle.start({ host: '127.0.0.1', port: registry.port }, network);
  cleanup.teardown(() => proxy[Symbol.asyncDispose]());
  const engine = new ContainerdEngine({ command: [process.execPath, values.program], config: values.config });
  const results: CaseResult[] = [];
  for (const of of benchCases.filter(({ name }) => parts.includes(name))) {
    const found = await benchStart({
      engine,
      proxy,
      candidates: only.map((column) => candidateOf(of, column, proxy.port)),
      runs,
      command: of.command,
      ready: { kind: 'exit' },
      signal: interrupted.signal,
      onRun: (i, { name }) => say(`${of.title}, run ${i} of ${runs}: ${name}`),
    });
    for (const { name, runs } of found)
      for (const { output, notes } of runs) {
        if (!output.split('\n').includes(of.says)) throw new Error(`${of.title}, ${name}: it said ${output}`);
        for (const note of notes) say(`${of.title}, ${name}: ${note}`);
      }
    const report: StartReport = {
      title: of.title,
      command: of.command,
      network: values.network,
      engine: 'containerd',
      date: new Date().toISOString(),
      machine: describeMachine(),
      columns: found,
    };
    results.push({ of, report });
    process.stdout.write(`${of.title}\n${formatStart(found)}\n`);
    if (values.html !== undefined) await writeFile(join(values.html, `${of.name}.html`), startPage(report));
  }
  const files = parts.includes('files')
    ? await benchOverlay(cleanup, `${registry.host}/lazy/numpy:1`, runs, interrupted.signal, say)
    : undefined;
  if (files !== undefined) process.stdout.write(formatFs(files));
  if (values.json !== undefined)
    await writeFile(
      values.json,
      `${JSON.stringify({ starts: results.map(({ report }) => report), files }, undefined, 1)}\n`,
    );
  if (values.write === true) {
    const docs = join(projectRoot, 'docs');
    for (const { of, report } of results) await writeFile(join(docs, `benchmarks-${of.name}.svg`), startChart(report));
    await writeFile(join(docs, 'benchmarks.md'), benchmarksPage(results, files && overlayRatios(files)));
  }
}

function candidateOf(of: BenchCase, column: Column, port: number): Candidate {
  const { form, name, kind } = columns[column];
  return { name, image: `127.0.0.1:${port}/${repositoryOf(form, of)}:1`, way: { kind } };
}

main().catch((error: unknown) => {
  // What failed first, where the cleanup after it failed too.
  const cause = error instanceof Error && 'suppressed' in error ? error.suppressed : error;
  process.stderr.write(`bench: ${cause instanceof Error ? cause.message : String(cause)}\n`);
  process.exitCode = 2;
});
