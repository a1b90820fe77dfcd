import { readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { saveBitmap } from '../cache/bitmap-file.js';
import { Presence } from '../cache/presence.js';
import { codeOf, LazylayerError } from '../errors.js';
import { Registry } from '../registry/client.js';
import type { FaultAction } from '../testing/registry-faults.js';
import { startTestRegistry } from '../testing/registry.js';
import { inodeAt } from '../testing/image-tree.js';
import { estargzLayer, LayerBench, randomness, type FakeBlob } from '../testing/layer-fixture.js';
import type { Layer } from './layer.js';
import type { LayerSource } from './source.js';

const random = randomness(3);
const files = Array.from({ length: 12 }, (_, i) => ({ name: `f${i}`, bytes: random.bytes(60_000) }));

const readFileOf = (layer: Layer, i: number) => layer.read(inodeAt(layer.tree, `f${i}`), 0, 1 << 20);

async function allRight(t: ExecutionContext, layer: Layer) {
  for (const [i, { bytes }] of files.entries()) t.true(bytes.equals(await readFileOf(layer, i)), `f${i}`);
}

/** The chunk's place in the blob. */
const placeOf = (layer: Layer, i: number) => layer.tree.chunkOffset[layer.tree.first[inodeAt(layer.tree, `f${i}`)]];

/** Opens, reads everything, closes, and ends the process's part; gives the layer's directory. */
async function fill(bench: LayerBench, source: LayerSource, t: ExecutionContext): Promise<string> {
  const layer = await bench.store.open(source);
  await allRight(t, layer);
  await layer[Symbol.asyncDispose]();
  await bench.stop();
  const [name] = await readdir(join(bench.root, 'layers'));
  return join(bench.root, 'layers', name);
}

async function flip(path: string, at: number) {
  const bytes = await readFile(path);
  bytes[at] ^= 0xff;
  await writeFile(path, bytes);
}

test('a chunk that is wrong fails alone, is asked for twice, and is never kept; once right it is read', async (t) => {
  await using bench = await LayerBench.create();
  const { blob, source } = await estargzLayer(files);
  await using layer = await bench.store.open(source);
  const at = placeOf(layer, 5) + 2_000;
  blob.bytes[at] ^= 1;
  blob.asked.length = 0;
  const error = await t.throwsAsync(readFileOf(layer, 5), { message: /chunk \d+: expected .*, found / });
  t.is(codeOf(error), 'DATA_LOSS');
  t.is(blob.asked.filter((r) => r.offset <= at && at < r.offset + r.length).length, 2);
  t.is(layer.stats.badChunks, 2);
  for (const i of [4, 6, 7]) t.true(files[i].bytes.equals(await readFileOf(layer, i)));
  await t.throwsAsync(readFileOf(layer, 5));
  const { badChunks } = layer.stats;
  await t.throwsAsync(layer.fetchAll(), { message: /expected chunks as its TOC claims/ });
  t.is(layer.stats.badChunks, badChunks + 2);
  blob.bytes[at] ^= 1;
  await allRight(t, layer);
  t.is(layer.stats.presentBytes, layer.stats.totalBytes);
});

test('a chunk that comes wrong once is fetched again without the reader noticing', async (t) => {
  await using bench = await LayerBench.create();
  const { blob, source } = await estargzLayer(files);
  await using layer = await bench.store.open(source);
  const at = placeOf(layer, 2) + 2_000;
  blob.bytes[at] ^= 1;
  blob.beforePiece = () => {
    if (blob.asked.length === 3) blob.bytes[at] ^= 1;
    blob.beforePiece = blob.asked.length >= 3 ? () => {} : blob.beforePiece;
  };
  t.true(files[2].bytes.equals(await readFileOf(layer, 2)));
  t.is(layer.stats.badChunks, 1);
});

test('errors are not kept: a registry that was down is asked again by the next read', async (t) => {
  await using bench = await LayerBench.create();
  const { blob, source } = await estargzLayer(files);
  await using layer = await bench.store.open(source);
  blob.beforePiece = () => {
    throw new Error('down');
  };
  await t.throwsAsync(readFileOf(layer, 1), { message: 'down' });
  blob.beforePiece = () => {};
  await allRight(t, layer);
});

test('failures do not add up while there is progress', async (t) => {
  await using bench = await LayerBench.create();
  const many = Array.from({ length: 6 }, (_, i) => ({ name: `${i}`, bytes: random.bytes(2_000_000) }));
  const { blob, source } = await estargzLayer(many, { level: 1 });
  await using layer = await bench.store.open(source);
  let failures = 0;
  let present = -1;
  blob.beforePiece = () => {
    if (failures >= 5 || layer.stats.presentBytes === present) return;
    present = layer.stats.presentBytes;
    failures++;
    throw new LazylayerError('UNAVAILABLE', 'down');
  };
  await layer.fetchAll();
  t.is(failures, 5);
});

test('what will not pass is not asked for again and again, however patient', async (t) => {
  await using bench = await LayerBench.create();
  const { blob, source } = await estargzLayer(files);
  await using layer = await bench.store.open(source);
  blob.asked.length = 0;
  blob.beforePiece = () => {
    throw new LazylayerError('NOT_FOUND', 'gone');
  };
  await t.throwsAsync(layer.background(), { message: 'gone' });
  t.true(blob.asked.length <= 3, `${blob.asked.length}`);
});

test('a transfer that ends early, and says nothing, is an error for who reads and who fetches', async (t) => {
  await using bench = await LayerBench.create();
  const { blob, source } = await estargzLayer(files);
  let short = false;
  const reader = () => {
    const whole = blob.reader();
    const stream: typeof whole.stream = (offset, length, options) =>
      whole.stream(offset, short ? Math.min(length, 1_000) : length, options);
    return { ...whole, stream };
  };
  await using layer = await bench.store.open({ ...source, reader });
  short = true;
  await t.throwsAsync(readFileOf(layer, 1), { code: 'DATA_LOSS' });
  short = false;
  await allRight(t, layer);
});

test('an unclean end: what was read before is verified again, and what is wrong on disk is fetched anew', async (t) => {
  await using bench = await LayerBench.create();
  const { blob, source } = await estargzLayer(files);
  const directory = await fill(bench, source, t);
  t.deepEqual((await readdir(directory)).sort(), ['data', 'present', 'tree']);
  await flip(join(directory, 'data'), 3 * 61_440 + 100); // f3: files of 60,000 bytes lie on 61,440 boundaries
  await writeFile(join(directory, 'open'), '');
  await bench.start();
  blob.asked.length = 0;
  await using layer = await bench.store.open(source);
  t.is(layer.stats.presentBytes, 0);
  t.true(files[8].bytes.equals(await readFileOf(layer, 8)));
  t.is(blob.asked.length, 0);
  t.true(files[3].bytes.equals(await readFileOf(layer, 3)));
  t.is(blob.asked.length, 1);
  await allRight(t, layer);
  t.is(blob.asked.length, 1);
});

test('chunks that came after the bits were last saved outlive an unclean end', async (t) => {
  await using bench = await LayerBench.create();
  const { blob, source } = await estargzLayer(files);
  const directory = await fill(bench, source, t);
  const saved = new Presence(new SharedArrayBuffer(Presence.bytes(files.length)));
  saved.set(0);
  await saveBitmap(join(directory, 'present'), saved, files.length, source.tocDigest!);
  await writeFile(join(directory, 'open'), '');
  blob.asked.length = 0;
  await bench.start();
  await using layer = await bench.store.open(source);
  await allRight(t, layer);
  t.is(blob.asked.length, 0);
});

test('after an unclean end a layer is whole if all its chunks are right, and costs no request to find out', async (t) => {
  for (const all of [true, false]) {
    await using bench = await LayerBench.create();
    const { blob, source } = await estargzLayer(files);
    const directory = await fill(bench, source, t);
    if (!all) await flip(join(directory, 'data'), 7 * 61_440 + 100);
    await rm(join(directory, 'present'));
    await writeFile(join(directory, 'open'), '');
    blob.asked.length = 0;
    await bench.start();
    await using layer = await bench.store.open(source);
    t.is(await layer.isWhole(), all);
    t.is(blob.asked.length, 0);
  }
});

test('suspects that nobody read before the next end are suspects still', async (t) => {
  await using bench = await LayerBench.create();
  const { blob, source } = await estargzLayer(files);
  const directory = await fill(bench, source, t);
  await flip(join(directory, 'data'), 5 * 61_440 + 100);
  await writeFile(join(directory, 'open'), '');
  blob.asked.length = 0;
  for (let round = 0; round < 2; round++) {
    await bench.start();
    const layer = await bench.store.open(source);
    t.true(files[round].bytes.equals(await readFileOf(layer, round)));
    await layer[Symbol.asyncDispose]();
    await bench.stop();
  }
  t.is(blob.asked.length, 0);
  await bench.start();
  await using layer = await bench.store.open(source);
  await allRight(t, layer);
  t.is(blob.asked.length, 1);
});

const damages: Record<string, (directory: string) => Promise<void>> = {
  'a flipped bit in present': (d) => flip(join(d, 'present'), 50),
  'an empty present': (d) => truncate(join(d, 'present'), 0),
  'no present': (d) => rm(join(d, 'present')),
  'a flipped bit in tree': (d) => flip(join(d, 'tree'), 200),
  'a short tree': (d) => truncate(join(d, 'tree'), 100),
  'a short data': (d) => truncate(join(d, 'data'), 100_000),
  'no data': (d) => rm(join(d, 'data')),
};
for (const [what, damage] of Object.entries(damages))
  test(`${what} is noticed, and nothing wrong is served`, async (t) => {
    await using bench = await LayerBench.create();
    const { blob, source } = await estargzLayer(files);
    const directory = await fill(bench, source, t);
    await damage(directory);
    await bench.start();
    blob.asked.length = 0;
    await using layer = await bench.store.open(source);
    t.is(blob.asked.length, what.includes('tree') ? 1 : 0);
    await allRight(t, layer);
    // What the data file still holds is verified, not fetched.
    if (!what.includes('data')) t.is(blob.asked.length, what.includes('tree') ? 1 : 0);
  });

/** What strikes, the answer, and how many requests are struck where not all are. */
const struck: [string, FaultAction, 'right' | 'error', number?][] = [
  ['wrong bytes', { kind: 'corrupt', offset: 0, length: 1 << 20 }, 'error'],
  ['a body cut short', { kind: 'truncate', after: 20_000 }, 'right'],
  ['a reset', { kind: 'reset', after: 20_000 }, 'right'],
  ['a stall', { kind: 'stall', after: 20_000 }, 'right', 1],
  ['no answer', { kind: 'hang' }, 'error'],
  ['the whole blob for a range', { kind: 'ignore-range' }, 'right'],
  ['a wrong content-range', { kind: 'content-range', value: 'bytes 0-9/10' }, 'error'],
  ['a slow body', { kind: 'slow', bytesPerMs: 5_000 }, 'right'],
  ['an answer of 500', { kind: 'status', status: 500 }, 'error'],
  ['an answer of 403', { kind: 'status', status: 403 }, 'error'],
  ['more than was asked for', { kind: 'excess', bytes: 100 }, 'error'],
];
for (const [what, action, expected, times] of struck)
  test(`from a registry: ${what} gives the right bytes or an error, and the right bytes once it is over`, async (t) => {
    await using server = await startTestRegistry();
    await using registry = new Registry({
      plainHttp: [server.host],
      timeouts: { headersMs: 300, bodyMs: 300 },
      retry: { attempts: 2, baseMs: 1, maxMs: 2 },
      env: {},
    });
    await using bench = await LayerBench.create();
    const { blob, source } = await estargzLayer(files);
    const descriptor = server.putBlob(blob.bytes);
    const name = { host: server.host, repository: 'test/image' };
    await using layer = await bench.store.open({ ...source, reader: () => registry.openBlob(name, descriptor) });
    const off = server.faults.add({ action, path: '/blobs/', times });
    let errors = 0;
    for (const [i, { bytes }] of files.entries()) {
      const got = await readFileOf(layer, i).catch((error: unknown) => error);
      if (got instanceof Uint8Array) t.true(bytes.equals(got));
      else errors++;
      if (errors > 1) break; // the others fail alike, and each takes its retries
    }
    t.is(errors > 0, expected === 'error');
    off();
    await allRight(t, layer);
  });

test('a TOC that is not the one claimed is refused, and leaves nothing behind', async (t) => {
  await using bench = await LayerBench.create();
  const { source } = await estargzLayer(files);
  await t.throwsAsync(bench.store.open({ ...source, tocDigest: source.diffId }), { message: /TOC: expected sha256:/ });
  t.deepEqual(await readdir(join(bench.root, 'layers')), []);
  await using layer = await bench.store.open(source);
  await allRight(t, layer);
});

test('a tree that nothing vouched for is not served to who asks for verification', async (t) => {
  await using bench = await LayerBench.create();
  const { blob, source } = await estargzLayer(files);
  const trusting: LayerSource = { ...source, tocDigest: undefined, allowNoVerification: true };
  await using unverified = await bench.store.open(trusting);
  t.deepEqual(unverified.lazy, { lazy: true });
  await allRight(t, unverified);
  blob.asked.length = 0;
  await using verified = await bench.store.open({ ...source, tocDigest: undefined });
  t.false(verified.lazy.lazy);
  t.deepEqual(blob.asked, [{ offset: 0, length: source.descriptor.size }] satisfies FakeBlob['asked']);
  await allRight(t, verified);
  await using lazy = await bench.store.open(source);
  t.true(lazy.lazy.lazy);
  t.is(new Set([unverified.slot, verified.slot, lazy.slot]).size, 3);
});
