import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { parseArgs } from 'node:util';
import { join } from 'node:path';
import { requirePrograms, Teardown } from '../native-tests/support/tools.js';
import { benchSnapshots } from './lib/bench-snapshots.js';
import { formatTable, Measurements } from './lib/measure.js';

/*
 * The snapshotter as containerd uses it, over gRPC, in a daemon of its own.
 *
 *   lazy image  from Prepare of the first of six layers to the last answer, over a registry on loopback, with nothing on disk before
 *   ordinary    Prepare, Mounts, Commit and Remove of ordinary snapshots, one after the other, each durable before it is answered
 *
 * The exit status says whether every wanted figure holds.
 */

async function main(): Promise<void> {
  const { values } = parseArgs({ options: { runs: { type: 'string', default: '7' }, json: { type: 'boolean' } } });
  const runs = Number(values.runs);
  if (!Number.isInteger(runs) || runs < 1)
    throw new Error(`--runs: expected a whole number from 1, found ${values.runs}`);
  if (process.getuid?.() !== 0) throw new Error('mounting needs root: run scripts/bench-snapshots as root');
  requirePrograms('docker-registry', 'skopeo', 'tar');
  await using cleanup = new Teardown();
  const directory = await mkdtemp(join(tmpdir(), 'lazylayer-bench-'));
  cleanup.teardown(() => rm(directory, { recursive: true, force: true }));
  const measurements = new Measurements();
  const say = (text: string) => process.stderr.write(`bench-snapshots: ${text}\n`);
  const verdicts = await benchSnapshots({ cleanup, directory, runs, measurements, say });
  const { all } = measurements;
  if (values.json === true) process.stdout.write(`${JSON.stringify({ runs, series: all, verdicts }, undefined, 2)}\n`);
  else process.stdout.write(`${formatTable(all, verdicts)}\n`);
  if (verdicts.some((verdict) => !verdict.holds)) process.exitCode = 1;
}

main().catch((error: unknown) => {
  process.stderr.write(`bench-snapshots: ${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 2;
});
