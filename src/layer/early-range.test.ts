import { setImmediate as turn } from 'node:timers/promises';
import test from 'ava';
import { collect } from '../testing/image-bytes.js';
import { estargzLayer, FakeBlob, gate, LayerBench } from '../testing/layer-fixture.js';
import { inodeAt } from '../testing/image-tree.js';
import { EarlyRange, EarlyReader } from './early-range.js';
import { until } from '../testing/until.js';
import { ROOT } from '../toc/tree.js';

const bytes = Buffer.from(Array.from({ length: 400_000 }, (_, i) => (i * 7) % 251));

function early(beforePiece: FakeBlob['beforePiece'] = () => {}) {
  const blob = new FakeBlob(bytes);
  blob.beforePiece = beforePiece;
  const counted = { came: 0, freed: 0, dropped: [] as number[] };
  const came = (n: number) => void (counted.came += n);
  const range = new EarlyRange(blob.reader(), 0, 200_000, 50_000, came, () => counted.freed++);
  return { blob, counted, reader: new EarlyReader(blob.reader(), range, (n) => counted.dropped.push(n)) };
}

test('a stream of a part of the range goes on with it: one request, and the same bytes', async (t) => {
  for (const [from, to] of [
    [0, 200_000],
    [169, 200_000],
    [169, 120_001],
  ]) {
    const { blob, counted, reader } = early();
    for (let i = 0; i < 50; i++) await turn();
    t.is(counted.came, Math.ceil(50_000 / blob.piece) * blob.piece, 'counted as it comes');
    t.true(reader.goesOn(from, to - from));
    t.true((await collect(reader.stream(from, to - from))).equals(bytes.subarray(from, to)));
    t.deepEqual(blob.asked, [{ offset: 0, length: 200_000 }]);
    t.deepEqual([counted.freed, counted.dropped], [1, []]);
    t.false(reader.goesOn(from, to - from));
    t.is(blob.aborted, to < 130_000 ? 1 : 0, 'a long rest is not waited for');
    t.true((await collect(reader.stream(5, 10))).equals(bytes.subarray(5, 15)), 'once');
    t.is(blob.asked.length, 2);
    await reader[Symbol.asyncDispose]();
  }
});

test('no more than there is room for comes before somebody takes over', async (t) => {
  let pieces = 0;
  const { blob, reader } = early(() => void pieces++);
  await until(() => pieces * blob.piece >= 50_000);
  for (let i = 0; i < 100; i++) await turn();
  t.is(pieces, Math.ceil(50_000 / blob.piece));
  t.is((await collect(reader.stream(0, 200_000))).byteLength, 200_000);
});

test('what fits nobody is ended, and counted; what is behind the range does not touch it', async (t) => {
  const { blob, counted, reader } = early();
  await until(() => blob.asked.length > 0);
  t.true((await collect(reader.stream(300_000, 10))).equals(bytes.subarray(300_000, 300_010)));
  t.deepEqual([counted.freed, blob.aborted], [0, 0]);
  t.true((await collect(reader.stream(100, 250_000))).equals(bytes.subarray(100, 250_100)));
  await until(() => counted.dropped.length > 0);
  t.deepEqual([counted.freed, counted.dropped.length, blob.aborted], [1, 1, 1]);
  await reader[Symbol.asyncDispose]();
  t.is(counted.freed, 1);
});

test('a range that nobody takes ends with its reader; a failure is told to who takes it', async (t) => {
  const unused = early();
  await until(() => unused.blob.asked.length > 0);
  await unused.reader[Symbol.asyncDispose]();
  t.deepEqual([unused.counted.freed, unused.blob.aborted], [1, 1]);

  const blob = new FakeBlob(bytes);
  blob.beforePiece = (at) => (at > 0 ? Promise.reject(new Error('the line is dead')) : undefined);
  const range = new EarlyRange(
    blob.reader(),
    0,
    200_000,
    100_000,
    () => {},
    () => {},
  );
  await using reader = new EarlyReader(blob.reader(), range, () => {});
  await turn();
  await t.throwsAsync(collect(reader.stream(0, 1000)), { message: 'the line is dead' });
});

test('who has left before the range is taken gives it back', async (t) => {
  const { counted, reader } = early();
  const signal = AbortSignal.abort(new Error('I left'));
  await t.throwsAsync(collect(reader.stream(0, 200_000, { signal })), { message: 'I left' });
  t.is(counted.freed, 1);
});

test('who leaves early ends the transfer, also by a signal', async (t) => {
  const leaver = early();
  for await (const piece of leaver.reader.stream(0, 200_000)) {
    t.true(piece.byteLength > 0);
    break;
  }
  t.deepEqual([leaver.counted.freed, leaver.blob.aborted], [1, 1]);

  const { blob, counted, reader } = early();
  const leaving = new AbortController();
  const reading = collect(reader.stream(0, 200_000, { signal: leaving.signal }));
  blob.beforePiece = (at) => (at > 100_000 ? leaving.abort(new Error('I leave')) : undefined);
  await t.throwsAsync(reading, { message: 'I leave' });
  t.is(counted.freed, 1);
});

const files = Array.from({ length: 6 }, (_, i) => ({ path: `f${i}`, size: 120_000 }));

test('what a landmark asks for is on its way before the tree is there, by one request in all', async (t) => {
  await using bench = await LayerBench.create();
  const { blob, source } = await estargzLayer(files, { landmarkAfter: 3 });
  const layer = await bench.store.open(source, { prefetch: true });
  t.is(blob.asked.length, 2, 'the end of the blob, and its beginning');
  t.is(blob.asked[1].offset, 0);
  await layer.prefetch();
  t.is(blob.asked.length, 2);
  t.is(layer.stats.requests, 2);
  t.true(layer.stats.presentBytes >= 360_000);
  await layer[Symbol.asyncDispose]();
});

test('without a landmark it is what every runtime reads, wherever it lies in the blob', async (t) => {
  await using bench = await LayerBench.create();
  const { blob, source } = await estargzLayer([...files.slice(0, 3), ...etc, ...files.slice(3)]);
  await using layer = await bench.store.open(source, { prefetch: true });
  const { tree } = layer;
  const [group, passwd] = ['group', 'passwd'].map((name) =>
    tree.lookup(tree.lookup(ROOT, Buffer.from('etc')), Buffer.from(name)),
  );
  const offset = tree.chunkOffset[tree.first[group]];
  t.deepEqual(blob.asked.slice(1), [{ offset, length: tree.chunkEnd(tree.first[passwd]) - offset }]);
  await layer.prefetch();
  t.is(layer.stats.presentBytes, 0, 'not by who mounts it by hand');
  await layer.prefetch({ runtime: true });
  await until(() => layer.stats.presentBytes > 0);
  t.is(Buffer.from(await layer.read(passwd, 0, 100)).toString(), 'passwd');
  t.is(blob.asked.length, 2);
  t.is(layer.stats.requests, 2);

  const tiny = await estargzLayer(etc);
  await (await bench.store.open(tiny.source, { prefetch: true }))[Symbol.asyncDispose]();
  t.is(tiny.blob.asked.length, 1, 'it came with the TOC');
});

const etc = ['group', 'inputrc', 'passwd', 'services'].map((name) => ({ path: `etc/${name}`, content: name }));
const marked = (count: number, seed = 1) => [
  ...Array.from({ length: count }, (_, i) => ({ path: `f${i}`, size: 400_000, seed: seed + i })),
  ...etc,
];

test('behind what a landmark asks for, what every runtime reads comes by a request of its own, and before it', async (t) => {
  await using bench = await LayerBench.create();
  const { blob, source } = await estargzLayer(marked(5), { landmarkAfter: 5 });
  const open = gate(blob, 64 * 1024, 700_000);
  await using layer = await bench.store.open(source, { prefetch: true });
  const [, runtime, landmark] = blob.asked;
  t.deepEqual([blob.asked.length, landmark.offset, landmark.length], [3, 0, runtime.offset]);
  const prefetched = layer.prefetch();
  const passwd = inodeAt(layer.tree, 'etc/passwd');
  t.is(Buffer.from(await layer.read(passwd, 0, 100)).toString(), 'passwd');
  t.is(layer.stats.presentBytes, 'groupinputrcpasswd'.length, 'nothing else has come');
  open();
  await prefetched;
  t.is(layer.stats.presentBytes, 2_000_000 + 'groupinputrcpasswd'.length);
  t.is(blob.asked.length, 3);
  t.is(layer.stats.requests, 3);
});

test('it comes with the rest where that is short, where all layers want too much for it to matter, and where that is not known yet', async (t) => {
  await using bench = await LayerBench.create();
  const asked = async (layers: Layers) => {
    const opened = await Promise.all(layers.map(({ source }) => bench.store.open(source, { prefetch: true })));
    await Promise.all(opened.map((layer) => layer[Symbol.asyncDispose]()));
    return layers.map(({ blob }) => blob.asked.length - 1);
  };
  type Layers = Awaited<ReturnType<typeof estargzLayer>>[];
  const layer = (count: number, seed: number) => estargzLayer(marked(count, seed), { landmarkAfter: count });
  t.deepEqual(await asked([await layer(2, 100)]), [1]);
  t.deepEqual(await asked([await layer(40, 200)]), [1]);
  t.deepEqual(await asked([await layer(5, 300)]), [2]);

  const [first, second] = [await layer(5, 400), await layer(5, 500)];
  const open = gate(first.blob);
  const waiting = asked([first]);
  await until(() => first.blob.asked.length > 0);
  t.deepEqual(await asked([second]), [1], 'a TOC is still to come');
  open();
  t.deepEqual(await waiting, [2]);
});

test('of many layers no more than six are asked for before their trees are there', async (t) => {
  await using bench = await LayerBench.create();
  const made = await Promise.all(
    Array.from({ length: 8 }, (_, i) => estargzLayer(marked(1, 600 + i), { landmarkAfter: 1 })),
  );
  const open = made.map(({ blob }) => gate(blob, 0, 16 * 1024));
  const layers = await Promise.all(made.map(({ source }) => bench.store.open(source, { prefetch: true })));
  t.is(made.filter(({ blob }) => blob.asked.length > 1).length, 6);
  for (const each of open) each();
  for (const layer of layers) await layer.prefetch();
  for (const layer of layers) await layer[Symbol.asyncDispose]();
});

test('what is brought before the prefetch, and lies in its range, comes along', async (t) => {
  await using bench = await LayerBench.create();
  const { blob, source } = await estargzLayer(marked(2), { landmarkAfter: 2 });
  await using layer = await bench.store.open(source, { prefetch: true });
  const asked = [...blob.asked];
  t.is(asked.length, 2, 'the end, and all that is wanted first');
  const passwd = inodeAt(layer.tree, 'etc/passwd');
  layer.bring([passwd]);
  await layer.prefetch();
  t.is(Buffer.from(await layer.read(passwd, 0, 100)).toString(), 'passwd');
  t.deepEqual(blob.asked, asked);
});

test('a range that nobody wants is given up after a while', async (t) => {
  const blob = new FakeBlob(bytes);
  let freed = 0;
  const dropped: number[] = [];
  const range = new EarlyRange(
    blob.reader(),
    1000,
    2000,
    5000,
    () => {},
    () => freed++,
  );
  await using reader = new EarlyReader(blob.reader(), range, (n) => dropped.push(n), 20);
  t.true(reader.goesOn(1000, 1000));
  await until(() => dropped.length > 0);
  t.deepEqual([freed, dropped], [1, [1000]]);
  t.false(reader.goesOn(1000, 1000));
  t.true((await collect(reader.stream(1000, 1000))).equals(bytes.subarray(1000, 2000)));
});

test('nothing is asked for early: where nobody prefetches, without a landmark and accounts, of what the disk has, of what is too much for one request', async (t) => {
  const marked = () => estargzLayer(files, { landmarkAfter: 3 });
  await using bench = await LayerBench.create();
  const plain = await marked();
  await (await bench.store.open(plain.source))[Symbol.asyncDispose]();
  t.is(plain.blob.asked.length, 1);

  const unmarked = await estargzLayer(files);
  const full = await bench.store.open(unmarked.source, { prefetch: true });
  t.is(unmarked.blob.asked.length, 1);
  await full.fetchAll();
  await bench.cache.flushHints();
  const again = await estargzLayer(files, { landmarkAfter: 2 });
  await (await bench.store.open(again.source, { prefetch: true }))[Symbol.asyncDispose]();
  t.is(again.blob.asked.length, 1);
  await full[Symbol.asyncDispose]();

  await using small = await LayerBench.create({ store: { maxMemory: 256 * 1024 } });
  const large = await marked();
  await (await small.store.open(large.source, { prefetch: true }))[Symbol.asyncDispose]();
  t.is(large.blob.asked.length, 1);
});
