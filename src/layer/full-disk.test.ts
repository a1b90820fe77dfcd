import { execFile } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import test from 'ava';
import type { CacheEvent } from '../cache/chunk-cache.js';
import { inodeAt } from '../testing/image-tree.js';
import { estargzLayer, LayerBench, randomness } from '../testing/layer-fixture.js';
import { temporaryDirectory } from '../testing/temporary.js';

const run = promisify(execFile);

test('a full disk fails no read: layers not in use make room, then chunks are served from memory', async (t) => {
  const root = await temporaryDirectory(t, 'full');
  await run('mount', ['-t', 'tmpfs', '-o', 'size=3m', 'tmpfs', root]);
  t.teardown(() => run('umount', ['-l', root]).catch(() => {}));
  const events: CacheEvent[] = [];
  await using bench = await LayerBench.create({ root, cache: { onEvent: (e) => void events.push(e) } });
  const random = randomness(30);
  const small = await estargzLayer([{ name: 'a', bytes: random.bytes(700_000) }]);
  const first = await bench.store.open(small.source);
  await first.fetchAll();
  await first[Symbol.asyncDispose]();
  const files = Array.from({ length: 60 }, (_, i) => ({ name: `f${i}`, bytes: random.bytes(100_000) }));
  const { blob, source } = await estargzLayer(files, { level: 1 });
  await using layer = await bench.store.open(source);
  for (let round = 0; round < 2; round++)
    for (const { name, bytes } of files)
      t.true(bytes.equals(await layer.read(inodeAt(layer.tree, name), 0, 1 << 20)), name);
  t.is(events.filter((e) => e.type === 'evicted').length, 1);
  t.true(events.some((e) => e.type === 'full'));
  t.true(layer.stats.unwrittenChunks > 0);
  t.true(layer.stats.presentBytes > 1_000_000 && layer.stats.presentBytes < 4_000_000, `${layer.stats.presentBytes}`);
  await t.throwsAsync(layer.background(), { message: /the disk is full/ });
  const many = await Promise.all(files.map(({ name }) => layer.read(inodeAt(layer.tree, name), 10, 50_000)));
  many.forEach((got, i) => t.true(files[i].bytes.subarray(10, 50_010).equals(got)));
  t.true(blob.asked.length > 2);
});

test('a disk that is full from the start serves an image all the same', async (t) => {
  const root = await temporaryDirectory(t, 'full');
  await run('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', root]);
  t.teardown(() => run('umount', ['-l', root]).catch(() => {}));
  await using bench = await LayerBench.create({ root });
  const random = randomness(31);
  const files = Array.from({ length: 10 }, (_, i) => ({ name: `f${i}`, bytes: random.bytes(50_000) }));
  const { source } = await estargzLayer(files, { level: 1 });
  await writeFile(join(root, 'ballast'), Buffer.alloc(2_000_000)).catch(() => {});
  await using layer = await bench.store.open(source);
  for (const { name, bytes } of files)
    t.true(bytes.equals(await layer.read(inodeAt(layer.tree, name), 0, 1 << 20)), name);
  t.true(layer.stats.unwrittenChunks > 0);
});
