import test from 'ava';
import { PREFETCH } from './scheduler.js';
import { inodeAt } from '../testing/image-tree.js';
import { estargzLayer, gate, LayerBench, randomness } from '../testing/layer-fixture.js';
import { until } from '../testing/until.js';

const KIB = 1024;
const random = randomness(31);
const files = [
  { name: 'small', bytes: random.bytes(100 * KIB) },
  { name: 'large', bytes: random.bytes(2048 * KIB) },
  { name: 'next', bytes: random.bytes(1024 * KIB) },
];
const large = files[1].bytes;

test('the beginning of a large file is seen while the rest of it is still coming, once enough of it has come', async (t) => {
  await using bench = await LayerBench.create();
  const { blob, source } = await estargzLayer(files);
  await using layer = await bench.store.open(source);
  const inode = inodeAt(layer.tree, 'large');
  t.is(await layer.glimpse(inode, 32 * KIB), undefined); // nobody has asked for it
  const from = layer.tree.chunkOffset[layer.tree.first[inode]];
  const open = gate(blob, from + 300 * KIB);
  layer.bring([inode]);
  const [early, late] = await Promise.all([layer.glimpse(inode, 32 * KIB), layer.glimpse(inode, 128 * KIB)]);
  t.true(early!.byteLength > 32 * KIB && large.subarray(0, early!.byteLength).equals(early!));
  t.true(late!.byteLength > early!.byteLength && large.subarray(0, late!.byteLength).equals(late!));
  // Of what has come already, at once.
  const again = await layer.glimpse(inode, 128 * KIB);
  t.true(large.subarray(0, again!.byteLength).equals(again!));
  // Nothing of it is there for a reader.
  t.is(layer.stats.presentBytes, 0);
  const more = layer.glimpse(inode, 512 * KIB);
  const whole = layer.read(inode, 0, 4, { priority: PREFETCH });
  open();
  t.true((await more)!.byteLength > 512 * KIB);
  t.true(large.subarray(0, 4).equals(await whole));
  t.is(await layer.glimpse(inode, 32 * KIB), undefined); // it is there
});

test('no glimpse of a small file, of more than a file has, or of one that is lost on its way', async (t) => {
  await using bench = await LayerBench.create();
  const { blob, source } = await estargzLayer(files);
  await using layer = await bench.store.open(source);
  const [small, inode] = [inodeAt(layer.tree, 'small'), inodeAt(layer.tree, 'large')];
  const open = gate(blob, 0);
  layer.bring([small, inode]);
  t.is(await layer.glimpse(small, KIB), undefined);
  t.is(await layer.glimpse(inode, 4096 * KIB), undefined);
  const lost = layer.glimpse(inode, 64 * KIB);
  blob.beforePiece = () => {
    throw new Error('nothing');
  };
  open();
  t.is(await lost, undefined);
});

test('bytes that are no gzip give nothing, and whoever reads them hears of it', async (t) => {
  await using bench = await LayerBench.create();
  const { blob, source } = await estargzLayer(files);
  await using layer = await bench.store.open(source);
  const inode = inodeAt(layer.tree, 'large');
  const from = layer.tree.chunkOffset[layer.tree.first[inode]];
  blob.bytes.fill(0xff, from, from + 1000);
  layer.bring([inode]);
  t.is(await layer.glimpse(inode, 32 * KIB), undefined);
  await t.throwsAsync(layer.read(inode, 0, 4), { code: 'DATA_LOSS' });
  t.is(layer.stats.presentBytes, 0);
});

test('what only debuggers read of a program is not brought along, and given up where it is on its way', async (t) => {
  await using bench = await LayerBench.create();
  const { blob, source } = await estargzLayer([files[0], { name: 'p', bytes: random.bytes(9 << 20) }]);
  await using layer = await bench.store.open(source);
  const inode = inodeAt(layer.tree, 'p');
  const { tree } = layer;
  const chunks = tree.count[inode];
  t.true(chunks >= 3);
  const open = gate(blob, tree.chunkOffset[tree.first[inode]] + 100 * KIB);
  layer.bring([inode]);
  await until(() => blob.asked.length === 2);
  layer.loads(inode, tree.chunkSize[tree.first[inode]] + 1); // a part of the second chunk
  open();
  await until(() => bench.store.scheduler.memoryInUse === 0);
  const present = () => Array.from({ length: chunks }, (_, i) => layer.view.presence.has(tree.first[inode] + i));
  t.deepEqual(present(), [true, true, ...Array<boolean>(chunks - 2).fill(false)]);
  layer.bring([inode]);
  await layer.read(inode, 0, 4);
  await until(() => bench.store.scheduler.memoryInUse === 0);
  t.deepEqual(present(), [true, true, ...Array<boolean>(chunks - 2).fill(false)]);
  t.is(blob.asked.length, 2);
  // A reader gets it all the same.
  t.is((await layer.read(inode, tree.size[inode] - 10, 100)).byteLength, 10);
});

test('what a guess waits for is inflated at once where it is small, as for a reader', async (t) => {
  await using bench = await LayerBench.create();
  const { source } = await estargzLayer(files);
  await using layer = await bench.store.open(source);
  const { inflater } = bench.store.scheduler;
  const now: boolean[] = [];
  const run = inflater.run.bind(inflater);
  inflater.run = (...args) => (now.push(args[3]), run(...args));
  layer.bring([inodeAt(layer.tree, 'small')]);
  await layer.read(inodeAt(layer.tree, 'small'), 0, 4, { priority: PREFETCH });
  await layer.read(inodeAt(layer.tree, 'next'), 0, 4, { priority: PREFETCH });
  t.deepEqual(now, [true, false]);
});

test('how long what was asked for will still take, of one file', async (t) => {
  await using bench = await LayerBench.create();
  const { blob, source } = await estargzLayer(files);
  await using layer = await bench.store.open(source);
  const [small, inode] = [inodeAt(layer.tree, 'small'), inodeAt(layer.tree, 'large')];
  t.is(layer.secondsLeft(inode), 0); // nobody has asked for it
  const open = gate(blob, layer.tree.chunkOffset[layer.tree.first[inode]] + 512 * KIB);
  const { rate } = bench.store.scheduler;
  const whole = layer.tree.compressedBytes(layer.tree.first[inode], layer.tree.first[inode] + 1);
  layer.bring([inode]);
  t.is(layer.secondsLeft(inode), whole / rate);
  t.is(layer.secondsLeft(small), 0);
  await until(() => layer.secondsLeft(inode) < (whole - 256 * KIB) / rate);
  t.true(layer.secondsLeft(inode) > 0);
  open();
  await layer.read(inode, 0, large.byteLength, { priority: PREFETCH });
  t.is(layer.secondsLeft(inode), 0);
});
