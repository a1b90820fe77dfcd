import { closeSync, ftruncateSync, openSync, readFileSync, rmSync } from 'node:fs';
import { createInflateRaw, gzipSync } from 'node:zlib';
import { hash } from 'node:crypto';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { Presence } from '../cache/presence.js';
import { digestOf } from '../digest/digester.js';
import { readEstargzTree } from '../estargz/open.js';
import { estargzLayer, randomness, tarFile } from '../testing/layer-fixture.js';
import { temporaryDirectory } from '../testing/temporary.js';
import { NO_DIGEST } from '../toc/entry.js';
import { TreeBuilder } from '../toc/builder.js';
import type { Tree } from '../toc/tree.js';
import { ChunkWriter, type Batch, type ChunkTarget } from './chunk-writer.js';

async function setUp(t: ExecutionContext, minChunkSize: number) {
  const random = randomness(40);
  const files = Array.from({ length: 30 }, (_, i) => ({ name: `f${i}`, bytes: random.bytes(1 + i * 500) }));
  const { blob, source } = await estargzLayer(files, { minChunkSize, chunkSize: 6_000 });
  const { tree } = await readEstargzTree(source.reader(), source);
  const dir = await temporaryDirectory(t, 'writer');
  const path = join(dir, 'data');
  const fd = openSync(path, 'w+');
  t.teardown(() => closeSync(fd));
  const presence = new Presence(new SharedArrayBuffer(Presence.bytes(tree.counts.chunks)));
  const target: ChunkTarget = { tree, presence, fd, trusting: false };
  const whole: Batch = { first: 0, end: tree.counts.chunks, input: blob.bytes, base: 0 };
  const right = (chunk: number) => {
    const inode = tree.first.findIndex(
      (first, i) => tree.isRegular(i) && chunk >= first && chunk < first + tree.count[i],
    );
    const i = files.findIndex(({ name }) => tree.lookup(0, Buffer.from(name)) === inode);
    const at = tree.chunkCache[chunk] - tree.cacheOffset(inode);
    const found = readFileSync(path).subarray(tree.chunkCache[chunk], tree.chunkCache[chunk] + tree.chunkSize[chunk]);
    return files[i].bytes.subarray(at, at + tree.chunkSize[chunk]).equals(found);
  };
  return { tree, blob, target, whole, right, presence, path };
}

for (const minChunkSize of [0, 20_000])
  for (const scratch of [1_000, 50_000, 1 << 20])
    test(`chunks come to their places, members of ${minChunkSize} bytes, ${scratch} bytes of scratch`, async (t) => {
      const { tree, target, whole, right, presence } = await setUp(t, minChunkSize);
      // Some are there already: they are not written again.
      presence.set(3);
      presence.set(tree.counts.chunks - 1);
      const result = new ChunkWriter(scratch).write(target, whole);
      t.deepEqual([result.failed, result.unwritten], [[], []]);
      t.true(presence.hasAll(0, tree.counts.chunks));
      for (let chunk = 0; chunk < tree.counts.chunks; chunk++)
        t.is(right(chunk), chunk !== 3 && chunk !== tree.counts.chunks - 1, `chunk ${chunk}`);
    });

for (const minChunkSize of [0, 20_000])
  test(`a bad chunk fails and its neighbours do not, members of ${minChunkSize} bytes`, async (t) => {
    const { tree, target, whole, right, presence } = await setUp(t, minChunkSize);
    tree.chunkDigests[10 * 32] ^= 1;
    const result = new ChunkWriter(1 << 20).write(target, whole);
    t.deepEqual(
      result.failed.map((f) => f.chunk),
      [10],
    );
    t.true(result.failed[0].found.startsWith('sha256:'));
    t.false(presence.has(10));
    for (let chunk = 0; chunk < tree.counts.chunks; chunk++) t.is(right(chunk), chunk !== 10, `chunk ${chunk}`);
  });

test('bytes that do not inflate fail what lies behind them in their member, and nothing else', async (t) => {
  const { tree, blob, target, whole, presence } = await setUp(t, 20_000);
  const member = tree.chunkOffset[12];
  const bytes = Buffer.from(blob.bytes);
  bytes.fill(0xff, member + 300, tree.chunkEnd(12) - 100);
  const result = new ChunkWriter(1 << 20).write(target, { ...whole, input: bytes });
  t.true(result.failed.length > 0);
  for (const { chunk } of result.failed) t.is(tree.chunkOffset[chunk], member);
  t.is(presence.count(), tree.counts.chunks - result.failed.length);
});

test('what the disk does not take comes back, verified, and is not called present', async (t) => {
  const { tree, target, whole, presence, path } = await setUp(t, 0);
  const readOnly = openSync(path, 'r');
  t.teardown(() => closeSync(readOnly));
  const result = new ChunkWriter(1 << 20).write({ ...target, fd: readOnly }, whole);
  t.is(result.unwritten.length, tree.counts.chunks);
  t.is(presence.count(), 0);
  t.truthy(result.diskError);
  rmSync(path);
});

test('the work for a member of many chunks grows with their number, not with its square', async (t) => {
  const count = 1500;
  const builder = new TreeBuilder();
  const digest = hash('sha256', Buffer.alloc(1), 'buffer');
  const chunks = Array.from({ length: count }, (_, innerOffset) => ({ offset: 0, innerOffset, size: 1, digest }));
  builder.add({ ...tarFile('f', count), chunks });
  const input = gzipSync(Buffer.alloc(count));
  const tree = builder.build({ source: digestOf('toc'), contentEnd: input.byteLength });
  let looks = 0;
  const chunkOffset = new Proxy(tree.chunkOffset, {
    get: (array, key) => (looks++, Reflect.get(array, key) as unknown),
  });
  const counted = Object.create(tree, { chunkOffset: { value: chunkOffset } }) as typeof tree;
  const { target } = await setUp(t, 0);
  const presence = new Presence(new SharedArrayBuffer(Presence.bytes(count)));
  const result = new ChunkWriter(1 << 20).write(
    { ...target, tree: counted, presence },
    { first: 0, end: count, input, base: 0 },
  );
  t.is(result.verified, count);
  t.true(looks < 10 * count, `${looks}`);
});

/** How often inflating begins anew while `work` runs. */
function passes(work: () => void): number {
  const { _handle: handle } = createInflateRaw() as unknown as { _handle: object };
  const binding = Object.getPrototypeOf(handle) as { reset: () => void };
  const { reset } = binding;
  let count = 0;
  binding.reset = function (this: object) {
    count++;
    reset.call(this);
  };
  work();
  binding.reset = reset;
  return count;
}

test.serial('a member is inflated once, however many chunks it has, however far apart, sound or not', async (t) => {
  const count = 100;
  const apart = 200 * 1024;
  const content = Buffer.alloc(count * apart);
  const chunks = Array.from({ length: count }, (_, i) => ({
    offset: 0,
    innerOffset: i * apart,
    size: 1,
    digest: NO_DIGEST,
  }));
  const { target } = await setUp(t, 0);
  const member = gzipSync(content, { level: 1 });
  const half = member.subarray(0, member.length / 2);
  for (const input of [member, half]) {
    const builder = new TreeBuilder();
    builder.add({ ...tarFile('f', count), chunks });
    const tree = builder.build({ source: digestOf('toc'), contentEnd: input.byteLength });
    const presence = new Presence(new SharedArrayBuffer(Presence.bytes(count)));
    let failed = 0;
    const begun = passes(() => {
      const writer = new ChunkWriter(1 << 20);
      failed = writer.write({ ...target, tree, presence, trusting: true }, { first: 0, end: count, input, base: 0 })
        .failed.length;
    });
    t.is(begun, 1);
    t.is(failed > 0, input === half);
    t.is(presence.count(), count - failed);
  }
});

test('between files the cache file has zeros, whatever was written before: the kernel shows the end of a page as it is', async (t) => {
  const { fd, path } = await emptyFile(t);
  const writer = new ChunkWriter(1 << 20);
  for (const [fill, sizes] of [
    [0xaa, [60_000]],
    [0xbb, [5_000, 3_000, 100]],
  ] as const) {
    const { tree, batch } = membersOf(sizes.map((size) => Buffer.alloc(size, fill)));
    const presence = new Presence(new SharedArrayBuffer(4));
    ftruncateSync(fd, 0);
    t.is(writer.write({ tree, presence, fd, trusting: false }, batch).verified, sum(sizes));
    t.is(readFileSync(path).filter((byte) => byte !== 0).length, sum(sizes));
  }
});

test('a chunk that no digest vouches for is taken where nothing is verified, and nowhere else', async (t) => {
  const { fd } = await emptyFile(t);
  for (const trusting of [false, true]) {
    const { tree, batch } = membersOf([Buffer.alloc(100, 1), Buffer.alloc(100, 2)]);
    tree.chunkDigests.fill(0, 0, 32);
    const presence = new Presence(new SharedArrayBuffer(4));
    const { failed } = new ChunkWriter(1 << 20).write({ tree, presence, fd, trusting }, batch);
    t.deepEqual([failed.length, presence.has(0), presence.has(1)], trusting ? [0, true, true] : [1, false, true]);
  }
});

const sum = (numbers: readonly number[]) => numbers.reduce((a, b) => a + b, 0);

async function emptyFile(t: ExecutionContext) {
  const path = join(await temporaryDirectory(t, 'writer'), 'data');
  const fd = openSync(path, 'w+');
  t.teardown(() => closeSync(fd));
  return { fd, path };
}

/** A layer of files with one member each, and all of them. */
function membersOf(contents: readonly Buffer[]): { tree: Tree; batch: Batch } {
  const builder = new TreeBuilder();
  const members = contents.map((bytes) => gzipSync(bytes));
  contents.forEach((bytes, i) => {
    const offset = sum(members.slice(0, i).map(({ byteLength }) => byteLength));
    const digest = hash('sha256', bytes, 'buffer');
    builder.add({
      ...tarFile(`f${i}`, bytes.byteLength),
      chunks: [{ offset, innerOffset: 0, size: bytes.byteLength, digest }],
    });
  });
  const input = Buffer.concat(members);
  const tree = builder.build({ source: digestOf('toc'), contentEnd: input.byteLength });
  return { tree, batch: { first: 0, end: contents.length, input, base: 0 } };
}
