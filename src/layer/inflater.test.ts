import { closeSync, openSync } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import { getPriority } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { Presence } from '../cache/presence.js';
import { readEstargzTree } from '../estargz/open.js';
import { estargzLayer, randomness } from '../testing/layer-fixture.js';
import { temporaryDirectory } from '../testing/temporary.js';
import { Inflater } from './inflater.js';
import { mayRise } from '../util/thread-nice.js';
import { BACKGROUND, DEMAND } from './scheduler.js';

/** Threads of this process. */
const threadCount = async () => (await readdir('/proc/self/task')).length;

/** How many threads of this process are this nice (proc_pid_stat(5), field 19). */
async function threads(nice: number): Promise<number> {
  let count = 0;
  for (const task of await readdir('/proc/self/task')) {
    const stat = await readFile(`/proc/self/task/${task}/stat`, 'latin1').catch(() => '');
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' '); // from field 3 on
    if (Number(fields[16]) === nice) count++;
  }
  return count;
}

test.serial('work that nobody waits for makes way, as long as it is that, and comes to its place', async (t) => {
  const { blob, source } = await estargzLayer([{ name: 'f', bytes: randomness(7).bytes(50_000) }]);
  const { tree } = await readEstargzTree(source.reader(), source);
  const directory = await temporaryDirectory(t, 'inflater');
  const fd = openSync(join(directory, 'data'), 'w+');
  t.teardown(() => closeSync(fd));
  const input = new Uint8Array(new SharedArrayBuffer(blob.bytes.byteLength));
  input.set(blob.bytes);
  // As nice as a thread that makes way.
  const nice = Math.min(19, getPriority() + 10);
  const before = await threads(nice);
  await using inflater = new Inflater();
  for (const priority of [BACKGROUND, DEMAND, BACKGROUND] as const) {
    const presence = new Presence(new SharedArrayBuffer(Presence.bytes(tree.counts.chunks)));
    const batch = { first: 0, end: tree.counts.chunks, input, base: 0 };
    const result = await inflater.run({ tree, presence, fd, trusting: false }, batch, priority, false);
    t.deepEqual([result.failed, result.unwritten], [[], []]);
    t.true(presence.hasAll(0, tree.counts.chunks));
    // Who could not take back what he gave up does not give it up.
    const makesWay = priority === BACKGROUND && mayRise();
    t.is((await threads(nice)) - before, makesWay ? 1 : 0);
  }
});

test.serial('the worker is started with a request whose bytes need it, and not for a few', async (t) => {
  await using inflater = new Inflater();
  const before = await threadCount();
  inflater.prepare(100_000);
  t.is(await threadCount(), before);
  inflater.prepare(1_000_000);
  const started = await threadCount();
  t.true(started > before);
  inflater.prepare(1_000_000);
  t.is(await threadCount(), started);
});
