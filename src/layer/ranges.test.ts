import { setImmediate as turn } from 'node:timers/promises';
import test from 'ava';
import { inodeAt } from '../testing/image-tree.js';
import { estargzLayer, gate, LayerBench, randomness, type FakeBlob } from '../testing/layer-fixture.js';
import { until } from '../testing/until.js';
import { Ranges } from './ranges.js';
import type { ChunkSpan } from './read-ahead.js';
import { DEMAND } from './scheduler.js';

test('the rest of a file follows on what is missed in the same request, before it in another', async (t) => {
  const bytes = randomness(14).bytes(6_000_000); // about half of it compressed
  const { blob, source } = await estargzLayer([{ name: 'a', bytes }], { level: 1, chunkSize: 256 * 1024 });
  for (const [place, requests] of [
    [0, 1],
    [3_000_000, 2],
  ]) {
    await using bench = await LayerBench.create();
    await using layer = await bench.store.open(source);
    blob.asked.length = 0;
    t.true(bytes.subarray(place, place + 10).equals(await layer.read(inodeAt(layer.tree, 'a'), place, 10)));
    await until(() => layer.stats.presentBytes === bytes.byteLength);
    t.is(blob.asked.length, requests);
    const { first } = layer.tree.chunksOf(inodeAt(layer.tree, 'a'), place, 10);
    t.is(blob.asked[0].offset, layer.tree.chunkOffset[first]);
  }
});

test('a short rest of a file is no request of its own', async (t) => {
  await using bench = await LayerBench.create({ store: { maxMemory: 2 << 20 } }); // ranges of half of that
  const { blob, source } = await estargzLayer([{ name: 'a', bytes: randomness(15).bytes(2_800_000) }], {
    level: 1,
    chunkSize: 64 * 1024,
  });
  await using layer = await bench.store.open(source);
  t.true(layer.tree.facts.contentEnd > 1.2 * bench.store.scheduler.fileRange);
  blob.asked.length = 0;
  layer.bring([inodeAt(layer.tree, 'a')]);
  await until(() => layer.stats.presentBytes === 2_800_000);
  t.is(blob.asked.length, 1);
});

test('spans that are asked for at once and lie near each other are one request', async (t) => {
  await using bench = await LayerBench.create();
  const random = randomness(16);
  const files = [1_000, 150_000, 1_000, 400_000, 1_000].map((size, i) => ({ name: `${i}`, bytes: random.bytes(size) }));
  const { blob, source } = await estargzLayer(files);
  await using layer = await bench.store.open(source);
  blob.asked.length = 0;
  layer.bring(['4', '2', '0'].map((name) => inodeAt(layer.tree, name)));
  await until(() => bench.store.scheduler.requestsInUse === 0 && layer.stats.presentBytes >= 153_000);
  t.is(blob.asked.length, 2);
  t.is(layer.stats.presentBytes, 153_000);
});

/** A file, and one of so many bytes that another takes the place of. */
const withReplaced = (size: number) => [
  { name: 'small', bytes: randomness(1).bytes(100) },
  { name: 'replaced', bytes: randomness(2).bytes(size) },
  { name: 'replaced', bytes: randomness(3).bytes(100) },
];

test('few bytes of a file that was replaced are passed over within one request', async (t) => {
  await using bench = await LayerBench.create();
  const files = withReplaced(180 << 10);
  const { blob, source } = await estargzLayer(files);
  await using layer = await bench.store.open(source);
  blob.asked.length = 0;
  t.true(files[0].bytes.equals(await layer.read(inodeAt(layer.tree, 'small'), 0, 100)));
  t.true(files[2].bytes.equals(await layer.read(inodeAt(layer.tree, 'replaced'), 0, 100)));
  t.is(blob.asked.length, 1);
});

test('many bytes of a file that was replaced are not fetched at all', async (t) => {
  await using bench = await LayerBench.create();
  const files = withReplaced(8 << 20);
  const { blob, source } = await estargzLayer(files);
  await using layer = await bench.store.open(source);
  blob.asked.length = 0;
  t.true(files[0].bytes.equals(await layer.read(inodeAt(layer.tree, 'small'), 0, 100)));
  t.is(blob.asked.length, 1);
  t.true(blob.asked[0].length < 80_000, `${blob.asked[0].length} bytes`);
  t.true(files[2].bytes.equals(await layer.read(inodeAt(layer.tree, 'replaced'), 0, 100)));
});

test('a layer so short that it came with its TOC is asked for once, and its chunks are verified all the same', async (t) => {
  for (const wrong of [false, true]) {
    await using bench = await LayerBench.create();
    const bytes = randomness(11).bytes(6_000);
    const { blob, source } = await estargzLayer([{ name: 'a', bytes }]);
    if (wrong) {
      blob.bytes = Buffer.from(blob.bytes);
      blob.bytes[1_000] ^= 1;
    }
    await using layer = await bench.store.open(source);
    t.is(blob.asked.length, 1);
    const reading = layer.read(inodeAt(layer.tree, 'a'), 0, 1 << 20);
    if (wrong) await t.throwsAsync(reading, { code: 'DATA_LOSS' });
    else t.true(bytes.equals(await reading));
    t.is(blob.asked.length, wrong ? 3 : 1);
  }
});

test('of a member whose rest comes for somebody else only what is missing is asked for', async (t) => {
  await using bench = await LayerBench.create();
  const files = [1, 2, 3, 4].map((seed) => ({ name: `${seed}`, bytes: randomness(seed).bytes(20_000) }));
  const { blob, source } = await estargzLayer(files, { minChunkSize: 100_000 });
  await using layer = await bench.store.open(source);
  const { tree, presence, fd } = layer.view;
  t.is(tree.chunkOffset[0], tree.chunkOffset[3], 'one member');
  const { scheduler } = bench.store;
  const nothing = () => {};
  const counts = { counted: nothing, requested: nothing, arrived: async () => {} };
  const host = { target: { tree, presence, fd, trusting: false }, scheduler, reader: blob.reader(), what: 'layer' };
  await using ranges = new Ranges({ ...host, ...counts }, () => false);
  const open = gate(blob);
  const coming = ranges.fetch({ first: 2, end: 4 }, DEMAND, await scheduler.admit(DEMAND, () => 1));
  const next = ranges.next(0, 4, 1 << 20);
  t.like(next, { first: 0, end: 2 });
  t.true(ranges.isFree(next as ChunkSpan));
  open();
  t.is((await coming).failed, 0);
});

/** Files of so many bytes, half of which go over the network, and a layer of them, open. */
async function opened(bench: LayerBench, sizes: readonly number[], chunkSize = 1 << 20) {
  const random = randomness(60);
  const files = sizes.map((size, i) => ({ name: `${i}`, bytes: random.bytes(size) }));
  const { blob, source } = await estargzLayer(files, { level: 1, chunkSize });
  const layer = await bench.store.open(source);
  blob.asked.length = 0;
  return { layer, blob, files };
}

/** Bytes of the blob that were asked for more than once. */
function askedTwice({ asked }: FakeBlob): number {
  let [end, twice] = [0, 0];
  for (const { offset, length } of [...asked].sort((a, b) => a.offset - b.offset)) {
    twice += Math.max(0, Math.min(end, offset + length) - offset);
    end = Math.max(end, offset + length);
  }
  return twice;
}

test('a range ends where another one that is on its way begins', async (t) => {
  await using bench = await LayerBench.create();
  const { layer, blob } = await opened(bench, Array<number>(10).fill(100_000));
  await using _ = layer;
  const open = gate(blob);
  layer.bring([inodeAt(layer.tree, '5')]);
  await until(() => blob.asked.length === 1);
  const all = layer.fetchAll();
  await until(() => blob.asked.length === 3);
  open();
  await all;
  t.is(layer.stats.presentBytes, 1_000_000);
  t.is(askedTwice(blob), 0);
});

test('what a reader brought while a range waited for leave to start is not asked for again', async (t) => {
  await using bench = await LayerBench.create({ store: { maxConcurrency: 2 } });
  const { layer, blob, files } = await opened(bench, [600_000, 600_000, 600_000, 600_000]);
  await using _ = layer;
  const last = layer.tree.chunkOffset[layer.tree.first[inodeAt(layer.tree, '3')]];
  const open = gate(blob, last);
  layer.bring([inodeAt(layer.tree, '3')]); // all that nobody waits for has one request at once
  await until(() => blob.asked.length === 1);
  const all = layer.fetchAll();
  await turn();
  t.true(files[0].bytes.equals(await layer.read(inodeAt(layer.tree, '0'), 0, 1 << 20)));
  open();
  await all;
  t.is(layer.stats.presentBytes, 2_400_000);
  t.is(askedTwice(blob), 0);
});

test('of what is not loaded of a program, nothing is given up that a reader waits for', async (t) => {
  await using bench = await LayerBench.create();
  const { layer, blob, files } = await opened(bench, [4_000_000], 200_000);
  await using _ = layer;
  const inode = inodeAt(layer.tree, '0');
  const open = gate(blob);
  layer.bring([inode]);
  await until(() => blob.asked.length === 1);
  const reading = layer.read(inode, 3_900_000, 10);
  await turn();
  layer.loads(inode, 1_000_000);
  open();
  t.true(files[0].bytes.subarray(3_900_000, 3_900_010).equals(await reading));
  t.is(blob.asked.length, 1);
});
