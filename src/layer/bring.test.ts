import test from 'ava';
import { inodeAt } from '../testing/image-tree.js';
import { estargzLayer, gate, LayerBench, randomness } from '../testing/layer-fixture.js';
import { until } from '../testing/until.js';
import type { Layer } from './layer.js';

const KIB = 1024;

/** Files of these sizes, and what a layer of them asks for. About half of the bytes go over the network. */
async function scene(bench: LayerBench, files: Readonly<Record<string, number>>) {
  const random = randomness(31);
  // So much that the layer does not come with its TOC.
  const contents = Object.entries({ first: 4096 * KIB, ...files }).map(([name, size]) => ({
    name,
    bytes: random.bytes(size),
  }));
  const { blob, source } = await estargzLayer(contents);
  const layer = await bench.store.open(source);
  blob.asked.length = 0;
  const inodeOf = (path: string) => inodeAt(layer.tree, path);
  const names = Object.keys(files);
  const there = () => names.filter((name) => isThere(layer, inodeOf(name)));
  const { scheduler } = bench.store;
  const settled = () => until(() => blob.asked.length > 0 && scheduler.memoryInUse === 0);
  return { layer, blob, inodeOf, there, settled };
}

const isThere = ({ tree, view }: Layer, inode: number) =>
  view.presence.hasAll(tree.first[inode], tree.first[inode] + tree.count[inode]);

test('what is asked for while requests wait for their turn goes with them, if it lies near', async (t) => {
  await using bench = await LayerBench.create({ store: { maxConcurrency: 2 } });
  const sizes = { far: 600 * KIB, a: 4 * KIB, b: 4 * KIB, c: 4 * KIB, apart: 600 * KIB, d: 4 * KIB };
  const { layer, blob, inodeOf, there, settled } = await scene(bench, sizes);
  await using _ = layer;
  const open = gate(blob);
  layer.bring([inodeOf('far')]);
  await until(() => blob.asked.length === 1);
  for (const name of ['b', 'd', 'c', 'a']) layer.bring([inodeOf(name)]);
  open();
  await settled();
  t.deepEqual(there(), ['far', 'a', 'b', 'c', 'd']);
  const place = (name: string) => layer.tree.chunkOffset[layer.tree.first[inodeOf(name)]];
  t.deepEqual(
    blob.asked.map(({ offset }) => offset),
    [place('far'), place('a'), place('d')],
  );
});

test('what lies behind a large file that was replaced is far', async (t) => {
  await using bench = await LayerBench.create({ store: { maxConcurrency: 2 } });
  const random = randomness(32);
  const files: [string, number][] = [
    ['far', 600],
    ['a', 4],
    ['replaced', 4096],
    ['replaced', 4],
  ];
  const { blob, source } = await estargzLayer(files.map(([name, size]) => ({ name, bytes: random.bytes(size * KIB) })));
  await using layer = await bench.store.open(source);
  blob.asked.length = 0;
  const open = gate(blob);
  const inodeOf = (name: string) => inodeAt(layer.tree, name);
  layer.bring([inodeOf('far')]);
  await until(() => blob.asked.length === 1);
  for (const name of ['a', 'replaced']) layer.bring([inodeOf(name)]);
  open();
  await until(() => bench.store.scheduler.memoryInUse === 0);
  t.is(blob.asked.length, 3);
  t.true(blob.asked.every(({ length }) => length < 600 * KIB));
});

test('a request that a reader waits for takes no more in, nor one that is under way', async (t) => {
  await using bench = await LayerBench.create({ store: { maxConcurrency: 2 } });
  const { layer, blob, inodeOf, there, settled } = await scene(bench, {
    far: 600 * KIB,
    a: 40 * KIB,
    b: 40 * KIB,
    c: 40 * KIB,
  });
  await using _ = layer;
  const open = gate(blob);
  layer.bring([inodeOf('far')]);
  await until(() => blob.asked.length === 1);
  layer.bring([inodeOf('a')]);
  const reading = layer.read(inodeOf('a'), 0, 10);
  await until(() => blob.asked.length === 2);
  layer.bring([inodeOf('c')]);
  open();
  await reading;
  await settled();
  t.deepEqual(there(), ['far', 'a', 'c']);
  t.is(blob.asked.length, 3);
});

test('one of many small files brings those like it around it, and a short rest of its directory', async (t) => {
  const files: Record<string, number> = {};
  for (let i = 0; i < 40; i++) files[`lib/${String(i).padStart(2, '0')}.pyc`] = 32 * KIB;
  files['lib/a.py'] = 32 * KIB;
  for (const [around, first, end] of [
    [0, 20, 21],
    [8 * 16.5 * KIB, 17, 25],
    [24 * 16.5 * KIB, 0, 40],
  ]) {
    await using bench = await LayerBench.create();
    const { layer, blob, inodeOf, there, settled } = await scene(bench, files);
    await using _ = layer;
    layer.bringMany([inodeOf('lib/20.pyc')], around);
    await settled();
    const names = Object.keys(files).slice(first, end);
    t.deepEqual(there(), names, `${around}`);
    t.is(blob.asked.length, 1);
  }
});

test('a library brings what is left of a row of them, where that is little', async (t) => {
  for (const [rest, comes] of [
    [100 * KIB, ['usr/lib/x/blas/libblas.so.3', 'usr/lib/x/libz.so.1']],
    [300 * KIB, ['usr/lib/x/blas/libblas.so.3']],
  ] as const) {
    await using bench = await LayerBench.create();
    const { layer, blob, inodeOf, there, settled } = await scene(bench, {
      'usr/lib/python3/a.so': 10 * KIB,
      'usr/lib/x/blas/libblas.so.3': 400 * KIB,
      'usr/lib/x/libz.so.1': rest,
      'usr/share/doc/copyright': 10 * KIB,
      'usr/share/doc/z.so': 10 * KIB,
    });
    await using _ = layer;
    layer.bring([inodeOf('usr/lib/x/blas/libblas.so.3')]);
    await settled();
    t.deepEqual(there(), comes as unknown as string[]);
    t.is(blob.asked.length, 1);
  }
});
