import test, { type ExecutionContext } from 'ava';
import { WriteAction } from '../containerd/proto/content_pb.js';
import { digestOf } from '../digest/digester.js';
import { codeOf } from '../errors.js';
import { FakeContainerd } from '../testing/containerd.js';
import type { LayerSpec } from '../testing/image.js';
import { configOver, publishImage } from '../testing/published-image.js';
import { Workspace } from '../workspace/workspace.js';
import { pull } from './pull.js';

const layers: LayerSpec[] = [
  { files: [{ path: 'a', content: 'of the base' }] },
  { files: [{ path: 'b', content: 'above it' }] },
  { files: [{ path: 'c', content: 'plain' }], format: 'tar' },
];

async function start(t: ExecutionContext) {
  const published = await publishImage(t, layers);
  const containerd = await FakeContainerd.start(t);
  const workspace = await Workspace.open(configOver(published.root));
  t.teardown(() => workspace[Symbol.asyncDispose]());
  const told: object[] = [];
  let expected = 0;
  const run = (image = published.reference(), signal = new AbortController().signal) =>
    pull(
      { image, address: containerd.address, namespace: 'default', snapshotter: 'lazylayer' },
      {
        workspace,
        prefetch: false,
        ending: new AbortController().signal,
        expect: () => {
          expected++;
          return { [Symbol.asyncDispose]: async () => void expected-- };
        },
        onProgress: (progress) => told.push(progress),
        signal,
      },
    );
  const diffIds = published.image.layers.map(({ diffId }) => diffId);
  const chainIds = [diffIds[0]];
  for (const diffId of diffIds.slice(1)) chainIds.push(digestOf(`${chainIds.at(-1)} ${diffId}`));
  /** Nothing has a name, nothing is held, and nobody goes on. */
  const leftNothing = () => {
    t.deepEqual([...containerd.images], []);
    t.deepEqual([...containerd.leases], []);
    t.deepEqual(
      [...containerd.snapshots.keys()].filter((key) => key.startsWith('extract')),
      [],
    );
    t.is(expected, 0);
  };
  return { ...published, containerd, run, told, chainIds, leftNothing };
}

test('manifest, config, a snapshot for each layer and the name, with what keeps them from being collected', async (t) => {
  const { containerd, run, told, image, chainIds, digests, reference, tocs } = await start(t);
  containerd.unpacks.add(digests[2]);
  const { manifest, config } = image;
  t.deepEqual(await run(), {
    image: reference(),
    digest: manifest.descriptor.digest,
    layers: 3,
    lazyLayers: 2,
    totalBytes: image.layers.reduce((sum, { descriptor }) => sum + descriptor.size, 0),
  });
  t.deepEqual([...containerd.images], [[reference(), manifest.descriptor.digest]]);
  t.deepEqual([...containerd.leases], []);
  t.deepEqual([...containerd.snapshots.keys()], chainIds);
  const [host] = reference().split('/');
  const source = { [`containerd.io/distribution.source.${host}`]: 'img' };
  const kept = (digest: string) => containerd.content.get(digest)!;
  t.deepEqual(kept(manifest.descriptor.digest), {
    bytes: manifest.bytes,
    labels: {
      ...source,
      'containerd.io/gc.ref.content.config': config.descriptor.digest,
      ...Object.fromEntries(digests.map((digest, i) => [`containerd.io/gc.ref.content.l.${i}`, digest])),
    },
  });
  t.deepEqual(kept(config.descriptor.digest), {
    bytes: config.bytes,
    labels: { ...source, 'containerd.io/gc.ref.snapshot.lazylayer': chainIds[2] },
  });
  t.deepEqual(kept(digests[2]), {
    bytes: image.layers[2].bytes,
    labels: { ...source, 'containerd.io/uncompressed': image.layers[2].diffId },
  });
  t.deepEqual(containerd.snapshots.get(chainIds[0]), {
    'containerd.io/snapshot.ref': chainIds[0],
    'containerd.io/snapshot/cri.image-ref': reference(),
    'containerd.io/snapshot/cri.layer-digest': digests[0],
    'containerd.io/snapshot/stargz/toc.digest': tocs[0],
    'containerd.io/snapshot/remote': 'remote snapshot',
  });
  const { size } = image.layers[2].descriptor;
  const download = { kind: 'download', layer: digests[2], reason: 'a test wants it', total: size };
  t.deepEqual(told[0], { ...download, bytes: 0 });
  t.deepEqual(told.at(-1), { ...download, bytes: size });

  // Again: content keeps what it says of itself, and is not written.
  containerd.writes.length = 0;
  kept(config.descriptor.digest).labels[`containerd.io/distribution.source.${host}`] = 'img,other';
  t.is((await run()).lazyLayers, 2);
  t.is(kept(config.descriptor.digest).labels[`containerd.io/distribution.source.${host}`], 'img,other');
  t.deepEqual(new Set(containerd.writes), new Set(['STAT 0']));
});

test('what was written of content before is not written again; content of others is waited for', async (t) => {
  const { containerd, run, image, digests } = await start(t);
  containerd.unpacks.add(digests[2]);
  const { manifest, config } = image;
  containerd.ingests.set(`lazylayer-${config.descriptor.digest}`, config.bytes);
  containerd.ingests.set(`lazylayer-${manifest.descriptor.digest}`, manifest.bytes.subarray(0, 10));
  containerd.ingests.set(`lazylayer-${digests[2]}`, image.layers[2].bytes.subarray(0, 700));
  containerd.locked = 2;
  await run();
  t.true(containerd.writes.includes(`WRITE ${manifest.bytes.byteLength - 10}`), containerd.writes.join());
  t.false(containerd.writes.includes(`WRITE ${config.bytes.byteLength}`));
  t.true(containerd.writes.includes(`WRITE ${image.layers[2].bytes.byteLength - 700}`));
  for (const { descriptor, bytes } of [manifest, config, image.layers[2]])
    t.deepEqual(containerd.content.get(descriptor.digest)!.bytes, bytes);
});

test('bytes that containerd refuses are taken away, so that the next pull begins anew', async (t) => {
  const { containerd, run, image, leftNothing, reference } = await start(t);
  const { config } = image;
  const wrong = Buffer.alloc(config.bytes.byteLength, 'x');
  containerd.ingests.set(`lazylayer-${config.descriptor.digest}`, wrong);
  const error = await t.throwsAsync(run(), { message: /unexpected commit digest/ });
  t.is(codeOf(error), 'FAILED_PRECONDITION');
  leftNothing();
  await run();
  t.true(containerd.images.has(reference()));
});

for (const action of [WriteAction.STAT, WriteAction.WRITE, WriteAction.COMMIT])
  test(`a write that ends before ${WriteAction[action]} is answered is a failure, and is not waited for`, async (t) => {
    const { containerd, run, leftNothing } = await start(t);
    containerd.endsBefore = action;
    const error = await t.throwsAsync(run(), { message: /containerd ended before content sha256:\w+ was written/ });
    t.is(codeOf(error), 'UNAVAILABLE');
    leftNothing();
  });

test('a layer that is served lazily from another blob under the same diffID is not taken for this one', async (t) => {
  const { containerd, run, chainIds, digests, tocs, leftNothing, reference } = await start(t);
  const served = (digest: string, toc: string) =>
    containerd.snapshots.set(chainIds[0], {
      'containerd.io/snapshot/remote': 'remote snapshot',
      'containerd.io/snapshot/cri.image-ref': 'evil.example/img:1',
      'containerd.io/snapshot/cri.layer-digest': digest,
      'containerd.io/snapshot/stargz/toc.digest': toc,
    });
  served(digestOf('another blob'), digestOf('another TOC'));
  const error = await t.throwsAsync(run(), {
    message: /has its diffID already, of another image \(evil\.example\/img:1, .*remove that image first/,
  });
  t.is(codeOf(error), 'FAILED_PRECONDITION');
  leftNothing();
  // The same content, compressed otherwise.
  served(digestOf('another blob'), tocs[0]);
  await run();
  served(digests[0], digestOf('another TOC'));
  await run();
  t.true(containerd.images.has(reference()));
});

test('who leaves ends it, also in the middle of a download', async (t) => {
  const { containerd, run, registry, digests, leftNothing, reference } = await start(t);
  containerd.unpacks.add(digests[2]);
  const free = registry.faults.add({ path: digests[2], action: { kind: 'hang' } });
  const leaving = new AbortController();
  const left = t.throwsAsync(run(reference(), leaving.signal), { message: 'I leave' });
  while (registry.count(digests[2]) === 0) await new Promise((resolve) => setTimeout(resolve, 5));
  leaving.abort(new Error('I leave'));
  await left;
  free();
  leftNothing();
});

test('a tag that the registry cannot be asked for is not turned back', async (t) => {
  const { containerd, run, registry, leftNothing } = await start(t);
  await run();
  containerd.images.clear();
  await registry.stop();
  const error = await t.throwsAsync(run(), { message: /as it was at .*could not be asked/ });
  t.is(codeOf(error), 'UNAVAILABLE');
  leftNothing();
});

test('what fails ends all the rest of it', async (t) => {
  const { containerd, run, registry, image, digests, leftNothing } = await start(t);
  containerd.unpacks.add(digests[2]);
  const { digest, size } = image.config.descriptor;
  containerd.ingests.set(`lazylayer-${digest}`, Buffer.alloc(size, 'x'));
  containerd.locked = 1; // until the download has begun
  registry.faults.add({ path: digests[2], action: { kind: 'hang' } });
  const begun = performance.now();
  await t.throwsAsync(run(), { message: /unexpected commit digest/ });
  t.true(performance.now() - begun < 15_000, 'the request that hangs ends by itself after 30 seconds');
  leftNothing();
});
