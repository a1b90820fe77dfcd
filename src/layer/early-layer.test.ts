import { setImmediate as turn } from 'node:timers/promises';
import test from 'ava';
import { suffixBytes } from '../estargz/open.js';
import type { EndOptions, RandomAccessReader } from '../io/reader.js';
import { inodeAt } from '../testing/image-tree.js';
import { estargzLayer, gate, LayerBench } from '../testing/layer-fixture.js';
import { until } from '../testing/until.js';

const KIB = 1024;
const etc = ['group', 'passwd'].map((name) => ({ path: `etc/${name}`, content: name }));
/** So many that their TOC is most of the blob's end, and comes in many pieces. */
const others = Array.from({ length: 1500 }, (_, i) => ({ path: `usr/${i}`, size: 2000, seed: i }));
const layerOf = (marked: number, seed: number, between: typeof etc = []) => {
  const files = Array.from({ length: marked }, (_, i) => ({ path: `f${i}`, size: 400 * KIB, seed: seed + i }));
  return estargzLayer([...files, ...between, ...others], { landmarkAfter: marked });
};
type Made = Awaited<ReturnType<typeof estargzLayer>>;

/** Where the last part of the TOC begins, of which nothing is needed to know what a landmark asks for. */
const rest = ({ blob }: Made) => blob.bytes.byteLength - 32 * KIB;

test('what a landmark asks for is on its way when the beginning of the TOC is there, and not asked for again', async (t) => {
  await using bench = await LayerBench.create();
  const made = await layerOf(1, 10);
  const { blob, source } = made;
  const open = gate(blob, rest(made));
  const opening = bench.store.open(source, { prefetch: true });
  await until(() => blob.asked.length === 2);
  const [end, landmark] = blob.asked;
  t.is(end.length, suffixBytes(source.descriptor.size));
  t.is(landmark.offset, 0);
  open();
  await using layer = await opening;
  await layer.prefetch();
  t.deepEqual(blob.asked, [end, landmark]);
  t.is(layer.stats.requests, 2);
  t.is(layer.stats.presentBytes, 400 * KIB);
  t.is((await layer.read(inodeAt(layer.tree, 'f0'), 0, 1e9)).byteLength, 400 * KIB);
});

test('nobody who does not prefetch asks for it', async (t) => {
  await using bench = await LayerBench.create();
  const { blob, source } = await layerOf(1, 10);
  await (await bench.store.open(source))[Symbol.asyncDispose]();
  t.is(blob.asked.length, 1);
});

test('an end that was asked for by digest is looked at once its layer is opened, whatever has come of it', async (t) => {
  for (const come of [96 * KIB, 128 * KIB]) {
    await using bench = await LayerBench.create();
    const { blob, source } = await layerOf(1, 10);
    const start = blob.bytes.byteLength - 128 * KIB;
    const end = { start, bytes: blob.bytes.subarray(start) };
    let whole!: () => void;
    const all = new Promise<void>((resolve) => (whole = resolve));
    bench.store.expectBlindly([source.descriptor.digest], async (_digest, _length, { onEnd }: EndOptions) => {
      onEnd?.(end, come);
      await all;
      return end;
    });
    const opening = bench.store.open(source, { prefetch: true });
    await until(() => blob.asked.length === 1);
    t.is(blob.asked[0].offset, 0);
    whole();
    await using layer = await opening;
    await layer.prefetch();
    t.is(blob.asked.length, 1);
  }
});

test('what an end claims that is not verified decides what is asked for, and nothing else', async (t) => {
  await using bench = await LayerBench.create();
  const { blob, source } = await layerOf(1, 10);
  const forged = (await layerOf(3, 50)).blob.bytes.subarray(-128 * KIB);
  const start = blob.bytes.byteLength - 128 * KIB;
  bench.store.expectBlindly([source.descriptor.digest], async (_digest, _length, { onEnd }: EndOptions) => {
    onEnd?.({ start, bytes: forged }, 128 * KIB);
    return { start, bytes: blob.bytes.subarray(start) };
  });
  await using layer = await bench.store.open(source, { prefetch: true });
  t.is(blob.asked.length, 1);
  t.true(blob.asked[0].length > 2 * 400 * KIB * 0.4, 'three files');
  await layer.prefetch();
  t.is(layer.stats.presentBytes, 400 * KIB);
  t.is(layer.stats.badChunks, 0);
});

test('an end that is not of the blob whose layer is opened, by its size, is not looked at', async (t) => {
  await using bench = await LayerBench.create();
  const { blob, source } = await layerOf(1, 10);
  const bytes = blob.bytes.subarray(-128 * KIB);
  const start = blob.bytes.byteLength - bytes.byteLength;
  let come!: () => void;
  const whole = new Promise<void>((resolve) => (come = resolve));
  bench.store.expectBlindly([source.descriptor.digest], async (_digest, _length, { onEnd }: EndOptions) => {
    onEnd?.({ start: start + 1, bytes }, bytes.byteLength);
    await whole;
    return { start, bytes };
  });
  const opening = bench.store.open(source, { prefetch: true });
  for (let i = 0; i < 100; i++) await turn();
  t.is(blob.asked.length, 0);
  come();
  await using layer = await opening;
  await layer.prefetch();
  t.is(blob.asked.length, 1);
});

test('a layer that fails to open ends what was asked for', async (t) => {
  await using bench = await LayerBench.create();
  const made = await layerOf(2, 10);
  const { blob, source } = made;
  blob.bytes = Buffer.from(blob.bytes);
  blob.bytes[blob.bytes.byteLength - 1000] ^= 1; // in the TOC, behind what is looked at
  const open = gate(blob, 100 * KIB, 300 * KIB);
  let left: AbortSignal | undefined;
  const reader = (): RandomAccessReader => {
    const inner = blob.reader();
    return {
      ...inner,
      stream: (offset, length, options) => {
        if (offset === 0) left = options?.signal;
        return inner.stream(offset, length, options);
      },
    };
  };
  const failing = t.throwsAsync(bench.store.open({ ...source, reader }, { prefetch: true }), { code: 'DATA_LOSS' });
  await until(() => left?.aborted === true);
  open();
  await failing;
  t.is(blob.aborted, 1);
});

test('layers that wait for each other ask once each, when the last beginning has come', async (t) => {
  await using bench = await LayerBench.create();
  const made = [await layerOf(5, 600, etc), await layerOf(5, 700, etc), await layerOf(1, 800)];
  const open = made.map((one) => gate(one.blob, rest(one)));
  bench.store.expect(
    made.map(({ source }) => source),
    { prefetch: true },
  );
  await until(() => made.every(({ blob }) => blob.asked.length > 1));
  for (let i = 0; i < 100; i++) await turn();
  const ranges = made.map(({ blob }) => blob.asked.slice(1));
  for (const asked of ranges) t.is(new Set(asked.map(({ offset }) => offset)).size, asked.length, 'nothing twice');
  for (const each of open) each();
  for (const { source } of made) {
    await using layer = await bench.store.open(source, { prefetch: true });
    await layer.prefetch();
  }
});

test('where what a runtime reads might come apart, what the other layers want is waited for, or all of the TOC', async (t) => {
  await using bench = await LayerBench.create();
  const expected = async (first: Made, second: Made) => {
    const open = [gate(first.blob, rest(first)), gate(second.blob)];
    bench.store.expect([first.source, second.source], { prefetch: true });
    await until(() => first.blob.asked.length > 0 && second.blob.asked.length > 0);
    for (let i = 0; i < 100; i++) await turn();
    t.is(first.blob.asked.length, 1, 'it waits');
    return open;
  };
  const [first, second] = [await layerOf(5, 100, etc), await layerOf(1, 200)];
  const [openFirst, openSecond] = await expected(first, second);
  openSecond();
  await until(() => first.blob.asked.length === 3);
  const [, runtime, landmark] = first.blob.asked;
  t.deepEqual([landmark.offset, landmark.length], [0, runtime.offset]);
  openFirst();

  const [third, fourth] = [await layerOf(5, 300, etc), await layerOf(1, 400)];
  const [openThird, openFourth] = await expected(third, fourth);
  openThird();
  await until(() => third.blob.asked.length === 2);
  openFourth();
  for (const { source } of [first, second, third, fourth]) {
    await using layer = await bench.store.open(source, { prefetch: true });
    await layer.prefetch();
  }
  t.deepEqual([first.blob.asked.length, third.blob.asked.length], [3, 2]);
});
