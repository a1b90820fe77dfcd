import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import fc from 'fast-check';
import { setImmediate as turn } from 'node:timers/promises';
import { inodeAt } from '../testing/image-tree.js';
import { estargzLayer, gate, LayerBench, randomness } from '../testing/layer-fixture.js';
import { until } from '../testing/until.js';

test('many readers of one file are one request', async (t) => {
  await using bench = await LayerBench.create();
  const bytes = randomness(4).bytes(50_000);
  const { blob, source } = await estargzLayer([{ name: 'a', bytes }]);
  await using layer = await bench.store.open(source);
  const all = await Promise.all(Array.from({ length: 20 }, () => layer.read(inodeAt(layer.tree, 'a'), 0, 1 << 20)));
  for (const got of all) t.true(bytes.equals(got));
  t.is(blob.asked.length, 2);
});

test('openers share one layer, and who leaves does not end it for the others', async (t) => {
  await using bench = await LayerBench.create();
  const bytes = randomness(4).bytes(50_000);
  const { blob, source } = await estargzLayer([{ name: 'a', bytes }]);
  const controller = new AbortController();
  const open = gate(blob);
  const leaving = bench.store.open(source, { signal: controller.signal });
  const staying = bench.store.open(source);
  controller.abort(new Error('I leave'));
  await t.throwsAsync(leaving, { message: 'I leave' });
  open();
  const layer = await staying;
  t.is(await bench.store.open(source), layer);
  await layer[Symbol.asyncDispose]();
  t.true(bytes.equals(await layer.read(inodeAt(layer.tree, 'a'), 0, 1 << 20)));
  await layer[Symbol.asyncDispose]();
  await t.throwsAsync(layer.read(inodeAt(layer.tree, 'a'), 0, 1), { message: /was closed/ });
  t.is(blob.asked.length, 2);
  await using again = await bench.store.open(source);
  t.not(again, layer);
});

test('a reader that leaves takes its request along, unless others wait for it', async (t) => {
  await using bench = await LayerBench.create();
  const bytes = randomness(5).bytes(50_000);
  const { blob, source } = await estargzLayer([{ name: 'a', bytes }]);
  await using layer = await bench.store.open(source);
  const inode = inodeAt(layer.tree, 'a');
  for (const others of [false, true]) {
    blob.asked.length = blob.aborted = 0;
    const open = gate(blob);
    const controller = new AbortController();
    const leaving = layer.read(inode, 0, 10, { signal: controller.signal });
    const staying = others ? layer.read(inode, 10, 10) : undefined;
    await until(() => blob.asked.length === 1);
    controller.abort(new Error('I leave'));
    await t.throwsAsync(leaving, { message: 'I leave' });
    open();
    if (staying !== undefined) t.true(bytes.subarray(10, 20).equals(await staying));
    else await until(() => blob.aborted === 1);
    t.is(blob.asked.length, 1);
    t.is(blob.aborted, others ? 0 : 1);
    await until(() => bench.store.scheduler.requestsInUse === 0 && bench.store.scheduler.memoryInUse === 0);
  }
});

test('a reader that leaves does not take along what was fetched ahead', async (t) => {
  await using bench = await LayerBench.create();
  const bytes = randomness(5).bytes(50_000);
  const { blob, source } = await estargzLayer([{ name: 'a', bytes }]);
  await using layer = await bench.store.open(source);
  const inode = inodeAt(layer.tree, 'a');
  const open = gate(blob);
  layer.bring([inode]);
  const controller = new AbortController();
  const leaving = layer.read(inode, 0, 10, { signal: controller.signal });
  await turn();
  controller.abort(new Error('I leave'));
  await t.throwsAsync(leaving, { message: 'I leave' });
  open();
  await until(() => layer.stats.presentBytes === 50_000);
  t.is(blob.aborted, 0);
});

test('a reader gets its request out while background work fills its share, and is served first', async (t) => {
  await using bench = await LayerBench.create({ store: { maxConcurrency: 3 } });
  const random = randomness(6);
  const files = Array.from({ length: 60 }, (_, i) => ({ name: `f${i}`, bytes: random.bytes(200_000) }));
  const { blob, source } = await estargzLayer(files, { level: 1 });
  await using layer = await bench.store.open(source);
  const open = gate(blob);
  blob.asked.length = 0;
  const background = layer.background();
  await until(() => blob.asked.length === 2); // its share of three
  const inode = inodeAt(layer.tree, 'f55');
  const place = layer.tree.chunkOffset[layer.tree.first[inode]];
  const order: string[] = [];
  const demand = layer.read(inode, 0, 1 << 20).then((got) => {
    order.push('demand');
    t.true(files[55].bytes.equals(got));
  });
  await until(() => blob.asked.length === 3);
  const [, , asked] = blob.asked;
  t.true(asked.offset <= place && place < asked.offset + asked.length);
  open();
  await Promise.all([demand, background.then(() => order.push('background'))]);
  t.deepEqual(order, ['demand', 'background']);
  t.is(layer.stats.presentBytes, layer.stats.totalBytes);
});

test('a reader takes a far chunk out of a slow range that nobody waits for', async (t) => {
  await using bench = await LayerBench.create();
  const random = randomness(7);
  const files = Array.from({ length: 40 }, (_, i) => ({ name: `f${i}`, bytes: random.bytes(400_000) }));
  const { blob, source } = await estargzLayer(files, { level: 1, landmarkAfter: 39 });
  await using layer = await bench.store.open(source);
  blob.asked.length = 0;
  const wanted = layer.tree.first[inodeAt(layer.tree, 'f36')];
  // Whatever begins in the first half crawls.
  const slow = gate(blob, 0, layer.tree.chunkOffset[wanted]);
  const all = layer.prefetch();
  await until(() => blob.asked.length > 0);
  t.true(blob.asked.some((r) => r.offset < layer.tree.chunkOffset[wanted]));
  t.true(files[36].bytes.equals(await layer.read(inodeAt(layer.tree, 'f36'), 0, 1 << 20)));
  slow();
  await all;
  await layer.fetchAll();
  t.is(layer.stats.presentBytes, layer.stats.totalBytes);
  t.true(layer.stats.fetchedBytes < 1.3 * source.descriptor.size);
});

test('what is held in memory stays below the bound, whoever asks', async (t) => {
  const maxMemory = 1024 * 1024;
  await using bench = await LayerBench.create({ store: { maxMemory } });
  const random = randomness(8);
  const files = Array.from({ length: 40 }, (_, i) => ({ name: `f${i}`, bytes: random.bytes(300_000) }));
  const { blob, source } = await estargzLayer(files, { level: 1, chunkSize: 128 * 1024 });
  await using layer = await bench.store.open(source);
  let most = 0;
  blob.beforePiece = () => {
    most = Math.max(most, bench.store.scheduler.memoryInUse);
  };
  const background = layer.background();
  const reads = files.map(async ({ name, bytes }) =>
    t.true(bytes.equals(await layer.read(inodeAt(layer.tree, name), 0, 1 << 20))),
  );
  await Promise.all([background, ...reads]);
  t.true(most > 0 && most <= maxMemory, `${most}`);
  // Buffers are powers of two, so at most twice what they hold.
  t.true(bench.store.scheduler.buffers.peak <= 2 * maxMemory);
  t.is(bench.store.scheduler.buffers.inUse, 0);
  t.is(bench.store.scheduler.memoryInUse, 0);
  t.is(bench.store.scheduler.requestsInUse, 0);
});

test('one chunk larger than the bound is fetched all the same', async (t) => {
  await using bench = await LayerBench.create({ store: { maxMemory: 256 * 1024 } });
  const bytes = randomness(9).bytes(6_000_000);
  const { source } = await estargzLayer([{ name: 'a', bytes }], { level: 1, chunkSize: 8 * 1024 * 1024 });
  await using layer = await bench.store.open(source);
  await Promise.all([
    layer.background(),
    (async () => t.true(bytes.equals(await layer.read(inodeAt(layer.tree, 'a'), 0, 1 << 30))))(),
  ]);
});

test('background work stops on its signal, and goes on after failures', async (t) => {
  await using bench = await LayerBench.create();
  const random = randomness(11);
  const files = Array.from({ length: 30 }, (_, i) => ({ name: `f${i}`, bytes: random.bytes(200_000) }));
  const { blob, source } = await estargzLayer(files, { level: 1 });
  await using layer = await bench.store.open(source);
  const open = gate(blob);
  const controller = new AbortController();
  const stopped = layer.background(controller.signal);
  await until(() => blob.asked.length > 1);
  controller.abort(new Error('enough'));
  open();
  await t.throwsAsync(stopped, { message: 'enough' });
  let failures = 0;
  blob.beforePiece = () => {
    if (++failures < 6) throw Object.assign(new Error('down'), { name: 'TimeoutError' });
  };
  await layer.background();
  t.is(layer.stats.presentBytes, layer.stats.totalBytes);
});

test('background work goes on a while after a read, whether that came to its end or failed', async (t) => {
  const quietMs = 200;
  await using bench = await LayerBench.create({ store: { quietMs } });
  const { blob, source } = await estargzLayer([{ name: 'a', bytes: randomness(13).bytes(50_000) }]);
  await using layer = await bench.store.open(source);
  const reading = () => layer.read(inodeAt(layer.tree, 'a'), 0, 10);
  blob.beforePiece = () => Promise.reject(new Error('down'));
  await t.throwsAsync(reading(), { message: 'down' });
  blob.beforePiece = () => {};
  await reading();
  const began = performance.now();
  await bench.store.scheduler.politely();
  t.true(performance.now() - began < 4 * quietMs, 'else it is patience that ends');
});

test('closing a layer while it is read and fetched ends both, and what came is kept', async (t) => {
  await using bench = await LayerBench.create();
  const random = randomness(12);
  const files = Array.from({ length: 30 }, (_, i) => ({ name: `f${i}`, bytes: random.bytes(200_000) }));
  const { blob, source } = await estargzLayer(files, { level: 1 });
  const layer = await bench.store.open(source);
  const { inflater } = bench.store.scheduler;
  const [run, detach] = [inflater.run.bind(inflater), inflater.detach.bind(inflater)];
  let underWay = 0;
  const leftOver: number[] = [];
  inflater.run = async (...args) => {
    underWay++;
    await new Promise((resolve) => setTimeout(resolve, 20));
    return run(...args).finally(() => underWay--);
  };
  inflater.detach = (target) => {
    leftOver.push(underWay);
    detach(target);
  };
  let pieces = 0;
  blob.beforePiece = async () => {
    if (++pieces > 60) await new Promise((resolve) => setTimeout(resolve, 1));
  };
  const background = layer.background();
  const reading = layer.read(inodeAt(layer.tree, 'f29'), 0, 1 << 20);
  const outcomes = Promise.allSettled([background, reading]);
  await until(() => pieces > 40);
  await layer[Symbol.asyncDispose]();
  t.deepEqual(leftOver, [0], 'no thread writes to its file, and none keeps its tree');
  t.deepEqual([bench.store.scheduler.memoryInUse, bench.store.scheduler.buffers.inUse], [0, 0]);
  const [background1] = await outcomes;
  t.is(background1.status, 'rejected');
  await using again = await bench.store.open(source);
  t.true(again.stats.presentBytes > 0);
  for (const { name, bytes } of files) t.true(bytes.equals(await again.read(inodeAt(again.tree, name), 0, 1 << 20)));
});

test('random reads over random layers give the right bytes, and no byte of a blob is delivered twice', async (t) => {
  const spec = fc.record({
    seed: fc.integer({ min: 1, max: 1 << 30 }),
    sizes: fc.array(fc.integer({ min: 0, max: 30_000 }), { minLength: 1, maxLength: 25 }),
    chunkSize: fc.constantFrom(1_000, 4_096, 10_000, 1 << 22),
    minChunkSize: fc.constantFrom(0, 5_000, 50_000),
    piece: fc.constantFrom(100, 3_000, 1 << 16),
    reads: fc.array(fc.record({ file: fc.nat(), offset: fc.nat(31_000), length: fc.nat(31_000), wait: fc.boolean() }), {
      maxLength: 30,
    }),
    background: fc.boolean(),
    restart: fc.boolean(),
  });
  await fc.assert(
    fc.asyncProperty(spec, async (s) => {
      const random = randomness(s.seed);
      const files = s.sizes.map((size, i) => ({ name: `f${i}`, bytes: random.bytes(size) }));
      const { blob, source } = await estargzLayer(files, { ...s, level: 1 });
      blob.piece = s.piece;
      await using bench = await LayerBench.create();
      let layer = await bench.store.open(source);
      blob.asked.length = 0;
      const background = s.background ? layer.background().catch(() => {}) : undefined;
      const reads: Promise<void>[] = [];
      for (const [i, r] of s.reads.entries()) {
        const { name, bytes } = files[r.file % files.length];
        const read = layer.read(inodeAt(layer.tree, name), r.offset, r.length).then((got) => {
          if (!bytes.subarray(r.offset, r.offset + r.length).equals(got)) throw new Error(`wrong bytes of ${name}`);
        });
        reads.push(read);
        if (r.wait) await read;
        if (s.restart && i === 10) {
          await Promise.all(reads);
          await layer[Symbol.asyncDispose]();
          await background;
          await bench.stop();
          await bench.start();
          layer = await bench.store.open(source);
        }
      }
      await Promise.all(reads);
      if (!s.restart) {
        await background;
        if (s.background && layer.stats.presentBytes < layer.stats.totalBytes) throw new Error('not all came');
      }
      await layer[Symbol.asyncDispose]();
      await background;
      if (s.restart) return; // a range that was aborted half-way may be asked for again
      const sorted = [...blob.asked].sort((a, b) => a.offset - b.offset);
      let end = 0;
      for (const { offset, length } of sorted) {
        if (offset < end) throw new Error('asked for twice');
        end = offset + length;
      }
    }),
    { numRuns: 60 },
  );
  t.pass();
});

for (const kept of ['other files of the layer', 'files of another layer', 'files of a life that ended badly'])
  test(`members that several files share are completed where the disk has some: ${kept}`, async (t) => {
    await using bench = await LayerBench.create();
    const random = randomness(50);
    const files = Array.from({ length: 40 }, (_, i) => ({ name: `f${i}`, bytes: random.bytes(20_000) }));
    const some = files.filter((_, i) => i % 7 === 3 || i % 5 === 0);
    const shared = { minChunkSize: 90_000 };
    const { blob, source } = await estargzLayer(files, shared);
    const read = async (from: typeof source, names: typeof some) => {
      const layer = await bench.store.open(from);
      for (const { name } of names) await layer.read(inodeAt(layer.tree, name), 0, 1 << 20);
      const directory = join(bench.layerDirectory((await bench.cache.du()).layers[0].name));
      await layer[Symbol.asyncDispose]();
      return directory;
    };
    if (kept === 'files of another layer') await read((await estargzLayer(some, shared)).source, some);
    else {
      const directory = await read(source, some);
      if (kept === 'files of a life that ended badly') await writeFile(join(directory, 'open'), '');
    }
    await bench.stop();
    await bench.start();
    await using layer = await bench.store.open(source);
    await layer.fetchAll();
    t.is(layer.stats.presentBytes, layer.stats.totalBytes);
    for (const { name, bytes } of files)
      t.true(bytes.equals(await layer.read(inodeAt(layer.tree, name), 0, 1 << 20)), name);
    t.true(layer.stats.reusedBytes <= layer.stats.totalBytes, 'nothing is taken up twice');
    t.true((await bench.cache.du()).bytes < 1.5 * bench.cache.usedBytes);
    t.true(bench.cache.usedBytes < 3_000_000, `${bench.cache.usedBytes}`);
    t.true(blob.asked.length < 30, `${blob.asked.length}`);
  });

test('one bad chunk in a member that several files share fails what reads it, and nothing else', async (t) => {
  await using bench = await LayerBench.create();
  const random = randomness(51);
  const files = Array.from({ length: 20 }, (_, i) => ({ name: `f${i}`, bytes: random.bytes(20_000) }));
  const { source } = await estargzLayer(files, { minChunkSize: 90_000 });
  await using layer = await bench.store.open(source);
  const bad = layer.tree.first[inodeAt(layer.tree, 'f1')];
  layer.tree.chunkDigests[bad * 32] ^= 1;
  await t.throwsAsync(layer.fetchAll(), { code: 'DATA_LOSS' });
  for (const { name, bytes } of files) {
    const reading = layer.read(inodeAt(layer.tree, name), 0, 1 << 20);
    if (name === 'f1') await t.throwsAsync(reading, { code: 'DATA_LOSS' });
    else t.true(bytes.equals(await reading), name);
  }
});

test('what is fetched ahead and has to wait goes first once a reader waits for it', async (t) => {
  await using bench = await LayerBench.create();
  const random = randomness(17);
  const files = Array.from({ length: 20 }, (_, i) => ({ name: `${i}`, bytes: random.bytes(600_000) }));
  const { blob, source } = await estargzLayer(files, { level: 1 });
  await using layer = await bench.store.open(source);
  blob.asked.length = 0;
  const open = gate(blob);
  for (let i = 0; i < 20; i += 2) layer.bring([inodeAt(layer.tree, `${i}`)]);
  await until(() => blob.asked.length > 0);
  await turn();
  const share = blob.asked.length;
  t.true(share < 10);
  const reading = layer.read(inodeAt(layer.tree, '18'), 0, 10);
  await until(() => blob.asked.length === share + 1);
  t.is(blob.asked.at(-1)!.offset, layer.tree.chunkOffset[layer.tree.first[inodeAt(layer.tree, '18')]]);
  open();
  t.true(files[18].bytes.subarray(0, 10).equals(await reading));
  await until(() => layer.stats.presentBytes === 10 * 600_000);
  t.is(blob.asked.length, 10);
});
