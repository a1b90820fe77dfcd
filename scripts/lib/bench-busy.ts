import { closeSync, constants, openSync, readSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { Scene } from '../../native-tests/support/scene.js';
import { run } from '../../native-tests/support/tools.js';
import { quantile } from '../../src/bench/statistics.js';
import { serveDebian } from './bench-image.js';
import type { BenchPart } from './bench-part.js';
import type { Verdict } from './measure.js';

const cached = 'usr/bin/perl';
const block = 4096;
const boundMs = 2;

/**
 * How long a read of 4 KiB takes that the cache answers, while all the rest of the image is fetched as fast as the registry gives it. The
 * reads pass the page cache by, so that each comes to lazylayer, and follow each other without a pause.
 */
export async function benchBusy(part: BenchPart): Promise<Verdict[]> {
  const { cleanup, runs, measurements, say } = part;
  const { host } = await serveDebian(part);
  const image = `${host}/bench:1`;
  const quiet: number[] = [];
  const busy: number[] = [];
  for (let i = 1; i <= runs; i++) {
    say(`run ${i} of ${runs}`);
    const scene = await Scene.open(cleanup, '[fetch]\nprefetch = false\nbackground_quiet_sec = 0\n');
    const target = await scene.mountPoint();
    const file = join(target, cached);
    await scene.mount(image, target, '--no-background-fetch');
    await run('sha256sum', [file]);
    quiet.push(...readAnywhere(file, 1000));
    await scene.umount(target);
    await scene.daemonGone();
    await scene.mount(image, target);
    for (let whole = false; !whole;) {
      busy.push(...readAnywhere(file, 500));
      const [{ presentBytes, contentBytes }] = await scene.ps();
      whole = presentBytes === contentBytes;
    }
    await scene.umount(target);
    await scene.daemonGone();
  }
  for (const [state, ms] of Object.entries({ 'nothing else': quiet, 'all else is fetched': busy }))
    for (const q of [0.5, 0.99])
      measurements.add(`cached 4 KiB, p${q * 100}`, state, 'ms', quantile(Float64Array.from(ms), q));
  const value = quantile(Float64Array.from(busy), 0.99);
  return [
    {
      claim: `cached 4 KiB while all else is fetched, p99 of ${busy.length} in ms`,
      value,
      bound: `under ${boundMs}`,
      holds: value < boundMs,
    },
  ];
}

/** Milliseconds of each of so many reads in one second at most. */
function readAnywhere(path: string, most: number): number[] {
  const blocks = Math.floor(statSync(path).size / block);
  const bytes = Buffer.alloc(block);
  const file = openSync(path, constants.O_RDONLY | constants.O_DIRECT);
  try {
    const end = performance.now() + 1000;
    const took: number[] = [];
    for (let begin = performance.now(); took.length < most && begin < end; begin = performance.now()) {
      readSync(file, bytes, 0, block, Math.floor(Math.random() * blocks) * block);
      took.push(performance.now() - begin);
    }
    return took;
  } finally {
    closeSync(file);
  }
}
