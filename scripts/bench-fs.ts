import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { requirePrograms, Teardown } from '../native-tests/support/tools.js';
import { benchBusy } from './lib/bench-busy.js';
import { benchImage } from './lib/bench-image.js';
import { benchTree } from './lib/bench-tree.js';
import { formatTable, Measurements, type Verdict } from './lib/measure.js';

/*
 * Speed and memory, side by side in one run. Candidates take turns, so that a machine that slows down slows all of them; medians
 * are compared.
 *
 *   tree   20,000 small files and one of 512 MiB, every chunk cached: the two FUSE backends and a plain directory on the same disk
 *   image  an image of about 500 MB that was never read before, all of it read through the mount: against the same blobs
 *          downloaded, unpacked and digested one after the other, from the same registry; and the serving process's memory after it
 *   busy   4 KiB from the cache while the rest of that image is fetched at full speed
 *
 * The exit status says whether every wanted ratio holds.
 */

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: { runs: { type: 'string', default: '3' }, json: { type: 'boolean' }, only: { type: 'string' } },
  });
  const runs = Number(values.runs);
  if (!Number.isInteger(runs) || runs < 1)
    throw new Error(`--runs: expected a whole number from 1, found ${values.runs}`);
  if (values.only !== undefined && !['tree', 'image', 'busy'].includes(values.only))
    throw new Error(`--only: expected tree, image or busy, found ${values.only}`);
  if (process.getuid?.() !== 0) throw new Error('mounting needs root: run scripts/bench-fs as root');
  requirePrograms('curl', 'docker-registry', 'gzip', 'mmdebstrap', 'skopeo', 'tar');
  await using cleanup = new Teardown();
  const directory = await mkdtemp(join(tmpdir(), 'lazylayer-bench-'));
  cleanup.teardown(() => rm(directory, { recursive: true, force: true }));
  const measurements = new Measurements();
  const verdicts: Verdict[] = [];
  const parts = { tree: benchTree, image: benchImage, busy: benchBusy };
  for (const [name, part] of Object.entries(parts)) {
    if (values.only !== undefined && values.only !== name) continue;
    const place = join(directory, name);
    await mkdir(place);
    const say = (text: string) => process.stderr.write(`bench-fs ${name}: ${text}\n`);
    verdicts.push(...(await part({ cleanup, directory: place, runs, measurements, say })));
  }
  const { all } = measurements;
  if (values.json === true) process.stdout.write(`${JSON.stringify({ runs, series: all, verdicts }, undefined, 2)}\n`);
  else process.stdout.write(`${formatTable(all, verdicts)}\n`);
  if (verdicts.some((verdict) => !verdict.holds)) process.exitCode = 1;
}

main().catch((error: unknown) => {
  process.stderr.write(`bench-fs: ${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 2;
});
