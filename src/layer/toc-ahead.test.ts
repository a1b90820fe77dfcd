import test from 'ava';
import { estargzLayer, LayerBench, randomness } from '../testing/layer-fixture.js';
import { ROOT } from '../toc/tree.js';
import type { Layer } from './layer.js';

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
  t.is(blob.asked.length, 1);
  await using layer = await bench.store.open(source);
  t.is(blob.asked.length, 1);
  t.is(layer.stats.requests, 1);
  t.true(bytes.equals(await readAll(layer)));
  bench.store.expect([source]);
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
  t.is(other.blob.asked.length, 1);
});

test('a request ahead that fails is made again by who opens the layer later, and told to who waits for it', async (t) => {
  await using bench = await LayerBench.create();
  const { blob, source } = await estargzLayer(files);
  blob.beforePiece = () => Promise.reject(new Error('the line is dead'));
  bench.store.expect([source]);
  await new Promise((resolve) => setImmediate(resolve));
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
  let aborted = false;
  const reader = () => ({
    ...blob.reader(),
    read: (_offset: number, _length: number, options?: { signal?: AbortSignal }) =>
      new Promise<Uint8Array>((_resolve, reject) =>
        options?.signal?.addEventListener('abort', () => {
          aborted = true;
          reject(options.signal!.reason as Error);
        }),
      ),
  });
  const slow = { ...source, reader };
  bench.store.expect([slow]);
  const controller = new AbortController();
  const opening = bench.store.open(slow, { signal: controller.signal });
  controller.abort(new Error('I leave'));
  await t.throwsAsync(opening, { message: 'I leave' });
  for (let i = 0; i < 2000 && !aborted; i++) await new Promise((resolve) => setTimeout(resolve, 5));
  t.true(aborted);
});
