import { readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { manifestOf } from './support/docker-registry.js';
import type { OciManifest } from './support/oci-layout.js';
import { PodmanScene } from './support/podman.js';
import { stageFor, type Stage } from './support/stage.js';
import { run } from './support/tools.js';

const stage = stageFor(test);

interface Place extends Stage {
  readonly store: PodmanScene;
}

async function open(t: ExecutionContext, config = 'background = false\n'): Promise<Place> {
  const staged = await stage(t, config);
  const store = await PodmanScene.open(t, staged.scene, staged.proxy.host);
  await store.start();
  return { ...staged, store };
}

/** Requests by lazylayer; those of Podman are of the manifest and the config. */
const ours = ({ proxy }: Place) => proxy.requests.filter(({ agent }) => agent?.includes('lazylayer') === true);
/** Layers that Podman downloaded, by digest. */
const pulledWhole = ({ proxy }: Place, { layers }: OciManifest) =>
  layers.filter(({ digest }) =>
    proxy.requests.some(
      (r) => r.agent?.includes('lazylayer') !== true && r.path.endsWith(digest) && r.method === 'GET',
    ),
  );

/** MiB that Podman keeps on disk. */
async function storedMiB({ store }: Place): Promise<number> {
  return Number((await run('du', ['-xsm', join(store.storage, 'root')])).split('\t')[0]);
}

const answer = ['sh', '-c', 'echo $((6 * 7)); head -c 3 /etc/debian_version'];

test.serial('pulled, run, removed and pulled again: lazy both times, in few requests and bytes', async (t) => {
  const place = await open(t);
  const { store, proxy } = place;
  const image = place.image('lazy');
  const manifest = await manifestOf(place.proxy.host, 'lazy');
  const size = manifest.layers.reduce((sum, layer) => sum + layer.size, 0);
  for (let round = 0; round < 2; round++) {
    proxy.reset();
    const id = (await store.podman('pull', '--quiet', image)).trim();
    t.deepEqual(pulledWhole(place, manifest), []);
    t.true(ours(place).length <= 4 + manifest.layers.length, `${ours(place).length} requests`);
    t.true(proxy.bytes < size / 20, `${proxy.bytes} of ${size} bytes`);
    t.is(await store.podman('run', '--rm', image, ...answer), '42\n12.');
    t.deepEqual(pulledWhole(place, manifest), []);
    t.true((await storedMiB(place)) < 2);
    const removed = await store.tryPodman('rmi', image);
    t.is(removed.status, 0);
    t.is(removed.stderr, '', 'uses are given back without a complaint');
    t.true(removed.stdout.toString().includes(id));
    t.deepEqual(await readdir(join(place.scene.root, 'store')), [], 'nothing is in use any more');
  }
  t.is(await store.stop(), 0);
  t.deepEqual(
    (await place.scene.mounted()).filter((target) => !target.startsWith(store.storage)),
    [],
  );
});

test.serial(
  'a daemon that is started anew, and one that was killed, know what is in use, without the registry',
  async (t) => {
    const place = await open(t);
    const { store, proxy } = place;
    const image = place.image('lazy');
    await store.podman('run', '--rm', image, ...answer);
    t.is(await store.stop(), 0);
    await proxy.switchOff();
    await store.start();
    t.is(await store.podman('run', '--rm', image, ...answer), '42\n12.');
    await place.scene.killAll();
    await store.start();
    t.is(await store.podman('run', '--rm', image, ...answer), '42\n12.');
    // The holder starts another serving process, on the same connection.
    process.kill((await place.scene.processes()).serving!, 'SIGKILL');
    t.is(await store.podman('run', '--rm', image, ...answer), '42\n12.');
    await store.podman('rmi', image);
    t.deepEqual(await readdir(join(place.scene.root, 'store')), []);
  },
);

test.serial('what cannot be lazy is pulled by Podman, layer by layer, and the log says why', async (t) => {
  const place = await open(t);
  const { store } = place;
  const manifest = await manifestOf(place.proxy.host, 'mixed');
  await store.podman('pull', '--quiet', place.image('mixed'));
  t.is(await store.podman('run', '--rm', place.image('mixed'), ...answer), '42\n12.');
  t.deepEqual(
    pulledWhole(place, manifest).map(({ digest }) => digest),
    manifest.layers.slice(1).map(({ digest }) => digest),
  );
  t.regex(store.said(), /"reason":"[^"]*no TOC digest in its annotations/);
});

test.serial('an image is saved, built upon, and shares layers with another', async (t) => {
  const place = await open(t);
  const { store, proxy, scene } = place;
  await store.podman('pull', '--quiet', place.image('lazy'));
  await store.podman('pull', '--quiet', place.image('sibling'));
  t.deepEqual(pulledWhole(place, await manifestOf(place.proxy.host, 'sibling')), []);
  const file = join(scene.directory, 'Containerfile');
  await writeFile(file, `FROM ${place.image('lazy')}\nRUN ["sh", "-c", "rm /etc/debian_version; echo new >/new"]\n`);
  const how = ['--isolation', 'chroot', '--network', 'host', '--file', file];
  await store.buildah('bud', ...how, '--tag', 'by-buildah', scene.directory);
  await store.podman('build', ...how, '--tag', 'by-podman', scene.directory);
  const script = 'cat /new; ls /etc/debian_version || :';
  for (const built of ['localhost/by-buildah', 'localhost/by-podman'])
    t.is(await store.podman('run', '--rm', built, 'sh', '-c', script), 'new\n');

  proxy.reset();
  const { layers } = await manifestOf(place.proxy.host, 'lazy');
  await store.podman('save', '--quiet', '--output', join(scene.directory, 'saved.tar'), place.image('lazy'));
  t.true(proxy.bytes > layers.reduce((sum, { size }) => sum + size, 0), 'the raw layers are read');
  t.true(ours(place).length < 20, `${ours(place).length} requests`);
});
