import test from 'ava';
import type { FileSpec } from '../testing/image-files.js';
import { estargzLayer, LayerBench, randomness } from '../testing/layer-fixture.js';

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
