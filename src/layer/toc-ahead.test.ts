import test from 'ava';
import { setImmediate as turn } from 'node:timers/promises';
import type { Digest } from '../digest/digest.js';
import { digestOf } from '../digest/digester.js';
import { estargzLayer, gate, LayerBench, randomness } from '../testing/layer-fixture.js';
import { ROOT } from '../toc/tree.js';
import type { Layer } from './layer.js';
import { until } from '../testing/until.js';

const bytes = randomness(9).bytes(40_000);
const files = [{ name: 'a', bytes }];

async function readAll(layer: Layer): Promise<Uint8Array> {
  return layer.read(layer.tree.lookup(ROOT, Buffer.from('a')), 0, 1 << 20);
}

test('a layer that is expected costs the request that opening it would, before it is opened, and no other', async (t) => {
  await using bench = await LayerBench.create();
  const { blob, source } = await estargzLayer(files);
  bench.store.expect([source]);
  bench.store.expect([source]);
  await until(() => blob.asked.length > 0);
  await using layer = await bench.store.open(source);
  t.is(blob.asked.length, 1);
  t.is(layer.stats.requests, 1);
  t.true(bytes.equals(await readAll(layer)));
  t.is(blob.asked.length, 2);
  bench.store.expect([source]);
  await turn();
  t.is(blob.asked.length, 2, 'an open layer is not asked for');
});

test('what the disk has, and what could not be lazy, is not asked for', async (t) => {
  await using bench = await LayerBench.create();
  const { blob, source } = await estargzLayer(files);
  await (await bench.store.open(source))[Symbol.asyncDispose]();
  const other = await estargzLayer([{ name: 'b', bytes }]);
  const { tocDigest: _, ...unvouched } = other.source;
  bench.store.expect([source, unvouched]);
  t.is(blob.asked.length, 1);
  t.is(other.blob.asked.length, 0);
  bench.store.expect([{ ...unvouched, allowNoVerification: true }]);
  await turn();
  t.is(other.blob.asked.length, 0, 'it may be no eStargz');
});

test('a request ahead that fails is made again by who opens the layer later, and told to who waits for it', async (t) => {
  await using bench = await LayerBench.create();
  const { blob, source } = await estargzLayer(files);
  blob.beforePiece = () => Promise.reject(new Error('the line is dead'));
  bench.store.expect([source]);
  await turn();
  blob.beforePiece = () => {};
  await (await bench.store.open(source))[Symbol.asyncDispose]();
  t.is(blob.asked.length, 2);

  const other = await estargzLayer([{ name: 'b', bytes }]);
  let fail!: (error: Error) => void;
  other.blob.beforePiece = () => new Promise((_resolve, reject) => (fail = reject));
  bench.store.expect([other.source]);
  const opening = t.throwsAsync(bench.store.open(other.source), { message: 'the line is dead' });
  await bench.store.open(source).then((layer) => layer[Symbol.asyncDispose]());
  fail(new Error('the line is dead'));
  await opening;
  t.is(other.blob.asked.length, 1);
});

test('bytes that came ahead are verified like any other', async (t) => {
  await using bench = await LayerBench.create();
  const other = await estargzLayer([{ name: 'a', bytes: bytes.subarray(1) }]);
  const forged = await estargzLayer([{ name: 'a', bytes: bytes.subarray(2) }]);
  const sound = other.blob.bytes;
  other.blob.bytes = Buffer.concat([Buffer.alloc(sound.byteLength), forged.blob.bytes]).subarray(-sound.byteLength);
  bench.store.expect([other.source]);
  await t.throwsAsync(bench.store.open(other.source), { code: 'DATA_LOSS' });
  other.blob.bytes = sound;
  await (await bench.store.open(other.source))[Symbol.asyncDispose]();
});

test('an opener that leaves ends what was asked for ahead', async (t) => {
  await using bench = await LayerBench.create();
  const { blob, source } = await estargzLayer(files);
  const open = gate(blob);
  bench.store.expect([source]);
  const controller = new AbortController();
  const opening = bench.store.open(source, { signal: controller.signal });
  await until(() => blob.asked.length === 1);
  controller.abort(new Error('I leave'));
  open();
  await t.throwsAsync(opening, { message: 'I leave' });
  t.is(blob.aborted, 1);
});

test('ends that were asked for by digest alone are what layers are opened from: most of the lowest, all of a short one', async (t) => {
  await using bench = await LayerBench.create();
  const made = await Promise.all([
    estargzLayer([{ name: 'a', bytes: randomness(1).bytes(1_500_000) }]),
    estargzLayer([{ name: 'a', bytes: randomness(2).bytes(1_500_000) }]),
    estargzLayer(files),
  ]);
  const digests = made.map(({ source }) => source.descriptor.digest);
  const asked: [Digest, number][] = [];
  const read = async (digest: Digest, length: number) => {
    asked.push([digest, length]);
    const { bytes: all } = made[digests.indexOf(digest)].blob;
    return { start: Math.max(0, all.byteLength - length), bytes: all.subarray(-length) };
  };
  bench.store.expectBlindly(digests, read);
  bench.store.expectBlindly(digests, read);
  t.deepEqual(asked, [
    [digests[0], 512 * 1024],
    [digests[1], 128 * 1024],
    [digests[2], 128 * 1024],
  ]);
  for (const { blob, source } of made) {
    await using layer = await bench.store.open(source);
    t.is(layer.stats.requests, 1);
    t.is(blob.asked.length, 0);
    bench.store.expectBlindly([source.descriptor.digest], read);
  }
  bench.store.expectBlindly(digests, read);
  t.is(asked.length, 3, 'what is open or on disk is not asked for');
});

test('an end that does not come, or is not of this blob, costs one request more and nothing else', async (t) => {
  await using bench = await LayerBench.create();
  const { blob, source } = await estargzLayer(files);
  const { digest } = source.descriptor;
  bench.store.expectBlindly([digest], () => Promise.reject(new Error('no suffix ranges')));
  await (await bench.store.open(source))[Symbol.asyncDispose]();
  t.is(blob.asked.length, 1);
  const other = await estargzLayer([{ name: 'b', bytes }]);
  bench.store.expectBlindly([other.source.descriptor.digest], async () => ({ start: 5, bytes: Buffer.alloc(100) }));
  await (await bench.store.open(other.source))[Symbol.asyncDispose]();
  t.is(other.blob.asked.length, 1);
});

test('a layer that is expected hears of being open, and goes to whoever opens it', async (t) => {
  await using bench = await LayerBench.create();
  const { source } = await estargzLayer(files);
  const heard: Layer[] = [];
  bench.store.expect([source], { onOpened: (layer) => heard.push(layer) });
  await until(() => heard.length > 0);
  const layer = await bench.store.open(source);
  t.is(layer, heard[0]);
  await layer[Symbol.asyncDispose]();
  await t.throwsAsync(layer.read(0, 0, 1), undefined, 'nobody else holds it');
});

test('a layer that is expected and that nobody opens is closed; a failure leaves nothing', async (t) => {
  await using bench = await LayerBench.create({ store: { expectedMs: 30 } });
  const { blob, source } = await estargzLayer(files);
  const heard: Layer[] = [];
  bench.store.expect([source], { onOpened: (layer) => heard.push(layer) });
  await until(() => heard.length > 0);
  const closed = () =>
    readAll(heard[0]).then(
      () => false,
      () => true,
    );
  while (!(await closed())) await turn();
  const other = await estargzLayer([{ name: 'b', bytes }]);
  other.blob.beforePiece = () => Promise.reject(new Error('the line is dead'));
  bench.store.expect([other.source], { onOpened: (layer) => heard.push(layer) });
  await until(() => other.blob.asked.length > 0);
  await turn();
  other.blob.beforePiece = () => {};
  await (await bench.store.open(other.source))[Symbol.asyncDispose]();
  t.is(heard.length, 1);
  t.true(blob.asked.length > 0);
});

test('two images that share a layer, expected in one turn, ask for its end once', async (t) => {
  await using bench = await LayerBench.create();
  const { blob, source } = await estargzLayer(files);
  let reads = 0;
  const read = async () => {
    reads++;
    await turn();
    return { start: 0, bytes: blob.bytes };
  };
  bench.store.expectBlindly([source.descriptor.digest], read);
  bench.store.expect([source]);
  bench.store.expect([source]);
  await using layer = await bench.store.open(source);
  t.true(bytes.equals(await readAll(layer)));
  t.is(reads, 1);
  t.is(blob.asked.filter(({ length }) => length === blob.bytes.byteLength).length, 0);
});

test('of many layers only the lowest are asked for blindly', async (t) => {
  await using bench = await LayerBench.create();
  let reads = 0;
  const digests = Array.from({ length: 40 }, (_, i) => digestOf(`${i}`));
  bench.store.expectBlindly(digests, () => Promise.reject(new Error(`${reads++}`)));
  t.is(reads, 8);
});

test('a closed store expects and opens nothing', async (t) => {
  const bench = await LayerBench.create();
  const { blob, source } = await estargzLayer(files);
  await bench[Symbol.asyncDispose]();
  bench.store.expect([source]);
  await t.throwsAsync(bench.store.open(source), { code: 'ABORTED' });
  t.is(blob.asked.length, 0);
});
