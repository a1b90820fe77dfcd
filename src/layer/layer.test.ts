import test from 'ava';
import { inodeAt } from '../testing/image-tree.js';
import { estargzLayer, LayerBench, randomness } from '../testing/layer-fixture.js';

const random = randomness(1);
const files = Array.from({ length: 40 }, (_, i) => ({ name: `file${i}`, bytes: random.bytes(10_000 + i * 3_000) }));

test('opening costs one request, reading a small file one more, reading it again none', async (t) => {
  await using bench = await LayerBench.create();
  const { blob, source } = await estargzLayer(files);
  await using layer = await bench.store.open(source);
  t.deepEqual(layer.lazy, { lazy: true });
  t.is(blob.asked.length, 1);
  const inode = inodeAt(layer.tree, 'file20');
  t.true(files[20].bytes.equals(await layer.read(inode, 0, 1 << 20)));
  t.is(blob.asked.length, 2);
  t.true(files[20].bytes.subarray(100, 400).equals(await layer.read(inode, 100, 300)));
  t.is((await layer.read(inode, files[20].bytes.length, 10)).byteLength, 0);
  t.is(blob.asked.length, 2);
  t.is(layer.stats.requests, 2);
});

test('a layer opened again after a restart costs no request, and what was read is read from disk', async (t) => {
  await using bench = await LayerBench.create();
  const { blob, source } = await estargzLayer(files);
  const first = await bench.store.open(source);
  const inode = inodeAt(first.tree, 'file7');
  await first.read(inode, 0, 1 << 20);
  const { slot } = first;
  await first[Symbol.asyncDispose]();
  await bench.stop();
  await bench.start();
  blob.asked.length = 0;
  blob.beforePiece = () => {
    throw new Error('the registry is off');
  };
  await using again = await bench.store.open(source);
  t.is(again.slot, slot);
  t.true(files[7].bytes.equals(await again.read(inode, 0, 1 << 20)));
  t.is(blob.asked.length, 0);
});

test('a whole layer is fetched once, each byte at most once, by a sweep or by a stream', async (t) => {
  const random = randomness(2);
  const big = [{ name: 'big', bytes: random.bytes(3_000_000) }, ...files];
  for (const how of ['sweep', 'stream'] as const) {
    await using bench = await LayerBench.create();
    const { blob, source } = await estargzLayer(big, { chunkSize: 256 * 1024, level: 1 });
    await using layer = await bench.store.open(source);
    blob.asked.length = 0;
    if (how === 'sweep') await layer.fetchAll();
    for (const { name, bytes } of big) {
      const parts: Uint8Array[] = [];
      for await (const piece of layer.stream(inodeAt(layer.tree, name))) parts.push(piece);
      t.true(Buffer.concat(parts).equals(bytes));
    }
    const asked = [...blob.asked].sort((a, b) => a.offset - b.offset);
    asked.reduce((end, { offset, length }) => {
      t.true(offset >= end, 'no byte is asked for twice');
      return offset + length;
    }, 0);
    t.is(layer.stats.presentBytes, layer.stats.totalBytes);
    t.true(asked.length < 20, `${asked.length} requests`);
  }
});
