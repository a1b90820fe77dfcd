import { gzipSync } from 'node:zlib';
import test, { type ExecutionContext } from 'ava';
import { digestOf } from '../digest/digester.js';
import { encodeFooter } from '../estargz/footer.js';
import { encodeTarHeader, TAR_END } from '../tar/writer.js';
import { Gate } from '../testing/gate.js';
import { FakeBlob, LayerBench, tarFile } from '../testing/layer-fixture.js';
import { until } from '../testing/until.js';
import type { LayerSource } from './source.js';
import { TocThreads } from './toc-threads.js';

const KIB = 1024;

/** A layer without files, whose TOC inflates to so many bytes; `text` is at the TOC's end. */
function layerOf(id: number, bytes: number, text = ']}'): LayerSource {
  const json = Buffer.alloc(bytes - 512 - TAR_END.byteLength, ' ');
  json.write('{"version":1,"entries":[');
  json.write(text, json.byteLength - text.length);
  const toc = gzipSync(Buffer.concat([encodeTarHeader(tarFile('stargz.index.json', json.byteLength)), json, TAR_END]));
  const blob = new FakeBlob(Buffer.concat([Buffer.alloc(100, id), toc, encodeFooter('estargz', 100)]));
  const descriptor = { mediaType: 'x', digest: digestOf(blob.bytes), size: blob.bytes.byteLength };
  return { descriptor, tocDigest: digestOf(json), reader: () => blob.reader() };
}

/** Counts the bytes of TOCs that are verified and have no tree yet. None gets one before `freed`. */
function watchThreads(t: ExecutionContext, freed?: Promise<void>): { now: number; peak: number } {
  const held = { now: 0, peak: 0 };
  const sound = Object.getOwnPropertyDescriptor(TocThreads.prototype, 'tree')!;
  t.teardown(() => Object.defineProperty(TocThreads.prototype, 'tree', sound));
  const make = sound.value as TocThreads['tree'];
  TocThreads.prototype.tree = async function (toc) {
    const { byteLength } = toc.json;
    held.peak = Math.max(held.peak, (held.now += byteLength));
    try {
      await freed;
      return await make.call(this, toc);
    } finally {
      held.now -= byteLength;
    }
  };
  return held;
}

test.serial('inflated TOCs of all layers together stay below the bound, each until its tree is there', async (t) => {
  const { promise: freed, resolve: free } = new Gate();
  const held = watchThreads(t, freed);
  await using bench = await LayerBench.create({ store: { maxTocBytes: 500 * KIB } });
  let verified = 0;
  const opening = Array.from({ length: 6 }, (_, id) =>
    bench.store.open(layerOf(id, 200 * KIB), { onVerified: () => verified++ }),
  );
  await until(() => verified === 2);
  await new Promise((resolve) => setTimeout(resolve, 50));
  t.is(verified, 2, 'the others have not even been inflated');
  free();
  for (const layer of await Promise.all(opening)) await layer[Symbol.asyncDispose]();
  t.is(verified, 6);
  t.true(held.peak <= 500 * KIB, `${held.peak}`);
});

test.serial('a TOC that is larger than the bound goes alone', async (t) => {
  const held = watchThreads(t);
  await using bench = await LayerBench.create({ store: { maxTocBytes: 500 * KIB } });
  const sizes = [200, 200, 900, 200, 800, 200];
  const opening = sizes.map((size, id) => bench.store.open(layerOf(id, size * KIB)));
  for (const layer of await Promise.all(opening)) await layer[Symbol.asyncDispose]();
  t.true(held.peak <= 900 * KIB, `${held.peak}`);
  t.true(held.peak > 800 * KIB, `${held.peak}`);
});

test.serial('whatever becomes of a TOC, the next one has its room', async (t) => {
  const { promise: freed, resolve: free } = new Gate();
  watchThreads(t, freed);
  await using bench = await LayerBench.create({ store: { maxTocBytes: 200 * KIB } });
  const leave = new AbortController();
  let verified = false;
  const first = bench.store.open(layerOf(0, 200 * KIB), { onVerified: () => (verified = true) });
  await until(() => verified);
  const left = bench.store.open(layerOf(1, 200 * KIB), { signal: leave.signal });
  const failing = Promise.all([
    t.throwsAsync(bench.store.open({ ...layerOf(2, 200 * KIB), tocDigest: digestOf('x') }), { code: 'DATA_LOSS' }),
    t.throwsAsync(bench.store.open(layerOf(3, 200 * KIB, '}]')), { code: 'DATA_LOSS' }),
  ]);
  leave.abort(new Error('I leave'));
  await t.throwsAsync(left, { message: 'I leave' });
  free();
  await failing;
  await using _first = await first;
  await using last = await bench.store.open(layerOf(4, 200 * KIB));
  t.is(last.tree.counts.inodes, 1);
});
