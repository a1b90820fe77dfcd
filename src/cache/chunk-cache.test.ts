import { execFile } from 'node:child_process';
import { mkdir, readdir, stat, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import test from 'ava';
import { digestOf } from '../digest/digester.js';
import { TreeBuilder } from '../toc/builder.js';
import type { Tree } from '../toc/tree.js';
import { randomness, tarFile } from '../testing/layer-fixture.js';
import { temporaryDirectory } from '../testing/temporary.js';
import { hexOf } from '../digest/digest.js';
import type { CachedLayer } from './cached-layer.js';
import { ChunkCache, type CacheEvent } from './chunk-cache.js';
import type { LayerKey } from './key.js';

const run = promisify(execFile);

/** A tree of files with one chunk each, and their bytes. */
function layerOf(seed: number, count = 10, size = 10_000): { key: LayerKey; tree: Tree; chunks: Buffer[] } {
  const random = randomness(seed);
  const chunks = Array.from({ length: count }, () => random.bytes(size));
  const builder = new TreeBuilder();
  chunks.forEach((bytes, i) =>
    builder.add({
      ...tarFile(`f${i}`, size),
      chunks: [{ offset: i * size, innerOffset: 0, size, digest: Buffer.from(hexOf(digestOf(bytes)), 'hex') }],
    }),
  );
  const source = digestOf(`toc ${seed}`);
  const tree = builder.build({ source, contentEnd: count * size });
  return { key: { digest: digestOf(`layer ${seed}`), source }, tree, chunks };
}

/** Opens a layer as its owner does, stores every chunk, and gives it back. */
async function fill(cache: ChunkCache, { key, tree, chunks }: ReturnType<typeof layerOf>) {
  const layer = (await cache.acquire(key, (s) => s === key.source)) ?? (await cache.create(key, tree));
  chunks.forEach((bytes, chunk) => {
    layer.store(chunk, bytes);
    cache.wrote(layer, chunk, chunk + 1, 12_288);
  });
  await cache.release(layer);
}

test('slots are durable, from 1, and never given twice', async (t) => {
  const root = await temporaryDirectory(t, 'cache-test');
  const slots = new Map<string, number>();
  for (let round = 0; round < 3; round++) {
    await using cache = await ChunkCache.open(root);
    const opened = await Promise.all(
      [1, 2, 3, 4 + round].map(async (seed) => {
        const { key, tree } = layerOf(seed, 1);
        return (await cache.acquire(key, () => true)) ?? (await cache.create(key, tree));
      }),
    );
    for (const layer of opened) {
      t.is(layer.slot, slots.get(layer.name) ?? layer.slot);
      slots.set(layer.name, layer.slot);
      await cache.release(layer);
    }
    await cache.prune({ all: true });
  }
  t.deepEqual([...slots.values()].sort(), [1, 2, 3, 4, 5, 6]);
});

test('what is stored is found again after a restart, and the books are right', async (t) => {
  const root = await temporaryDirectory(t, 'cache-test');
  const one = layerOf(1);
  {
    await using cache = await ChunkCache.open(root);
    await fill(cache, one);
  }
  await using cache = await ChunkCache.open(root);
  const { bytes, layers } = await cache.du();
  t.like(layers, [{ digest: one.key.digest, chunks: 10, presentChunks: 10, inUse: false }]);
  t.true(bytes >= 100_000 && bytes < 200_000, `${bytes}`);
  t.is(bytes, cache.usedBytes);
  const layer = (await cache.acquire(one.key, (s) => s === one.key.source))!;
  t.is(layer.presence.count(), 10);
  t.true((await cache.du()).layers[0].inUse);
  await t.throwsAsync(
    cache.acquire(one.key, () => true),
    { message: /open already/ },
  );
  await cache.release(layer);
  t.is(await cache.acquire(one.key, () => false), undefined);
});

test('a layer that was opened and never read is not taken for one that has everything', async (t) => {
  const { key, tree, chunks } = layerOf(1);
  await using cache = await ChunkCache.open(await temporaryDirectory(t, 'cache-test'));
  await cache.release(await cache.create(key, tree));
  t.like((await cache.du()).layers, [{ presentChunks: 0 }]);
  const layer = (await cache.acquire(key, () => true))!;
  t.false(layer.hasSuspects);
  layer.store(3, chunks[3]);
  cache.wrote(layer, 3, 4, 12_288);
  await cache.release(layer);
  t.like((await cache.du()).layers, [{ chunks: 10, presentChunks: 1 }]);
  t.false((await readdir(join(cache.root, 'layers', layer.name))).includes('open'), 'that was a clean end');
});

test('the byte limit drops the layers longest not used, never those in use', async (t) => {
  const root = await temporaryDirectory(t, 'cache-test');
  const events: CacheEvent[] = [];
  const layers = [1, 2, 3, 4].map((seed) => layerOf(seed, 20));
  const each = 300_000;
  await using cache = await ChunkCache.open(root, { limitBytes: 3 * each, onEvent: (e) => void events.push(e) });
  const held = await cache.create(layers[0].key, layers[0].tree);
  await fill(cache, layers[1]);
  await fill(cache, layers[2]);
  await fill(cache, layers[1]); // used again: now the third is the one to go
  for (const [chunk, bytes] of layers[0].chunks.entries()) held.store(chunk, bytes);
  cache.wrote(held, 0, 20, 20 * 12_288);
  await fill(cache, layers[3]);
  t.true(await cache.hasRoom());
  t.deepEqual(
    events.map((e) => e.type === 'evicted' && e.digest),
    [layers[2].key.digest],
  );
  t.deepEqual((await cache.du()).layers.map((l) => l.digest).sort(), [0, 1, 3].map((i) => layers[i].key.digest).sort());
  const pruned = await cache.prune({ all: true });
  t.is(pruned.layers, 2);
  t.deepEqual(
    (await cache.du()).layers.map((l) => l.digest),
    [layers[0].key.digest],
  );
  await cache.release(held);
});

test('last use outlives the process', async (t) => {
  const root = await temporaryDirectory(t, 'cache-test');
  const [one, two] = [layerOf(1), layerOf(2)];
  {
    await using cache = await ChunkCache.open(root);
    await fill(cache, one);
    await fill(cache, two);
    await fill(cache, one);
  }
  await using cache = await ChunkCache.open(root);
  t.is((await cache.prune({ keepBytes: cache.usedBytes })).layers, 0, 'no more than was asked for');
  await cache.prune({ keepBytes: 150_000 });
  t.deepEqual(
    (await cache.du()).layers.map((l) => l.digest),
    [one.key.digest],
  );
});

test('a chunk that another layer has is taken from there, verified, and a stale hint is harmless', async (t) => {
  const root = await temporaryDirectory(t, 'cache-test');
  const one = layerOf(1, 4);
  // The same bytes, elsewhere and in another order.
  const other = layerOf(2, 8);
  other.chunks.splice(4, 4, ...[...one.chunks].reverse());
  for (let i = 4; i < 8; i++)
    other.tree.chunkDigests.set(one.tree.chunkDigests.subarray((7 - i) * 32, (8 - i) * 32), i * 32);
  await using cache = await ChunkCache.open(root);
  await fill(cache, one);
  const layer = await cache.create(other.key, other.tree);
  t.deepEqual(
    Array.from({ length: 8 }, (_, chunk) => cache.reuse(layer, chunk)),
    [0, 0, 0, 0, 10_000, 10_000, 10_000, 10_000],
  );
  t.is(layer.presence.count(), 4);
  await cache.release(layer);

  // Nobody tells the index that the other layer's file was changed.
  const three = layerOf(3, 4);
  three.tree.chunkDigests.set(one.tree.chunkDigests);
  await cache.prune({ all: true });
  await fill(cache, one);
  await writeFile(join(root, 'layers', (await readdir(join(root, 'layers')))[0], 'data'), Buffer.alloc(50_000));
  const third = await cache.create(three.key, three.tree);
  t.is(cache.reuse(third, 0), 0);
  t.is(third.presence.count(), 0);
  await cache.release(third);
});

test('a layer that is dropped takes no hints along that lead to others', async (t) => {
  await using cache = await ChunkCache.open(await temporaryDirectory(t, 'cache-test'));
  const [one, two, three] = [1, 2, 3].map((seed) => layerOf(seed, 4));
  for (const { tree } of [two, three]) tree.chunkDigests.set(one.tree.chunkDigests);
  await fill(cache, one);
  await fill(cache, { ...two, chunks: one.chunks }); // whoever brought them last is where they are looked for
  await cache.drop(one.key);
  const layer = await cache.create(three.key, three.tree);
  t.is(cache.reuse(layer, 0), 10_000);
  await cache.release(layer);
});

test('a process that dies leaves nothing that the next one trips over', async (t) => {
  const root = await temporaryDirectory(t, 'cache-test');
  const one = layerOf(1);
  {
    await using cache = await ChunkCache.open(root);
    await fill(cache, one);
    await mkdir(join(cache.scratchPath(), 'x'), { recursive: true });
  }
  await writeFile(join(root, 'layers', 'something else'), '');
  await using cache = await ChunkCache.open(root);
  t.is((await readdir(join(root, 'layers'))).filter((name) => name.startsWith('.')).length, 0);
  t.is((await cache.du()).layers.length, 1);
});

for (const [what, damage] of Object.entries({
  'other bytes': (path: string) => writeFile(path, Buffer.alloc(100_000, 'no database')),
  nothing: (path: string) => truncate(path, 0),
  'its first half': async (path: string) => truncate(path, (await stat(path)).size / 2),
}))
  test(`an index file that holds ${what} is made anew`, async (t) => {
    const root = await temporaryDirectory(t, 'cache-test');
    const one = layerOf(1);
    {
      await using cache = await ChunkCache.open(root);
      await fill(cache, one);
    }
    await damage(join(root, 'index', 'data.mdb'));
    const events: CacheEvent[] = [];
    await using cache = await ChunkCache.open(root, { onEvent: (e) => void events.push(e) });
    t.like(events, [{ type: 'damaged', what: 'index' }]);
    await fill(cache, one);
    t.is((await cache.du()).layers[0].presentChunks, 10);
  });

test('a temporary cache goes when it is closed', async (t) => {
  const parent = await temporaryDirectory(t, 'cache-test');
  const cache = await ChunkCache.openTemporary(parent);
  await fill(cache, layerOf(1));
  t.is((await readdir(parent)).length, 1);
  await cache[Symbol.asyncDispose]();
  t.deepEqual(await readdir(parent), []);
});

test('on a full disk layers not in use make room, and a failed write is told', async (t) => {
  const root = await temporaryDirectory(t, 'cache-test');
  await run('mount', ['-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', root]);
  t.teardown(() => run('umount', ['-l', root]).catch(() => {}));
  const events: CacheEvent[] = [];
  const cache = await ChunkCache.open(root, { onEvent: (e) => void events.push(e) });
  await fill(cache, layerOf(1, 40)); // some 500 KB
  await fill(cache, layerOf(2, 40));
  const big = layerOf(3, 200);
  const layer = await cache.create(big.key, big.tree);
  let stored = 0;
  for (const [chunk, bytes] of big.chunks.entries()) {
    try {
      layer.store(chunk, bytes);
    } catch (error) {
      if (!(await cache.makeRoom(12_288, error))) break;
      layer.store(chunk, bytes);
    }
    stored++;
  }
  t.is(events.filter((e) => e.type === 'evicted').length, 2);
  t.true(stored > 80 && stored < 200, `${stored}`);
  t.is(layer.presence.count(), stored);
  cache.wrote(layer, 0, stored, stored * 12_288);
  await cache.release(layer);
  await cache[Symbol.asyncDispose]();
  t.true((await stat(root)).isDirectory());
});

test('on a full disk, layers that are being opened do not wait for each other to be dropped', async (t) => {
  const root = await temporaryDirectory(t, 'cache-test');
  await run('mount', ['-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', root]);
  t.teardown(() => run('umount', ['-l', root]).catch(() => {}));
  const cache = await ChunkCache.open(root);
  await writeFile(join(root, 'ballast'), Buffer.alloc(3_000_000)).catch(() => {});
  const layers = [layerOf(1, 5000, 4), layerOf(2, 5000, 4)];
  for (let round = 0; round < 2; round++) {
    // The trees find no room, so the second round makes them again, of layers that are known.
    const opened = await Promise.all(layers.map(({ key, tree }) => cache.create(key, tree)));
    for (const layer of opened) await cache.release(layer);
  }
  t.is((await cache.du()).layers.length, 2);
  await cache[Symbol.asyncDispose]();
});

test('a want of descriptors drops no layer', async (t) => {
  await using cache = await ChunkCache.open(await temporaryDirectory(t, 'cache-test'));
  await fill(cache, layerOf(1));
  const { key, tree } = layerOf(2);
  let tries = 0;
  const unsaved = Object.create(tree, {
    buffer: {
      get: () => {
        if (tries++ === 0) throw Object.assign(new Error('too many open files'), { code: 'EMFILE' });
        return tree.buffer;
      },
    },
  }) as Tree;
  await cache.release(await cache.create(key, unsaved));
  t.is((await cache.du()).layers.length, 2);
});

test('of a layer that is kept the tree stays, and with it the way back; its content goes last, or stays too', async (t) => {
  const root = await temporaryDirectory(t, 'cache-test');
  const events: CacheEvent[] = [];
  await using cache = await ChunkCache.open(root, { limitBytes: 430_000, onEvent: (e) => void events.push(e) });
  const [asleep, whole, unused] = [1, 2, 3].map((seed) => layerOf(seed));
  for (const layer of [asleep, whole, unused]) await fill(cache, layer);
  const letGo = [cache.keep(asleep.key, false), cache.keep(asleep.key, false), cache.keep(whole.key, true)];
  const accepts = () => true;
  t.like(cache.look(asleep.key, accepts), { facts: asleep.tree.facts, counts: asleep.tree.counts });
  t.is(
    cache.look(asleep.key, () => false),
    undefined,
  );
  t.is(cache.look(layerOf(9).key, accepts), undefined);

  t.is((await cache.prune({ all: true })).layers, 1, 'what is kept is in use');
  t.deepEqual(
    (await cache.du()).layers.map(({ digest, inUse }) => [digest, inUse]),
    [
      [whole.key.digest, true],
      [asleep.key.digest, true],
    ],
  );
  // Above the limit now: the content of the one that may lose it goes.
  const busy = layerOf(4, 20);
  const open = await cache.create(busy.key, busy.tree);
  busy.chunks.forEach((bytes, chunk) => {
    open.store(chunk, bytes);
    cache.wrote(open, chunk, chunk + 1, 12_288);
  });
  await cache.hasRoom();
  t.deepEqual(
    events.map((e) => e.type === 'evicted' && e.digest),
    [unused.key.digest, asleep.key.digest],
  );
  const again = (await cache.acquire(asleep.key, accepts))!;
  t.is(again.presence.count(), 0);
  t.false(again.hasSuspects, 'nothing is left to be doubted');
  t.is(cache.reuse(again, 0), 0, 'nor to be found by others');
  asleep.chunks.forEach((bytes, chunk) => again.store(chunk, bytes));
  await cache.release(again);
  await cache.release(open);
  t.is((await cache.du()).layers.find((l) => l.digest === whole.key.digest)!.presentChunks, 10);

  letGo[0]();
  letGo[0]();
  letGo[2]();
  await cache.prune({ all: true });
  t.deepEqual(
    (await cache.du()).layers.map((l) => l.digest),
    [asleep.key.digest],
    'kept twice, let go once',
  );
  letGo[1]();
  await cache.prune({ all: true });
  t.deepEqual((await cache.du()).layers, []);
});

test('content of some layers goes after that of all others, and whoever cares hears of each before it goes', async (t) => {
  const root = await temporaryDirectory(t, 'cache-test');
  const [old, young] = [1, 2].map((seed) => layerOf(seed));
  const heard: { slot: number; whole: boolean[] }[] = [];
  const lookWhole = () => Promise.all([old, young].map(({ key }) => cache.looksWhole(key)));
  await using cache: ChunkCache = await ChunkCache.open(root, {
    onForget: async (slot) => void heard.push({ slot, whole: await lookWhole() }),
    goesLast: (slot) => slot === slotOf(old),
  });
  const slotOf = ({ key }: typeof old) => cache.look(key, () => true)!.slot;
  for (const layer of [old, young]) await fill(cache, layer);
  for (const { key } of [old, young]) cache.keep(key, false);
  const open = (await cache.acquire(young.key, () => true))!;
  t.deepEqual(await lookWhole(), [true, false], 'one that is open may yet end uncleanly');
  await cache.release(open);
  for (let i = 0; i < 2; i++) t.true(await cache.makeRoom(1, new Error('full')));
  t.deepEqual(heard, [
    { slot: slotOf(young), whole: [true, true] },
    { slot: slotOf(old), whole: [true, false] },
  ]);
  t.deepEqual(await lookWhole(), [false, false]);
});

test('a layer that is given back while another one makes room makes room, too', async (t) => {
  const root = await temporaryDirectory(t, 'cache-test');
  const [first, second] = [1, 2].map((seed) => layerOf(seed));
  const slots: number[] = [];
  const given: CachedLayer[] = [];
  await using cache: ChunkCache = await ChunkCache.open(root, {
    limitBytes: 0,
    onForget: async (slot) => {
      if (slots.push(slot) === 1) await cache.release(given[0]);
    },
  });
  for (const { key } of [first, second]) cache.keep(key, false);
  given.push(await cache.create(second.key, second.tree));
  await fill(cache, first);
  t.false(await cache.hasRoom(), 'trees stay');
  t.deepEqual(slots.slice(1), [given[0].slot]);
});

test('a layer that is kept while it waits to be dropped stays; one that is being dropped is not to be found', async (t) => {
  const root = await temporaryDirectory(t, 'cache-test');
  const [kept, dropped] = [1, 2].map((seed) => layerOf(seed));
  const found: boolean[] = [];
  const look = ({ key }: typeof kept) => cache.look(key, () => true) !== undefined;
  await using cache: ChunkCache = await ChunkCache.open(root, {
    onForget: async () => void found.push(look(kept), look(dropped)),
  });
  await fill(cache, kept);
  const pruning = cache.prune({ all: true });
  cache.keep(kept.key, true);
  t.is((await pruning).layers, 0);
  t.deepEqual(found, []);
  await fill(cache, dropped);
  t.is((await cache.prune({ all: true })).layers, 1);
  t.deepEqual(found, [true, false]);
  const open = (await cache.acquire(kept.key, () => true))!;
  t.is(open.presence.count(), 10);
  await cache.release(open);
});

test('content that is wanted when it is about to go stays', async (t) => {
  const layer = layerOf(1);
  await using cache: ChunkCache = await ChunkCache.open(await temporaryDirectory(t, 'cache-test'), {
    onForget: async () => void cache.keep(layer.key, true),
  });
  cache.keep(layer.key, false);
  await fill(cache, layer);
  t.false(await cache.makeRoom(1, new Error('full')));
  t.true(await cache.looksWhole(layer.key));
});

for (const kept of [true, false])
  test(`a layer that is opened while another one makes room stays as it is: ${kept ? 'kept' : 'not kept'}`, async (t) => {
    const [first, second] = [1, 2].map((seed) => layerOf(seed));
    const opened: CachedLayer[] = [];
    await using cache: ChunkCache = await ChunkCache.open(await temporaryDirectory(t, 'cache-test'), {
      onForget: async () => {
        if (opened.length === 0) opened.push((await cache.acquire(second.key, () => true))!);
      },
    });
    for (const layer of [first, second]) {
      await fill(cache, layer);
      if (kept) cache.keep(layer.key, false);
    }
    await cache.makeRoom(2 ** 30, new Error('full'));
    await cache.release(opened[0]);
    t.true(await cache.looksWhole(second.key));
    t.false(await cache.looksWhole(first.key));
  });

test('content above the limit that had to stay goes when it need not any more', async (t) => {
  const root = await temporaryDirectory(t, 'cache-test');
  const layer = layerOf(1);
  await using cache = await ChunkCache.open(root, { limitBytes: 0 });
  const letGo = [cache.keep(layer.key, true), cache.keep(layer.key, false)];
  const present = async () => (await cache.du()).layers.map(({ presentChunks }) => presentChunks);
  await fill(cache, layer);
  await cache.hasRoom();
  t.deepEqual(await present(), [10]);
  letGo[0]();
  await cache.hasRoom();
  t.deepEqual(await present(), [0]);
  letGo[1]();
  t.true(await cache.hasRoom());
  t.deepEqual(await present(), []);
});

test('what a crash left half written beside a layer is removed at the next start', async (t) => {
  const root = await temporaryDirectory(t, 'cache-test');
  const { key, tree } = layerOf(1);
  let name: string;
  {
    await using cache = await ChunkCache.open(root);
    const layer = await cache.create(key, tree);
    name = layer.name;
    await cache.release(layer);
  }
  const directory = join(root, 'layers', name);
  await writeFile(join(directory, 'present.0123456789ab.tmp'), 'half');
  await using cache = await ChunkCache.open(root);
  t.false((await readdir(directory)).some((file) => file.endsWith('.tmp')));
  t.is((await cache.du()).layers.length, 1);
});

test('bits beside a tree that was made anew are not believed: it may have chunks at other places', async (t) => {
  await using cache = await ChunkCache.open(await temporaryDirectory(t, 'cache-test'));
  const layer = layerOf(1);
  await fill(cache, layer);
  const opened = await cache.create(layer.key, layer.tree);
  t.is(opened.presence.count(), 0);
  t.true(opened.hasSuspects);
  await cache.release(opened);
});

test('a sector that cannot be read leaves a suspect chunk to the registry', async (t) => {
  const root = await temporaryDirectory(t, 'cache-test');
  const one = layerOf(1);
  {
    await using cache = await ChunkCache.open(root);
    await fill(cache, one);
    await writeFile(join(root, 'layers', (await cache.du()).layers[0].name, 'open'), '');
  }
  await using cache = await ChunkCache.open(root);
  const layer = (await cache.acquire(one.key, () => true))!;
  t.true(layer.hasSuspects);
  const { fd } = layer;
  Object.assign(layer, { fd: 2 ** 20 });
  t.is(cache.reuse(layer, 0), 0);
  Object.assign(layer, { fd });
  t.true(cache.reuse(layer, 0) > 0);
  await cache.release(layer);
});
