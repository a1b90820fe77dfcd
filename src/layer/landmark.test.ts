import test from 'ava';
import type { FileSpec } from '../testing/image-files.js';
import { inodeAt } from '../testing/image-tree.js';
import { estargzLayer, gate, LayerBench, randomness } from '../testing/layer-fixture.js';
import { until } from '../testing/until.js';

test('prefetch brings what the landmark says, by few requests, and nothing else', async (t) => {
  await using bench = await LayerBench.create();
  const random = randomness(10);
  const files = Array.from({ length: 30 }, (_, i) => ({ name: `f${i}`, bytes: random.bytes(40_000) }));
  const { blob, source } = await estargzLayer(files, { landmarkAfter: 10 });
  await using layer = await bench.store.open(source);
  await layer.prefetch();
  t.is(blob.asked.length, 2);
  t.is(layer.stats.presentBytes, 400_000);
  for (const { name } of files.slice(0, 10)) await layer.read(inodeAt(layer.tree, name), 0, 1 << 20);
  t.is(blob.asked.length, 2);
});

test('without a landmark as many bytes are prefetched as were asked for; a landmark is heeded whatever was asked', async (t) => {
  await using bench = await LayerBench.create();
  const random = randomness(12);
  const files = Array.from({ length: 30 }, (_, i) => ({ name: `f${i}`, bytes: random.bytes(40_000) }));
  await using plain = await bench.store.open((await estargzLayer(files)).source);
  await plain.prefetch();
  t.is(plain.stats.presentBytes, 0);
  await bench.store.fetchAhead([plain], { prefetch: false, unmarkedBytes: 100_000, background: false });
  t.is(plain.stats.presentBytes, 0);
  await bench.store.fetchAhead([plain], { prefetch: true, unmarkedBytes: 100_000, background: false });
  const begun = plain.tree.chunkOffset.filter((offset) => offset < 100_000).length;
  t.true(begun > 1 && begun < 30);
  t.is(plain.stats.presentBytes, begun * 40_000);
  for (const [landmarkAfter, bytes] of [
    [0, 0],
    [2, 80_000],
  ]) {
    const { source } = await estargzLayer(files, { landmarkAfter });
    await using layer = await bench.store.open(source);
    await layer.prefetch({ unmarkedBytes: 1_000_000 });
    t.is(layer.stats.presentBytes, bytes);
  }
});

test('a landmark takes no more memory than its range needs', async (t) => {
  await using bench = await LayerBench.create();
  const { blob, source } = await estargzLayer(
    [0, 1].map((i) => ({ name: `${i}`, bytes: randomness(18 + i).bytes(40_000) })),
    { landmarkAfter: 1 },
  );
  await using layer = await bench.store.open(source);
  blob.asked.length = 0;
  const open = gate(blob);
  const prefetch = layer.prefetch();
  await until(() => blob.asked.length === 1);
  t.true(bench.store.scheduler.memoryInUse <= 40_000, `${bench.store.scheduler.memoryInUse}`);
  open();
  await prefetch;
});

const random = randomness(32);
const file = (path: string, bytes: number): FileSpec => ({ path, content: random.bytes(bytes) });
const passwd: FileSpec = { path: 'etc/passwd', content: 'root' };
const group: FileSpec = { path: 'etc/group', content: 'root' };

async function prefetched(files: readonly FileSpec[], landmarkAfter: number) {
  await using bench = await LayerBench.create();
  const { blob, source } = await estargzLayer(files, { landmarkAfter });
  await using layer = await bench.store.open(source);
  blob.asked.length = 0;
  await layer.prefetch();
  return { requests: blob.asked.length, present: layer.stats.presentBytes };
}

test('a landmark takes along what every runtime reads, in its own request, where it is near', async (t) => {
  const first = file('a', 50_000);
  t.deepEqual(await prefetched([first, group, passwd, file('z', 1000)], 1), { requests: 1, present: 50_008 });
  // With what lies between.
  t.deepEqual(await prefetched([first, file('b', 90_000), passwd, file('z', 1000)], 1), {
    requests: 1,
    present: 140_004,
  });
  t.deepEqual(await prefetched([first, file('b', 400_000), passwd, group], 1), { requests: 1, present: 50_000 });
  t.deepEqual(await prefetched([first, passwd, file('b', 400_000), group], 1), { requests: 1, present: 50_004 });
  // They are among what it asks for already.
  t.deepEqual(await prefetched([passwd, first, file('b', 1000)], 2), { requests: 1, present: 50_004 });
});

test('a landmark before all files asks for nothing, and a name that is no file is passed over', async (t) => {
  t.deepEqual(await prefetched([passwd, group, file('b', 400_000)], 0), { requests: 0, present: 0 });
  const first = file('a', 50_000);
  t.deepEqual(await prefetched([first, { path: 'etc/passwd', target: 'a' }, file('etc/group/x', 10)], 1), {
    requests: 1,
    present: 50_000,
  });
  t.deepEqual(await prefetched([first, file('etc', 10)], 1), { requests: 1, present: 50_000 });
});
