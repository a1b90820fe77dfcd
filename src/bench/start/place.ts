import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { runCommand } from '../../util/command.js';
import { listMounts } from '../../util/mountinfo.js';
import { Teardown } from '../../util/teardown.js';
import { dropCaches } from '../caches.js';
import type { Candidate, Engine, Place } from './engine.js';

/** Works in a new place of an engine, with nothing local and nothing in the page cache. Leaves nothing behind. */
export async function inNewPlace<V>(
  engine: Engine,
  candidate: Candidate,
  signal: AbortSignal,
  work: (place: Place) => Promise<V>,
): Promise<V> {
  await using cleanup = new Teardown();
  const directory = await mkdtemp(join(tmpdir(), 'lazylayer-bench-'));
  cleanup.teardown(() => remove(directory));
  const own = join(directory, 'run');
  await mkdir(own);
  await dropCaches();
  return await work(cleanup.use(await engine.open(candidate, own, signal)));
}

/** What is mounted below goes first, whoever left it. */
async function remove(directory: string): Promise<void> {
  const left = (await listMounts()).filter(({ target }) => target.startsWith(`${directory}/`));
  for (const { target } of left.reverse()) await runCommand('umount', ['-f', '-l', target]);
  await rm(directory, { recursive: true, force: true, maxRetries: 3 });
}
