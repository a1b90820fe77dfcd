import { writeFile } from 'node:fs/promises';
import { parseArgs } from 'node:util';
import { Teardown } from '../native-tests/support/tools.js';
import { startDockerRegistry } from '../native-tests/support/docker-registry.js';
import { program } from '../native-tests/support/scene.js';
import { parseNetwork } from '../src/bench/network.js';
import { ProxyHandle } from '../src/bench/proxy.js';
import { ContainerdEngine } from '../src/bench/start/containerd.js';
import type { Candidate } from '../src/bench/start/engine.js';
import { benchStart, type CandidateRuns } from '../src/bench/start/start.js';
import { formatStart } from '../src/cli/bench-table.js';
import { benchCases, type BenchCase } from './lib/bench-cases.js';
import { benchImages, repositoryOf } from './lib/bench-images.js';

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      case: { type: 'string', multiple: true },
      runs: { type: 'string', default: '3' },
      network: { type: 'string', default: '40ms,200mbit' },
      only: { type: 'string' },
      config: { type: 'string' },
      json: { type: 'string' },
      program: { type: 'string', default: program },
    },
  });
  const runs = Number(values.runs);
  const network = parseNetwork(values.network);
  const cases = benchCases.filter(({ name }) => values.case === undefined || values.case.includes(name));
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
  const all: Record<string, CandidateRuns[]> = {};
  for (const one of cases) {
    const candidates = candidatesOf(one, proxy.port).filter(
      ({ key }) => values.only === undefined || values.only.split(',').includes(key),
    );
    const results = await benchStart({
      engine,
      proxy,
      candidates,
      runs,
      command: one.command,
      ready: { kind: 'exit' },
      signal: interrupted.signal,
      onRun: (run, candidate) => say(`${one.title}, run ${run}: ${candidate.name}`),
    });
    for (const { name, runs } of results)
      for (const { output, notes } of runs) {
        if (!output.split('\n').includes(one.says)) throw new Error(`${one.title}, ${name}: found ${output}`);
        for (const note of notes) say(`${one.title}, ${name}: ${note}`);
      }
    all[one.name] = results;
    process.stdout.write(`${one.title}\n${formatStart(results)}\n`);
  }
  if (values.json !== undefined) await writeFile(values.json, JSON.stringify(all, undefined, 1));
}

const candidatesOf = (one: BenchCase, port: number): (Candidate & { key: string })[] =>
  (
    [
      ['full', 'plain', 'full pull (overlayfs)', 'full'],
      ['lazy', 'lazy', 'lazylayer', 'lazy'],
      ['optimized', 'optimized', 'lazylayer, optimized', 'lazy'],
    ] as const
  ).map(([key, form, name, kind]) => ({
    key,
    name,
    image: `127.0.0.1:${port}/${repositoryOf(form, one)}:1`,
    way: { kind },
  }));

main().catch((error: unknown) => {
  process.stderr.write(`bench: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`);
  process.exitCode = 2;
});
