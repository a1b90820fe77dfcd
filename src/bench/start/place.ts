import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describeError } from '../../errors.js';
import { runCommand } from '../../util/command.js';
import { listMounts } from '../../util/mountinfo.js';
import { Teardown } from '../../util/teardown.js';
import { dropCaches } from '../caches.js';
import type { Candidate, Engine, Place, StartOptions } from './engine.js';
import { checkUnready } from './workload.js';

/**
 * Starts the workload in a new place of an engine, with nothing local and nothing in the page cache, and leaves nothing behind. `work` is
 * given that place, and what its reader has to know beside what the place tells in the end.
 * @throws FAILED_PRECONDITION where it would seem to be ready before it runs
 */
export async function inNewPlace<V>(
  engine: Engine,
  candidate: Candidate,
  { ready, signal }: StartOptions,
  work: (place: Place, notes: readonly string[]) => Promise<V>,
): Promise<V> {
  await checkUnready(ready);
  await using cleanup = new Teardown();
  const directory = await mkdtemp(join(tmpdir(), 'lazylayer-bench-'));
  cleanup.teardown(() => remove(directory));
  const own = join(directory, 'run');
  await mkdir(own);
  const notes: string[] = [];
  await dropCaches().catch((error: unknown) => notes.push(describeError(error)));
  return await work(cleanup.use(await engine.open(candidate, own, signal)), notes);
}

/** What is mounted below goes first, whoever left it. */
async function remove(directory: string): Promise<void> {
  const left = (await listMounts()).filter(({ target }) => target.startsWith(`${directory}/`));
  for (const { target } of left.reverse()) await runCommand('umount', ['-f', '-l', target]);
  await rm(directory, { recursive: true, force: true, maxRetries: 3 });
}
