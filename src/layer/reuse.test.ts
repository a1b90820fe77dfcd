import test from 'ava';
import { inodeAt } from '../testing/image-tree.js';
import { estargzLayer, LayerBench, randomness } from '../testing/layer-fixture.js';

const random = randomness(50);
const files = Array.from({ length: 20 }, (_, i) => ({ name: `f${i}`, bytes: random.bytes(20_000) }));

for (const how of ['open', 'closed', 'after a restart'] as const)
  test(`chunks that another layer has cost no request: the other layer is ${how}`, async (t) => {
    await using bench = await LayerBench.create();
    const old = await estargzLayer(files);
    const fresh = await estargzLayer([{ name: 'new', bytes: random.bytes(20_000) }, ...[...files].reverse()]);
    const first = await bench.store.open(old.source);
    await first.fetchAll();
    if (how !== 'open') await first[Symbol.asyncDispose]();
    else await bench.cache.flushHints();
    if (how === 'after a restart') {
      await bench.stop();
      await bench.start();
    }
    await using layer = await bench.store.open(fresh.source);
    fresh.blob.asked.length = old.blob.asked.length = 0;
    for (const { name, bytes } of files) t.true(bytes.equals(await layer.read(inodeAt(layer.tree, name), 0, 1 << 20)));
    t.is(fresh.blob.asked.length + old.blob.asked.length, 0);
    t.is(layer.stats.reusedBytes, 400_000);
    await layer.fetchAll();
    t.is(fresh.blob.asked.length, 1);
    if (how === 'open') await first[Symbol.asyncDispose]();
  });
