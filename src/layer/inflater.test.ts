import { hash } from 'node:crypto';
import { closeSync, openSync } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import { getPriority } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import test, { type ExecutionContext } from 'ava';
import { Presence } from '../cache/presence.js';
import { digestOf } from '../digest/digester.js';
import { readEstargzTree } from '../estargz/open.js';
import { estargzLayer, randomness, tarFile } from '../testing/layer-fixture.js';
import { temporaryDirectory } from '../testing/temporary.js';
import { TreeBuilder } from '../toc/builder.js';
import type { ChunkTarget } from './chunk-writer.js';
import { Inflater } from './inflater.js';
import { mayRise } from '../util/thread-nice.js';
import { BACKGROUND, DEMAND } from './scheduler.js';

/** A member of few compressed bytes, of which a file wants the last one. */
const FAR = 2 * 1024 * 1024;
const FAR_MEMBER = gzipSync(Buffer.alloc(FAR));

async function farChunk(t: ExecutionContext): Promise<ChunkTarget> {
  const builder = new TreeBuilder();
  const chunk = { offset: 0, innerOffset: FAR - 1, size: 1, digest: hash('sha256', Buffer.alloc(1), 'buffer') };
  builder.add({ ...tarFile('f', 1), chunks: [chunk] });
  const tree = builder.build({ source: digestOf('toc'), contentEnd: FAR_MEMBER.byteLength });
  const fd = openSync(join(await temporaryDirectory(t, 'inflater'), 'data'), 'w+');
  t.teardown(() => closeSync(fd));
  return { tree, presence: new Presence(new SharedArrayBuffer(Presence.bytes(1))), fd, trusting: false };
}

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

test.serial('what has to be inflated far for a little is left to the worker, however urgent', async (t) => {
  const target = await farChunk(t);
  await using inflater = new Inflater();
  const before = await threadCount();
  const input = new Uint8Array(new SharedArrayBuffer(FAR_MEMBER.byteLength));
  input.set(FAR_MEMBER);
  const result = inflater.run(target, { first: 0, end: 1, input, base: 0 }, DEMAND, true);
  t.true((await threadCount()) > before);
  t.is((await result).verified, 1);
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
