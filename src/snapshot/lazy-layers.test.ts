import test, { type ExecutionContext } from 'ava';
import { ServedLayers } from '../fuse/served.js';
import type { LayerSpec } from '../testing/image.js';
import { configOver, publishImage } from '../testing/published-image.js';
import type { TestRegistry, TestRegistryOptions } from '../testing/registry.js';
import { Workspace } from '../workspace/workspace.js';
import { LazyLayers, type LazyLayersOptions } from './lazy-layers.js';
import type { PreparedLayer } from './remote-layers.js';
import { until } from '../testing/until.js';

const layers: LayerSpec[] = [
  { files: [{ path: 'a', size: 60_000 }] }, // too large to come with its TOC
  { files: [{ path: 'b', size: 60_000 }] },
  { files: [{ path: 'c', content: 'plain' }], format: 'gzip' },
];

async function start(t: ExecutionContext, options?: TestRegistryOptions, specs = layers) {
  const published = await publishImage(t, specs, options);
  const labelsOf = (index: number) => ({
    'containerd.io/snapshot/remote/stargz.reference': published.reference(),
    'containerd.io/snapshot/remote/stargz.digest': published.digests[index],
  });
  return { ...published, labelsOf };
}

async function open(root: string, options: Pick<LazyLayersOptions, 'prefetchLabel'> = {}) {
  const workspace = await Workspace.open(configOver(root));
  const served = new ServedLayers();
  const lazy = new LazyLayers({ workspace, served, fuseRoot: '/fuse', prefetch: true, background: false, ...options });
  return { workspace, served, lazy };
}

const asPrepared = (t: ExecutionContext, found: PreparedLayer | { reason: string }): PreparedLayer => {
  if ('reason' in found) throw new Error(t.title + ': ' + found.reason);
  return found;
};

async function down(registry: TestRegistry, work: () => Promise<void>) {
  await registry.stop();
  try {
    await work();
  } finally {
    await registry.start();
  }
}

test('the first layer asked for brings the others along; what cannot be lazy says why; requests are few', async (t) => {
  const { root, registry, labelsOf } = await start(t);
  const { workspace, served, lazy } = await open(root);
  t.teardown(() => workspace[Symbol.asyncDispose]());
  const first = asPrepared(t, await lazy.prepare(labelsOf(0)));
  const second = asPrepared(t, await lazy.prepare(labelsOf(1)));
  await Promise.all([first.shown, second.shown]);
  t.not(await lazy.lower(first.record, false), await lazy.lower(second.record, false));
  t.is(served.initial().layers.length, 2);
  const third = await lazy.prepare(labelsOf(2));
  t.regex((third as { reason: string }).reason, /no TOC digest in its annotations/);
  // The manifest, and the end of each eStargz layer.
  t.is(registry.requests.length, 3);
  t.deepEqual(await lazy.prepare({}), { reason: 'no labels tell of the image and the layer' });
  await lazy.release(first.record);
  await lazy.release(second.record);
  t.is(served.initial().layers.length, 0);
});

const tocLabel = 'containerd.io/snapshot/stargz/toc.digest';
const layersLabel = 'containerd.io/snapshot/remote/stargz.layers';
const ends = (registry: TestRegistry) =>
  registry.requests.flatMap(({ range }) => range ?? []).filter((r) => /=-/.test(r));

test('TOCs are asked for beside the manifest where the client says that there are some', async (t) => {
  const { root, registry, labelsOf, image } = await start(t);
  const { workspace, lazy } = await open(root);
  t.teardown(() => workspace[Symbol.asyncDispose]());
  const digests = image.layers.map(({ descriptor }) => descriptor.digest);
  const labels = { ...labelsOf(0), [layersLabel]: digests.join(','), [tocLabel]: digests[0] };
  const free = registry.faults.add({ action: { kind: 'hang' }, path: '/manifests/' });
  const leaving = new AbortController();
  const left = t.throwsAsync(lazy.prepare(labels, leaving.signal), { message: 'I leave' });
  await until(() => registry.requests.length === 4);
  t.is(registry.count('/manifests/'), 1);
  t.deepEqual(ends(registry).sort(), ['bytes=-131072', 'bytes=-131072', 'bytes=-524288']);
  leaving.abort(new Error('I leave'));
  await left;
  free();
  asPrepared(t, await lazy.prepare(labels));
  asPrepared(t, await lazy.prepare(labelsOf(1)));
  // The manifest once more. The plain layer was asked for too, as labels do not tell: in vain.
  t.is(registry.requests.length, 5);
});

test('no end is asked for blindly: without the label, with other places, of who wants a login, of an image that is known', async (t) => {
  const cases: [object, TestRegistryOptions, boolean][] = [
    [{ [tocLabel]: undefined }, {}, false],
    [{ 'containerd.io/snapshot/remote/urls': 'http://127.0.0.1:1/blob' }, {}, false],
    [{}, { auth: { kind: 'bearer' } }, false],
    [{}, {}, true],
  ];
  for (const [more, options, known] of cases) {
    const { root, registry, labelsOf, image } = await start(t, options);
    const { workspace, lazy } = await open(root);
    t.teardown(() => workspace[Symbol.asyncDispose]());
    const [{ descriptor }] = image.layers;
    const reference = `${registry.host}/img:1`;
    if (options.auth !== undefined) await workspace.probe({ reference, descriptor });
    if (known) await workspace.image(reference);
    const labels = Object.fromEntries(
      Object.entries({ ...labelsOf(0), [tocLabel]: descriptor.digest, ...more }).filter(
        ([, value]) => value !== undefined,
      ),
    ) as Record<string, string>;
    asPrepared(t, await lazy.prepare(labels));
    t.deepEqual(ends(registry), []);
  }
});

test('what the landmark of a layer asks for does not wait for the layer’s turn', async (t) => {
  const files = (i: number) => [`f${i}`, `g${i}`].map((path) => ({ path, size: 60_000 }));
  const marked: LayerSpec[] = [0, 1].map((i) => ({ files: files(i), prefetch: 1 }));
  const { root, registry, labelsOf, image } = await start(t, {}, marked);
  const { workspace, lazy } = await open(root);
  t.teardown(() => workspace[Symbol.asyncDispose]());
  asPrepared(t, await lazy.prepare(labelsOf(0)));
  const upper = image.layers[1].descriptor.digest;
  // Its TOC, and its file.
  await until(() => registry.count(upper) === 2);
  t.is(registry.count(image.config.descriptor.digest), 0, 'such an image needs no config to start');
});

test('the answer comes when the TOC is verified; of a malformed one no tree is made, and the next answer is a refusal', async (t) => {
  // Its digest is right, and no extraction could place it.
  const { root, labelsOf } = await start(t, {}, [{ files: [{ path: '../outside', size: 60_000 }] }]);
  const { workspace, served, lazy } = await open(root);
  t.teardown(() => workspace[Symbol.asyncDispose]());
  const { shown } = asPrepared(t, await lazy.prepare(labelsOf(0)));
  await t.throwsAsync(shown, { message: /expected a name without "\.\." in it/ });
  t.like(await lazy.prepare(labelsOf(0)), { code: 'DATA_LOSS' });
  t.is(served.initial().layers.length, 0);
});

test('a TOC that is not the one claimed is refused at once', async (t) => {
  const { root, registry, labelsOf, image } = await start(t);
  const { workspace, lazy } = await open(root);
  t.teardown(() => workspace[Symbol.asyncDispose]());
  const { digest, size } = image.layers[0].descriptor;
  registry.faults.add({ path: digest, action: { kind: 'corrupt', offset: size - 150, length: 1 } });
  t.true('reason' in (await lazy.prepare(labelsOf(0))));
});

test('a blob that nothing vouches for is refused although it is served by its TOC, and what is served stays', async (t) => {
  const { root, registry, labelsOf, image } = await start(t);
  const { workspace, served, lazy } = await open(root);
  t.teardown(() => workspace[Symbol.asyncDispose]());
  const first = asPrepared(t, await lazy.prepare(labelsOf(0)));
  await first.shown;
  const [{ descriptor }] = image.layers;
  const other = { ...descriptor, annotations: undefined };
  const manifest = { ...(JSON.parse(image.manifest.bytes.toString()) as object), layers: [other] };
  registry.putManifest('img', '2', Buffer.from(JSON.stringify(manifest)), image.manifest.descriptor.mediaType);
  const labels = {
    ...labelsOf(0),
    'containerd.io/snapshot/remote/stargz.reference': `${registry.host}/img:2`,
  };
  // Nothing vouches for it, whatever its labels say: they may be the words of whoever made the image.
  const unverified = await lazy.prepare({ ...labels, 'containerd.io/snapshot/remote/stargz.skipverify': 'true' });
  t.regex((unverified as { reason: string }).reason, /no TOC digest in its annotations/);
  t.is(served.initial().layers.length, 1);
  await lazy.release(first.record);
  t.is(served.initial().layers.length, 0);
});

test('a client may leave until the TOC is verified, and no later', async (t) => {
  const { root, registry, labelsOf } = await start(t);
  const { workspace, lazy } = await open(root);
  t.teardown(() => workspace[Symbol.asyncDispose]());
  const labels = labelsOf(0);
  const free = registry.faults.add({
    action: { kind: 'hang' },
    path: labels['containerd.io/snapshot/remote/stargz.digest'],
  });
  const early = new AbortController();
  const left = t.throwsAsync(lazy.prepare(labels, early.signal), { message: 'I leave' });
  await until(() => registry.count(labels['containerd.io/snapshot/remote/stargz.digest']) === 1);
  early.abort(new Error('I leave'));
  await left;
  free();
  const late = new AbortController();
  const { shown, record } = asPrepared(t, await lazy.prepare(labels, late.signal));
  late.abort(new Error('I leave'));
  await shown;
  t.regex(await lazy.lower(record, false), /^\/fuse\/l\/\d+$/);
  t.true(lazy.usage(record).size > 0);
  t.deepEqual(await lazy.root(record), { mode: 0o755, uid: 0, gid: 0 });
  await lazy.release(record);
  t.is(lazy.usage(record).size, 0);
  await t.throwsAsync(lazy.root(record), { code: 'NOT_FOUND' });
});

test('a restart brings layers back without a request, in the same places; unreachable and uncached ones fail the check', async (t) => {
  const { root, registry, labelsOf } = await start(t);
  const before = await open(root);
  const prepared = asPrepared(t, await before.lazy.prepare(labelsOf(0)));
  await prepared.shown;
  const place = await before.lazy.lower(prepared.record, false);
  await before.lazy.release(prepared.record);
  await before.workspace[Symbol.asyncDispose]();
  registry.reset();

  const { workspace, served, lazy } = await open(root);
  t.teardown(() => workspace[Symbol.asyncDispose]());
  const record = JSON.parse(JSON.stringify(prepared.record)) as unknown;
  await lazy.restore(record).shown;
  t.is(await lazy.lower(record, false), place);
  t.is(registry.requests.length, 0);
  t.deepEqual(served.counts, { shown: 1, awake: 0 }, 'known by its head alone');
  await down(registry, async () => {
    await t.throwsAsync(lazy.check(record), { code: 'UNAVAILABLE' });
  });
  t.deepEqual(served.counts, { shown: 1, awake: 1 }, 'a container is about to start');
  await lazy.check(record);
  t.is(registry.requests.length, 1);
  await lazy.check(record);
  t.is(registry.requests.length, 1, 'a registry that just answered is not asked again');
  const [{ slot }] = served.initial().layers;
  await served.using(slot, (layer) => layer.fetchAll());
  await down(registry, () => lazy.check(record));
  await lazy.release(record);
  await t.throwsAsync(lazy.check(record), { code: 'NOT_FOUND' });
});

test('two snapshots of one layer share it; it goes with the last', async (t) => {
  const { root, labelsOf } = await start(t);
  const { workspace, served, lazy } = await open(root);
  t.teardown(() => workspace[Symbol.asyncDispose]());
  const one = asPrepared(t, await lazy.prepare(labelsOf(0)));
  const two = asPrepared(t, await lazy.prepare(labelsOf(0)));
  await Promise.all([one.shown, two.shown]);
  t.is(await lazy.lower(one.record, false), await lazy.lower(two.record, false));
  await lazy.release(one.record);
  t.is(served.initial().layers.length, 1);
  await lazy.release(two.record);
  t.is(served.initial().layers.length, 0);
});

test('a layer that the mount does not take is refused each time, and taken once the mount does', async (t) => {
  const { root, labelsOf } = await start(t);
  const { workspace, served, lazy } = await open(root);
  t.teardown(() => workspace[Symbol.asyncDispose]());
  const add = served.add.bind(served);
  served.add = async (...what) => {
    await add(...what);
    throw new Error('not now');
  };
  const both = await Promise.all([lazy.prepare(labelsOf(0)), lazy.prepare(labelsOf(0))]);
  for (const answer of both) await t.throwsAsync(asPrepared(t, answer).shown, { message: 'not now' });
  t.like(await lazy.prepare(labelsOf(0)), { reason: 'not now' }, 'this time the answer waits for the end');
  t.is(served.initial().layers.length, 0);
  served.add = add;
  asPrepared(t, await lazy.prepare(labelsOf(0)));
  t.is(served.initial().layers.length, 1);
});

test('labels say where else a layer is, and that is kept over a restart', async (t) => {
  const { root, registry, labelsOf } = await start(t);
  const digest = labelsOf(0)['containerd.io/snapshot/remote/stargz.digest'];
  const urls = `${registry.url}/v2/elsewhere/blobs/${digest}`;
  const before = await open(root);
  const labels = { ...labelsOf(0), 'containerd.io/snapshot/remote/urls': urls };
  const { record } = asPrepared(t, await before.lazy.prepare(labels));
  t.is(registry.count(`/img/blobs/${digest}`), 0);
  t.is(registry.count('/elsewhere/'), 1);
  await before.lazy.release(record);
  await before.workspace[Symbol.asyncDispose]();

  const { workspace, lazy } = await open(root);
  t.teardown(() => workspace[Symbol.asyncDispose]());
  const kept = JSON.parse(JSON.stringify(record)) as unknown;
  await lazy.restore(kept).shown;
  await lazy.check(kept);
  t.is(registry.count(`/img/blobs/${digest}`), 0);
  t.is(registry.count('/elsewhere/'), 2);
  await lazy.release(kept);
});

for (const prefetchLabel of [true, false])
  test(`a label's bytes are fetched where that is configured: ${prefetchLabel}`, async (t) => {
    const { root, registry, labelsOf } = await start(t);
    const { workspace, lazy } = await open(root, { prefetchLabel });
    t.teardown(() => workspace[Symbol.asyncDispose]());
    const labels = { ...labelsOf(1), 'containerd.io/snapshot/remote/stargz.prefetch': '10485760' };
    const { record } = asPrepared(t, await lazy.prepare(labels));
    t.is((record as { prefetchBytes?: number }).prefetchBytes, prefetchLabel ? 10_485_760 : undefined);
    const requests = () => registry.count(labels['containerd.io/snapshot/remote/stargz.digest']);
    if (prefetchLabel) await until(() => requests() === 2);
    await lazy.release(record);
    t.is(requests(), prefetchLabel ? 2 : 1);
  });
