import { randomBytes } from 'node:crypto';
import { open, readdir, readFile, writeFile } from 'node:fs/promises';
import { request } from 'node:http';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import test, { type ExecutionContext } from 'ava';
import { codeOf } from '../src/errors.js';
import { buildImage } from '../src/testing/image.js';
import { startTestRegistry } from '../src/testing/registry.js';
import { mountSnapshot } from '../src/testing/snapshot-mounts.js';
import { connectSnapshots } from '../src/testing/snapshots-client.js';
import { Scene } from './support/scene.js';
import { ServedScene } from './support/serve.js';
import { eventually } from './support/tools.js';

const layerCount = 40;
const contents = Array.from({ length: layerCount }, () => randomBytes(100_000));
const chain = (layer: number) => `chain-${layer}`;

interface Prepared {
  readonly scene: Scene;
  readonly served: ServedScene;
  /** Of each layer, lowest first. */
  readonly slots: readonly string[];
  /** Starts the daemon with layers that sleep after so many seconds. */
  readonly start: (idleSeconds: number) => Promise<void>;
  /** Layers that are shown, and in memory, as the metrics say. */
  readonly counts: () => Promise<{ shown: number; awake: number }>;
  /** The file that layer `i` alone has. */
  readonly file: (layer: number) => string;
}

/** A daemon that has fetched an image of many layers, each with a file of its own, and is stopped, as is the registry. */
async function prepared(t: ExecutionContext, backend: string): Promise<Prepared> {
  t.timeout(180_000);
  const registry = await startTestRegistry();
  t.teardown(() => registry.stop());
  const image = await buildImage({
    layers: contents.map((content, i) => ({ files: [{ path: `directory/own-${i}`, content }] })),
  });
  for (const blob of image.blobs.values()) registry.putBlob(blob.bytes);
  registry.putManifest('img', '1', image.manifest.bytes, image.manifest.descriptor.mediaType);

  const scene = await Scene.open(t);
  const served = new ServedScene(t, scene);
  const socketPath = join(scene.directory, 'metrics.sock');
  const start = async (idleSeconds: number) => {
    const config = [
      ['[fuse]', `backend = "${backend}"`, `layer_idle_sec = ${idleSeconds}`, 'erofs = false'],
      ['[fetch]', 'background_quiet_sec = 0'],
      ['[metrics]', `address = "${socketPath}"`],
    ];
    await writeFile(scene.config, config.flat().join('\n'));
    await served.start();
  };
  const counts = async () => {
    const text = await metrics(socketPath);
    const value = (name: string) => Number(new RegExp(`^${name} (\\d+)$`, 'm').exec(text)?.[1]);
    return { shown: value('lazylayer_layers_open'), awake: value('lazylayer_layers_awake') };
  };

  await start(0.2);
  const slots: string[] = [];
  {
    await using client = connectSnapshots(served.address);
    for (const [i, { descriptor }] of image.layers.entries()) {
      const labels = {
        'containerd.io/snapshot.ref': chain(i),
        'containerd.io/snapshot/remote/stargz.reference': `${registry.host}/img:1`,
        'containerd.io/snapshot/remote/stargz.digest': descriptor.digest,
      };
      const answer = await client
        .prepare(`extract-${i}`, i === 0 ? '' : chain(i - 1), { labels })
        .then(String, (error: unknown) => codeOf(error));
      if (answer !== 'ALREADY_EXISTS') throw new Error(`layer ${i}: ${answer}`);
      const [only] = await client.view(`view-${i}`, chain(i));
      const lower = only.options.find((option) => option.startsWith('lowerdir='));
      slots.push((lower?.slice('lowerdir='.length).split(':')[0] ?? only.source).split('/').at(-1)!);
      await client.remove(`view-${i}`);
    }
  }
  await eventually('all is fetched, and nothing is in memory', async () =>
    (await counts()).awake === 0 ? true : undefined,
  );
  t.is(await served.stop(), 0);
  await registry.stop();
  return {
    scene,
    served,
    slots,
    start,
    counts,
    file: (layer) => join(scene.root, 'fuse', 'l', slots[layer], 'directory', `own-${layer}`),
  };
}

function metrics(socketPath: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const asked = request({ socketPath, path: '/metrics' }, (answer) => {
      let body = '';
      answer.setEncoding('utf8').on('data', (piece: string) => (body += piece));
      answer.once('end', () => resolve(body));
    });
    asked.once('error', reject).end();
  });
}

for (const backend of ['kernel', 'fuse-native']) {
  test.serial(
    `${backend}: a start opens no layer, a touch opens one, a container those that it is made of`,
    async (t) => {
      const { scene, served, start, counts, file } = await prepared(t, backend);
      await start(3600);
      t.deepEqual(await counts(), { shown: layerCount, awake: 0 });
      t.is((await readdir(join(scene.root, 'fuse', 'l'))).length, layerCount);
      t.deepEqual(await counts(), { shown: layerCount, awake: 0 }, 'a listing opens none');
      t.true((await readFile(file(7))).equals(contents[7]));
      t.deepEqual(await counts(), { shown: layerCount, awake: 1 });
      await using client = connectSnapshots(served.address);
      const mounts = await client.view('container', chain(2));
      const target = join(scene.directory, 'container');
      const unmount = await mountSnapshot(t, mounts, target);
      for (const layer of [0, 1, 2])
        t.true((await readFile(join(target, 'directory', `own-${layer}`))).equals(contents[layer]));
      t.deepEqual((await readdir(join(target, 'directory'))).sort(), ['own-0', 'own-1', 'own-2']);
      t.deepEqual(await counts(), { shown: layerCount, awake: 4 });
      await unmount();
    },
  );

  test.serial(`${backend}: what is read is right before, while and after layers fall asleep`, async (t) => {
    const { start, counts, file } = await prepared(t, backend);
    await start(0.05);
    await using held = await open(file(3));
    // How often fewer layers were in memory than the moment before, while readers went on. They stay with a layer for some reads and pause
    // for as long as a layer takes to fall asleep, give or take, so that they come to layers before, while and after.
    let fell = 0;
    let before = 0;
    const wanted = 2 * layerCount;
    const end = Date.now() + 90_000;
    const readers = Array.from({ length: 4 }, async (_, reader) => {
      for (let round = 0; fell < wanted && Date.now() < end; round++) {
        const layer = ((round >> 2) * 7 + reader * 11) % layerCount;
        // Past the page cache, so that each read comes to the daemon.
        await using handle = await open(file(layer), 0o40000);
        const offset = (round * 4096) % 90_000;
        const { buffer, bytesRead } = await handle.read(Buffer.alloc(8192), 0, 8192, offset);
        if (!buffer.subarray(0, bytesRead).equals(contents[layer].subarray(offset, offset + 8192)))
          t.fail(`layer ${layer} at ${offset}`);
        const { awake } = await counts();
        if (awake < before) fell += before - awake;
        before = awake;
        await sleep((round * 37) % 100);
      }
    });
    await Promise.all(readers);
    t.true(fell >= wanted, `${fell} layers fell asleep while readers went on`);
    await eventually('nothing is in memory', async () => ((await counts()).awake === 0 ? true : undefined));
    const { buffer } = await held.read(Buffer.alloc(100_000), 0, 100_000, 0);
    t.true(buffer.equals(contents[3]), 'files that were open stay open');
  });
}
