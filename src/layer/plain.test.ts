import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { compress } from '@cloudpss/zstd';
import test from 'ava';
import { digestOf } from '../digest/digester.js';
import { encodeTarHeader, TAR_END, tarPadding } from '../tar/writer.js';
import { inodeAt } from '../testing/image-tree.js';
import { estargzLayer, FakeBlob, LayerBench, randomness, tarFile } from '../testing/layer-fixture.js';
import type { Layer } from './layer.js';
import type { LayerSource } from './source.js';

const random = randomness(20);
const files = Array.from({ length: 10 }, (_, i) => ({ name: `f${i}`, bytes: random.bytes(i * 70_000) }));
const tar = Buffer.concat([
  ...files.flatMap(({ name, bytes }) => [
    encodeTarHeader(tarFile(name, bytes.length)),
    bytes,
    tarPadding(bytes.length),
  ]),
  TAR_END,
]);

function plain(bytes: Buffer, mediaType = 'application/vnd.oci.image.layer.v1.tar'): [FakeBlob, LayerSource] {
  const blob = new FakeBlob(bytes);
  const descriptor = { mediaType, digest: digestOf(bytes), size: bytes.length };
  return [blob, { descriptor, diffId: digestOf(tar), reader: () => blob.reader() }];
}

async function allRight(layer: Layer): Promise<boolean> {
  for (const { name, bytes } of files)
    if (!bytes.equals(await layer.read(inodeAt(layer.tree, name), 0, 1 << 20))) return false;
  return true;
}

const packed = {
  tar,
  gzip: gzipSync(tar),
  'gzip of two members': Buffer.concat([gzipSync(tar.subarray(0, 99_999)), gzipSync(tar.subarray(99_999))]),
  zstd: Buffer.from(compress(tar)),
  'zstd behind a skippable frame': Buffer.concat([
    Buffer.from([0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4]),
    Buffer.from(compress(tar)),
  ]),
};
for (const [what, bytes] of Object.entries(packed))
  test(`a layer that is ${what} is downloaded by one request, told of, and served again after a restart`, async (t) => {
    await using bench = await LayerBench.create();
    const [blob, source] = plain(bytes);
    const progress: number[] = [];
    const reasons = new Set<string>();
    const onProgress = (p: { bytes: number; total: number; reason: string }) => {
      progress.push(p.bytes / p.total);
      reasons.add(p.reason);
    };
    const layer = await bench.store.open(source, { onProgress });
    t.like(layer.lazy, { lazy: false, reason: [...reasons][0] });
    t.regex([...reasons][0], /no TOC digest/);
    t.is(progress.at(-1), 1);
    t.deepEqual(blob.asked, [{ offset: 0, length: bytes.length }]);
    t.is(layer.stats.requests, 1);
    t.true(await allRight(layer));
    await layer[Symbol.asyncDispose]();
    await bench.stop();
    await bench.start();
    await using again = await bench.store.open(source);
    t.true(await allRight(again));
    t.false(again.lazy.lazy);
    t.is(blob.asked.length, 1);
  });

test('an unclean end of a plain layer: whole on disk it is believed again, damaged it is downloaded again', async (t) => {
  await using bench = await LayerBench.create();
  const [blob, source] = plain(packed.gzip);
  for (const damaged of [false, true]) {
    const layer = await bench.store.open(source);
    await layer[Symbol.asyncDispose]();
    await bench.stop();
    const directory = join(bench.root, 'layers', (await readdir(join(bench.root, 'layers')))[0]);
    await writeFile(join(directory, 'open'), '');
    const data = await readFile(join(directory, 'data'));
    if (damaged) {
      data[1_000_000] ^= 1;
      await writeFile(join(directory, 'data'), data);
    }
    await bench.start();
    blob.asked.length = 0;
    await using again = await bench.store.open(source);
    t.is(blob.asked.length, damaged ? 1 : 0);
    t.true(await allRight(again));
  }
});

const wrong: Record<string, { bytes?: Buffer; change: (source: LayerSource) => LayerSource; message: RegExp }> = {
  'another blob': {
    change: (s) => ({ ...s, descriptor: { ...s.descriptor, digest: digestOf('x') } }),
    message: /expected sha256:2d71/,
  },
  'another diffID': { change: (s) => ({ ...s, diffId: digestOf('x') }), message: /uncompressed: expected sha256:2d71/ },
  'a stream cut short': {
    bytes: packed.gzip.subarray(0, 300_000),
    change: (s) => s,
    message: /sound compressed stream/,
  },
  'a corrupt stream': {
    bytes: Buffer.concat([packed.gzip.subarray(0, 300_000), Buffer.alloc(1000, 7)]),
    change: (s) => s,
    message: /sound compressed stream/,
  },
  'a zstd stream that is none': {
    bytes: Buffer.concat([packed.zstd.subarray(0, 9), Buffer.alloc(1000, 7)]),
    change: (s) => s,
    message: /sound compressed stream/,
  },
};
for (const [what, { bytes, change, message }] of Object.entries(wrong))
  test(`${what} is refused, and nothing of it is kept`, async (t) => {
    await using bench = await LayerBench.create();
    const [, source] = plain(bytes ?? packed.gzip);
    await t.throwsAsync(bench.store.open(change(source)), { message });
    t.deepEqual(await readdir(join(bench.root, 'layers')), []);
  });

const skippable = (length: number) => {
  const frame = Buffer.alloc(length);
  frame.writeUInt32LE(0x184d2a50);
  frame.writeUInt32LE(length - 8, 4);
  return frame;
};
for (const [what, stream, behind] of [
  ['zeros behind a gzip stream', packed.gzip, (length: number) => Buffer.alloc(length)],
  ['a skippable frame behind a zstd stream', packed.zstd, skippable],
] as const)
  test(`${what} count for digest and size, however many there are`, async (t) => {
    for (const length of [100, 60_000, 100_000, 1 << 20]) {
      await using bench = await LayerBench.create();
      const bytes = Buffer.concat([stream, behind(length)]);
      const [blob, source] = plain(bytes);
      const { descriptor } = source;
      for (const [wrong, message] of [
        [{ ...descriptor, digest: digestOf('x') }, /expected sha256:2d71/],
        [{ ...descriptor, size: bytes.length - 1 }, /expected sha256/],
      ] as const) {
        await t.throwsAsync(bench.store.open({ ...source, descriptor: wrong }), { message }, `${length}`);
        t.deepEqual(await readdir(join(bench.root, 'layers')), []);
      }
      await using layer = await bench.store.open(source);
      t.true(await allRight(layer));
      t.is(layer.stats.fetchedBytes, bytes.length);
      t.is(blob.aborted, 0);
    }
  });

test('a download that its only opener leaves is stopped, and leaves nothing', async (t) => {
  await using bench = await LayerBench.create();
  const [blob, source] = plain(packed.tar);
  const controller = new AbortController();
  blob.beforePiece = (offset) => {
    if (offset > 500_000) controller.abort(new Error('I leave'));
  };
  await t.throwsAsync(bench.store.open(source, { signal: controller.signal }), { message: 'I leave' });
  t.deepEqual(await readdir(join(bench.root, 'layers')), []);
  blob.beforePiece = () => {};
  await using layer = await bench.store.open(source);
  t.true(await allRight(layer));
});

test('a download that its only opener leaves is stopped, also where only zeros are still to come', async (t) => {
  await using bench = await LayerBench.create();
  const [blob, source] = plain(Buffer.concat([packed.gzip, Buffer.alloc(4 << 20)]));
  const controller = new AbortController();
  let last = 0;
  blob.beforePiece = (offset) => {
    last = offset;
    if (offset > packed.gzip.length + (2 << 20)) controller.abort(new Error('I leave'));
  };
  await t.throwsAsync(bench.store.open(source, { signal: controller.signal }), { message: 'I leave' });
  t.true(last < packed.gzip.length + (3 << 20));
  t.is(blob.aborted, 1);
  t.deepEqual(await readdir(join(bench.root, 'layers')), []);
});

test('an annotated layer that is no eStargz is downloaded whole; one that is, without the annotation, too', async (t) => {
  await using bench = await LayerBench.create();
  const [blob, source] = plain(packed.gzip);
  await using annotated = await bench.store.open({ ...source, tocDigest: digestOf('a TOC') });
  t.false(annotated.lazy.lazy);
  t.is(blob.asked.length, 2);
  t.true(await allRight(annotated));
  const made = await estargzLayer(files);
  await using unannotated = await bench.store.open({ ...made.source, tocDigest: undefined });
  t.false(unannotated.lazy.lazy);
  t.is(made.blob.asked.length, 1);
  t.true(await allRight(unannotated));
});

test('a disk that fails while a layer is opened fails that opening, not the next one, and leaves no scratch file', async (t) => {
  await using bench = await LayerBench.create();
  const [, source] = plain(packed.gzip);
  const layer = await bench.store.open(source);
  await layer[Symbol.asyncDispose]();
  await bench.stop();
  const [name] = await readdir(join(bench.root, 'layers'));
  await writeFile(join(bench.layerDirectory(name), 'open'), '');
  await bench.start();
  const acquire = bench.cache.acquire.bind(bench.cache);
  bench.cache.acquire = async (...args) => {
    const cached = await acquire(...args);
    return (
      cached &&
      Object.assign(cached, {
        recover: () => {
          throw new Error('EIO');
        },
      })
    );
  };
  await t.throwsAsync(bench.store.open(source), { message: 'EIO' });
  bench.cache.acquire = acquire;
  await using again = await bench.store.open(source);
  t.true(await allRight(again));

  const [, other] = plain(packed.zstd);
  bench.cache.create = async () => Promise.reject(new Error('EIO'));
  await t.throwsAsync(bench.store.open(other), { message: 'EIO' });
  t.deepEqual(await readdir(join(bench.root, 'layers')), [name]);
});
