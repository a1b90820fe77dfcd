import test, { type ExecutionContext } from 'ava';
import { NONE, ROOT } from '../toc/tree.js';
import { buildImage, type BuiltImage, type ImageSpec } from '../testing/image.js';
import { configOver } from '../testing/published-image.js';
import { startTestRegistry, type TestRegistry } from '../testing/registry.js';
import { temporaryDirectory } from '../testing/temporary.js';
import { until } from '../testing/until.js';
import type { Layer } from '../layer/layer.js';
import { Workspace } from './workspace.js';

async function served(t: ExecutionContext, spec: ImageSpec) {
  const registry = await startTestRegistry();
  t.teardown(() => registry.stop());
  const image = await buildImage(spec);
  put(registry, image, '1');
  return { registry, image, reference: `${registry.host}/img:1` };
}

function put(registry: TestRegistry, image: BuiltImage, tag: string): void {
  for (const blob of image.blobs.values()) registry.putBlob(blob.bytes);
  registry.putManifest('img', undefined, image.manifest.bytes, image.manifest.descriptor.mediaType);
  registry.putManifest('img', tag, image.index.bytes, image.index.descriptor.mediaType);
}

const open = (root: string) => Workspace.open(configOver(root));

async function contentOf(layer: Layer, name: string): Promise<string> {
  const inode = layer.tree.lookup(ROOT, Buffer.from(name));
  if (inode === NONE) return 'missing';
  return Buffer.from(await layer.read(inode, 0, 1000)).toString();
}

test('an image of N layers opens by 3 + N requests, again by its tag with one, and by its digest with none', async (t) => {
  const layers = [[{ path: 'a', content: 'A' }], [{ path: 'b', content: 'B' }]];
  const { registry, image, reference } = await served(t, { layers });
  const root = await temporaryDirectory(t, 'workspace');
  const digest = `${registry.host}/img@${image.manifest.descriptor.digest}`;
  {
    await using workspace = await open(root);
    for (const name of [reference, digest])
      for (const layer of await workspace.openLayers(await workspace.image(name))) await layer[Symbol.asyncDispose]();
    t.is(
      registry.requests.length,
      3 + layers.length + 2,
      'the digest is a name of its own: its manifest and config once more',
    );
  }
  registry.reset();
  await using workspace = await open(root);
  await workspace.image(reference);
  t.is(registry.requests.length, 1);
  const opened = await workspace.openLayers(await workspace.image(digest));
  t.is(registry.requests.length, 1);
  for (const layer of opened) await layer[Symbol.asyncDispose]();
});

test('of the end of a blob, more is asked for where it is the lowest layer', async (t) => {
  const large = (path: string) => ({ files: [{ path, size: 36 << 20 }], writer: { level: 0 } });
  const { registry, image, reference } = await served(t, { layers: [large('a'), large('b')] });
  await using workspace = await open(await temporaryDirectory(t, 'workspace'));
  const opened = await workspace.openLayers(await workspace.image(reference, { layers: {} }));
  for (const layer of opened) await layer[Symbol.asyncDispose]();
  const lengths = image.layers.map(({ descriptor: { digest } }) => {
    const [, from, to] = /=(\d+)-(\d+)/.exec(registry.requests.find(({ path }) => path.includes(digest))?.range ?? '')!;
    return Number(to) - Number(from) + 1;
  });
  t.deepEqual(lengths, [Math.ceil(image.layers[0].descriptor.size / 128), 131_072]);
});

test('layers that are going to be opened are asked for as soon as the manifest is there', async (t) => {
  const { registry, image, reference } = await served(t, {
    layers: [[{ path: 'a', content: 'A' }], [{ path: 'b', content: 'B' }]],
  });
  const [low, high] = image.layers.map((layer) => `/blobs/${layer.descriptor.digest}`);
  const config = `/blobs/${image.config.descriptor.digest}`;
  const end = registry.faults.add({ path: config, action: { kind: 'hang' } });
  await using workspace = await open(await temporaryDirectory(t, 'workspace'));
  const leaving = new AbortController();
  const resolving = workspace.image(reference, { layers: {}, signal: leaving.signal });
  const left = t.throwsAsync(resolving, { message: 'I leave' });
  const counts = () => [low, high, config].map((path) => registry.count(path));
  await until(() => !counts().includes(0));
  t.deepEqual(counts(), [1, 1, 1]);
  leaving.abort(new Error('I leave'));
  await left;
  end();
  const layers = await workspace.openLayers(await workspace.image(reference, { layers: {} }));
  t.deepEqual(counts(), [1, 1, 2]);
  for (const layer of layers) await layer[Symbol.asyncDispose]();
});

test('a tag is asked for once for its image and its layers', async (t) => {
  const { registry, reference } = await served(t, { layers: [[{ path: 'a', content: 'A' }]] });
  await using workspace = await open(await temporaryDirectory(t, 'workspace'));
  const image = await workspace.image(reference);
  await using _ = (await workspace.openLayers(image))[0];
  registry.reset();
  for (let i = 0; i < 100; i++) await workspace.image(reference, { layers: {} });
  t.is(registry.requests.length, 100);
});

test('of an image that one layer is wanted of, those from it up are asked for', async (t) => {
  const { registry, image, reference } = await served(t, {
    layers: ['a', 'b', 'c'].map((path) => [{ path, content: path }]),
  });
  await using workspace = await open(await temporaryDirectory(t, 'workspace'));
  const digests = image.layers.map((layer) => layer.descriptor.digest);
  await workspace.manifestWithLayer(reference, digests[1], { layers: {} });
  const asked = () => digests.map((digest) => registry.count(digest));
  await until(() => asked()[2] !== 0);
  t.deepEqual(asked(), [0, 1, 1]);
});

test('a tag is answered from disk, with a warning, while the registry is down', async (t) => {
  const { registry, image, reference } = await served(t, { layers: [[{ path: 'a', content: 'A' }]] });
  await using workspace = await open(await temporaryDirectory(t, 'workspace'));
  t.is((await workspace.image(reference)).warning, undefined);
  await registry.stop();
  const offline = await workspace.image(reference);
  t.is(offline.digest, image.manifest.descriptor.digest);
  t.regex(offline.warning!, /as it was at 20.*: the registry could not be asked/);
  await t.throwsAsync(workspace.image(`${registry.host}/img:other`), { code: 'UNAVAILABLE' });
});

test('a layer whose TOC lies in the TOC image beside its image', async (t) => {
  const files = [{ path: 'a', content: 'external' }];
  const { registry, image, reference } = await served(t, { layers: [{ files, writer: { footer: 'external' } }] });
  const [layer] = image.layers;
  const tocs = await buildImage({ layers: [] });
  const toc = registry.putBlob(layer.tocBlob!, layer.descriptor.mediaType);
  const manifest = {
    ...(JSON.parse(tocs.manifest.bytes.toString()) as object),
    layers: [{ ...toc, annotations: { 'containerd.io/snapshot/stargz/layer.digest': layer.descriptor.digest } }],
  };
  const config = registry.putBlob(
    Buffer.from(
      JSON.stringify({ architecture: 'amd64', os: 'linux', rootfs: { type: 'layers', diff_ids: [layer.diffId] } }),
    ),
  );
  const bytes = Buffer.from(JSON.stringify({ ...manifest, config }));
  registry.putManifest('img', '1-esgztoc', bytes, tocs.manifest.descriptor.mediaType);
  await using workspace = await open(await temporaryDirectory(t, 'workspace'));
  const [opened] = await workspace.openLayers(await workspace.image(reference));
  t.true(opened.lazy.lazy);
  t.is(await contentOf(opened, 'a'), 'external');
  await opened[Symbol.asyncDispose]();
});

test('a layer is looked for where its tag pointed before it is asked where it points now', async (t) => {
  const first = await served(t, { layers: [[{ path: 'a', content: 'first' }]] });
  const second = await buildImage({ layers: [[{ path: 'a', content: 'second' }]] });
  await using workspace = await open(await temporaryDirectory(t, 'workspace'));
  const wanted = first.image.layers[0].descriptor.digest;
  const found = await workspace.manifestWithLayer(first.reference, wanted);
  first.registry.reset();
  t.is((await found.image()).digest, first.image.manifest.descriptor.digest);
  t.is(first.registry.requests.length, 1, 'the config comes when it is wanted');
  put(first.registry, second, '1');
  first.registry.reset();
  await workspace.manifestWithLayer(first.reference, wanted);
  t.is(first.registry.requests.length, 0);
  const moved = await workspace.manifestWithLayer(first.reference, second.layers[0].descriptor.digest);
  t.is((await moved.image()).digest, second.manifest.descriptor.digest);
  const pinned = await workspace.manifestWithLayer(first.reference, wanted, {
    manifest: first.image.manifest.descriptor.digest,
  });
  t.is((await pinned.image()).digest, first.image.manifest.descriptor.digest);
  await t.throwsAsync(workspace.manifestWithLayer(first.reference, wanted), { code: 'NOT_FOUND' });
});

test('when one layer fails, none stays open', async (t) => {
  const { registry, image, reference } = await served(t, {
    layers: [[{ path: 'a', content: 'A' }], [{ path: 'b', content: 'B' }]],
  });
  registry.faults.add({ path: image.layers[1].descriptor.digest, action: { kind: 'status', status: 500 } });
  await using workspace = await open(await temporaryDirectory(t, 'workspace'));
  await t.throwsAsync(workspace.openLayers(await workspace.image(reference)), { code: 'UNAVAILABLE' });
  t.true((await workspace.cacheUsage()).layers.every((layer) => !layer.inUse));
  registry.faults.clear();
  const layers = await workspace.openLayers(await workspace.image(reference));
  t.is(await contentOf(layers[1], 'b'), 'B');
  for (const layer of layers) await layer[Symbol.asyncDispose]();
});
