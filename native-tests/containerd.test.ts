import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import type { CacheUsage } from '../src/cache/chunk-cache.js';
import { mountSnapshot } from '../src/testing/snapshot-mounts.js';
import { connectSnapshots } from '../src/testing/snapshots-client.js';
import { compareTrees, estargzFiles, roundToSeconds, sha256File } from './support/compare.js';
import { startContainerd, type Containerd } from './support/containerd.js';
import type { CountingProxy, SeenRequest } from './support/proxy.js';
import type { Scene } from './support/scene.js';
import { ServedScene } from './support/serve.js';
import { stageFor, type Stage } from './support/stage.js';
import { eventually, freePort } from './support/tools.js';

const stage = stageFor(test);

interface Place extends Stage {
  readonly served: ServedScene;
  readonly containerd: Containerd;
  readonly metrics: () => Promise<string>;
}

const quiet = 'background = false\n';

/*
 * What containerd makes of the same layers, by unpacking them, and lazylayer does not: times before 1970 become 1970, and attributes in
 * `trusted.` are left out. The attribute of the other namespace lies beside the one that overlayfs hides, for mounts with `userxattr`.
 */
const lostByUnpacking = [
  './becomes-directory: xattr user.overlay.opaque: expected none, found 0x79',
  './opaque: xattr user.overlay.opaque: expected none, found 0x79',
  './hard/before-epoch: mtime: expected 0 ns, found -2147472000000000000 ns',
  './posix/before-epoch: mtime: expected 0 ns, found -2000000000 ns',
  './posix/xattr: xattr trusted.fixture: expected none, found 0x74',
];

/** containerd with lazylayer as its snapshotter, both running. `config` continues config.toml in its `[fetch]` table. */
async function open(t: ExecutionContext, config = quiet): Promise<Place> {
  const metrics = `127.0.0.1:${await freePort()}`;
  const staged = await stage(t, `${config}[metrics]\naddress = "${metrics}"\n`);
  const served = new ServedScene(t, staged.scene);
  await served.start();
  const containerd = await startContainerd(t, served.plugin);
  return {
    ...staged,
    served,
    containerd,
    metrics: () => fetch(`http://${metrics}/metrics`).then((answer) => answer.text()),
  };
}

const rpull = ({ containerd }: Place, image: string) =>
  containerd.ctrRemote('images', 'rpull', '--plain-http', '--snapshotter', 'lazylayer', image);

const pull = ({ containerd }: Place, image: string, snapshotter = 'lazylayer') =>
  containerd.ctr('images', 'pull', '--plain-http', '--snapshotter', snapshotter, image);

/** Runs a container to its end and gives what it printed. */
const runOnce = ({ containerd }: Place, image: string, id: string, script: string, snapshotter = 'lazylayer') =>
  containerd.ctr('run', '--rm', '--snapshotter', snapshotter, image, id, 'sh', '-c', script);

/** Starts a container that stays until the end of the test, and gives the process id of its first process. */
async function runOn(t: ExecutionContext, { containerd }: Place, image: string, id: string, snapshotter = 'lazylayer') {
  const { ctr } = containerd;
  t.teardown(() =>
    ctr('tasks', 'rm', '--force', id)
      .then(() => ctr('containers', 'rm', id))
      .then(() => undefined),
  );
  await ctr('run', '--detach', '--snapshotter', snapshotter, image, id, 'sh', '-c', 'sleep 1000');
  const line = (await ctr('tasks', 'ls')).split('\n').find((text) => text.startsWith(`${id} `));
  return Number(line?.split(/\s+/)[1]);
}

const execIn = ({ containerd }: Place, id: string, exec: string, script: string) =>
  containerd.ctr('tasks', 'exec', '--exec-id', exec, id, 'sh', '-c', script);

async function snapshotNames({ served }: Place): Promise<string[]> {
  await using client = connectSnapshots(served.address);
  const names: string[] = [];
  for await (const { name } of client.walk()) names.push(name);
  return names.sort();
}

const allLazy = ['true', 'true', 'true', 'true'];

/** What the snapshotter asked of the registry, without what containerd did. */
const ours = (proxy: CountingProxy): SeenRequest[] => proxy.requests.filter(({ agent }) => agent === 'lazylayer');

/** containerd connects again up to some seconds after its snapshotter is back. */
const runWhenConnected = (place: Place, image: string, script: string) => {
  let tries = 0;
  return eventually('containerd is connected again', () => runOnce(place, image, `again-${tries++}`, script));
};

async function wholeInCache(scene: Scene, layers: number): Promise<void> {
  await eventually('everything is fetched', async () => {
    const usage = JSON.parse(await scene.succeed('cache', 'du', '--json')) as CacheUsage;
    const whole = usage.layers.filter(({ chunks, presentChunks }) => chunks === presentChunks);
    return whole.length === layers ? true : undefined;
  });
}

async function scratch(t: ExecutionContext): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'lazylayer-rootfs-'));
  t.teardown(() => rm(directory, { recursive: true, force: true }));
  return directory;
}

const digest = (fixtures: Stage['fixtures'], name: string) =>
  sha256File(join(fixtures.reference.lazy, 'srv/hard', name));

test.serial('rpull: every layer is lazy, after few requests; a container is what it is on overlayfs', async (t) => {
  const place = await open(t);
  const { served, proxy, image, fixtures } = place;
  await rpull(place, image('lazy'));
  t.deepEqual(served.prepared(), allLazy);
  const asked = ours(proxy);
  t.true(asked.length <= 4 + 4, asked.map(({ method, path }) => `${method} ${path}`).join('\n'));
  t.true(proxy.bytes < 2_000_000, `${proxy.bytes} bytes`);

  const script = 'cat /srv/hard/small; sha256sum </srv/hard/random; ls /srv/hard/many | wc -l';
  t.is(await runOnce(place, image('lazy'), 'once', script), `small\n${await digest(fixtures, 'random')}  -\n1499\n`);

  await pull(place, image('lazy'), 'overlayfs');
  const lazily = await runOn(t, place, image('lazy'), 'lazily');
  const unpacked = await runOn(t, place, image('lazy'), 'unpacked', 'overlayfs');
  const options = { time: roundToSeconds, ignore: estargzFiles };
  const differences: string[] = [];
  for (const name of ['usr', 'etc', 'opt', 'srv', 'var'])
    differences.push(
      ...(await compareTrees(`/proc/${unpacked}/root/${name}`, `/proc/${lazily}/root/${name}`, options)),
    );
  t.deepEqual(differences.sort(), lostByUnpacking.sort());
});

test.serial('an ordinary image, a mixed one, and each time what is lazy of it', async (t) => {
  const place = await open(t);
  const { served, image, containerd } = place;
  await pull(place, image('plain'));
  t.deepEqual(served.prepared(), [], 'an ordinary pull asks for nothing lazy');
  const look = 'cat /srv/hard/small; ls /srv/hard/many | wc -l';
  t.is(await runOnce(place, image('plain'), 'plain', look), 'small\n1499\n');

  await rpull(place, image('mixed'));
  const [first, ...others] = served.prepared();
  t.is(first, 'true');
  t.is(others.length, 4);
  for (const reason of others) t.regex(reason, /^false .*no TOC digest/);
  t.is(await runOnce(place, image('mixed'), 'mixed', look), 'small\n1499\n');
  const metrics = await place.metrics();
  t.regex(metrics, /^lazylayer_remote_snapshots_total{outcome="prepared",reason=""} 1$/m);
  t.regex(metrics, /^lazylayer_remote_snapshots_total{outcome="refused",reason="unsupported"} 4$/m);
  t.regex(metrics, /^lazylayer_layers_open 1$/m);

  await containerd.ctr('images', 'rm', '--sync', image('plain'), image('mixed'));
  t.deepEqual(await snapshotNames(place), []);
});

test.serial('two containers of one image do not meet; what one wrote becomes a layer', async (t) => {
  const place = await open(t);
  const { containerd, image } = place;
  await rpull(place, image('lazy'));
  for (const id of ['first', 'second']) await runOn(t, place, image('lazy'), id);
  await Promise.all(
    ['first', 'second'].map((id) =>
      execIn(place, id, 'write', `echo ${id} >/written && rm -r /srv/hard/many && chmod 711 /srv/hard/small`),
    ),
  );
  t.is(
    await execIn(place, 'first', 'read', 'cat /written; ls /srv/hard | grep -c many; stat -c %a /srv/hard/small'),
    'first\n0\n711\n',
  );
  t.is(await execIn(place, 'second', 'read', 'cat /written'), 'second\n');
  const { ctr } = containerd;
  await ctr('tasks', 'kill', '--signal', 'SIGKILL', 'first');
  await ctr('snapshots', '--snapshotter', 'lazylayer', 'commit', 'kept', 'first');
  t.is(
    await runOnce(place, image('lazy'), 'third', 'ls /written 2>&1 | wc -l; ls /srv/hard/many | wc -l'),
    '1\n1499\n',
  );
  const target = await scratch(t);
  await using client = connectSnapshots(place.served.address);
  const kept = (await snapshotNames(place)).find((name) => name.endsWith('/kept'))!;
  await mountSnapshot(t, await client.view('look', kept), target);
  t.is(await readFile(join(target, 'written'), 'utf8'), 'first\n');
  t.deepEqual((await readdir(join(target, 'srv/hard'))).includes('many'), false);
});

test.serial('an image that was removed is pulled lazily again', async (t) => {
  const place = await open(t);
  const { containerd, image, served, proxy } = place;
  await rpull(place, image('lazy'));
  await runOnce(place, image('lazy'), 'one', 'true');
  await containerd.ctr('images', 'rm', '--sync', image('lazy'));
  t.deepEqual(await snapshotNames(place), []);
  const metrics = await place.metrics();
  t.regex(metrics, /^lazylayer_layers_open 0$/m);
  proxy.reset();
  await rpull(place, image('lazy'));
  t.deepEqual(served.prepared(), [...allLazy, ...allLazy]);
  t.true(ours(proxy).length <= 4, 'what is kept on disk is not asked for again');
  t.is(await runOnce(place, image('lazy'), 'two', 'cat /srv/hard/small'), 'small\n');
});

for (const how of ['SIGTERM', 'SIGKILL'] as const)
  test.serial(
    `the daemon ends by ${how} after the pull and starts again, and a container runs without the registry`,
    async (t) => {
      const place = await open(t, 'background = true\n');
      const { served, scene, proxy, image, fixtures } = place;
      await rpull(place, image('lazy'));
      await wholeInCache(scene, 4);
      const before = await snapshotNames(place);
      if (how === 'SIGTERM') {
        t.is(await served.stop(), 0);
        t.deepEqual(await scene.mounted(), []);
        t.deepEqual(await readdir(join(scene.directory, 'run')), []);
      } else await scene.killAll();
      await proxy.switchOff();
      await served.start();
      t.deepEqual(await snapshotNames(place), before);
      const script = 'cat /srv/hard/small; sha256sum </srv/hard/random';
      t.is(await runWhenConnected(place, image('lazy'), script), `small\n${await digest(fixtures, 'random')}  -\n`);
    },
  );

test.serial('without the registry, content that is not there is Unavailable, and comes when it is back', async (t) => {
  const place = await open(t);
  const { served, proxy, image, fixtures } = place;
  await rpull(place, image('lazy'));
  const said = await runOnce(place, image('lazy'), 'before', 'cat /srv/hard/small');
  t.is(said, 'small\n');
  t.is(await served.stop(), 0);
  await proxy.switchOff();
  await served.start();
  await eventually('the snapshotter answers containerd', async () => {
    const failure = await runOnce(place, image('lazy'), 'off', 'true').then(() => 'it ran', String);
    return /cannot be reached/.test(failure) ? true : undefined;
  });
  await proxy.switchOn();
  const script = 'sha256sum </srv/hard/random';
  t.is(await runWhenConnected(place, image('lazy'), script), `${await digest(fixtures, 'random')}  -\n`);
});

test.serial('a container goes on when the serving process dies, and so does the snapshotter', async (t) => {
  const place = await open(t);
  const { served, scene, image, fixtures } = place;
  await rpull(place, image('lazy'));
  await runOn(t, place, image('lazy'), 'stays');
  const first = await scene.processes();
  process.kill(first.serving!, 'SIGKILL');
  t.is(await execIn(place, 'stays', 'one', 'sha256sum </srv/hard/random'), `${await digest(fixtures, 'random')}  -\n`);
  const second = await scene.processes();
  t.is(second.holder, first.holder);
  t.not(second.serving, first.serving);
  await eventually('snapshots are offered again', async () =>
    served.log().filter(({ msg }) => msg === 'snapshots are offered').length === 2 ? true : undefined,
  );
  t.is(await runWhenConnected(place, image('lazy'), 'cat /srv/hard/small'), 'small\n');
});

test.serial('one daemon a root: another is refused, and mounts by hand join it', async (t) => {
  const place = await open(t);
  const { scene, image, target } = place;
  const second = await scene.lazylayer('serve', ['--address', join(scene.directory, 'other.sock')]);
  t.is(second.status, 1);
  t.regex(second.stderr, /is in use by another lazylayer process/);
  await rpull(place, image('lazy'));
  const { holder } = await scene.processes();
  await scene.mount(image('lazy'), target);
  t.is(await readFile(join(target, 'srv/hard/small'), 'utf8'), 'small\n');
  t.is((await scene.ps()).length, 1);
  await scene.umount(target);
  t.is((await scene.processes()).holder, holder, 'it does not end with the last mount');
  t.is(await runOnce(place, image('lazy'), 'after', 'cat /srv/hard/small'), 'small\n');
});
