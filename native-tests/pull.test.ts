import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { GrpcClient } from '../src/containerd/grpc.js';
import { Snapshots } from '../src/containerd/proto/snapshots_pb.js';
import type { PullInfo } from '../src/pull/request.js';
import { buildImage } from '../src/testing/image.js';
import { startTestRegistry } from '../src/testing/registry.js';
import { connectSnapshots } from '../src/testing/snapshots-client.js';
import { startContainerd, type Containerd } from './support/containerd.js';
import { manifestOf } from './support/docker-registry.js';
import { program } from './support/scene.js';
import { ServedScene } from './support/serve.js';
import { stageFor, type Stage } from './support/stage.js';
import { endChild, eventually, run, startDaemon } from './support/tools.js';

const stage = stageFor(test);

interface Place extends Stage {
  readonly served: ServedScene;
  readonly containerd: Containerd;
}

async function open(t: ExecutionContext, config = 'background = false\n'): Promise<Place> {
  const staged = await stage(t, config);
  const served = new ServedScene(t, staged.scene);
  await served.start();
  return { ...staged, served, containerd: await startContainerd(t, served.plugin) };
}

const tryPull = ({ scene, containerd }: Place, image: string, ...flags: string[]) =>
  scene.lazylayer('pull', ['--address', containerd.socket, ...flags, image]);

async function pull(place: Place, image: string, ...flags: string[]): Promise<{ stdout: string; stderr: string }> {
  const { status, stdout, stderr } = await tryPull(place, image, ...flags);
  if (status !== 0) throw new Error(`lazylayer pull ${image} ended with ${status}: ${stderr}`);
  return { stdout: stdout.toString(), stderr };
}

const runOnce = ({ containerd }: Place, image: string, id: string, script: string) =>
  containerd.ctr('run', '--rm', '--snapshotter', 'lazylayer', image, id, 'sh', '-c', script);

const names = async ({ containerd: { ctr } }: Pick<Place, 'containerd'>, what: 'images' | 'content' | 'leases') =>
  (await ctr(what, 'ls', '-q')).split('\n').filter((line) => line !== '');

async function largestLayer({ proxy }: Place, name: string) {
  const { layers } = await manifestOf(proxy.host, name);
  return layers.reduce((a, b) => (b.size > a.size ? b : a));
}

/** Nothing that could be used was left by a pull that failed. */
async function leavesNothing(t: ExecutionContext, place: Place): Promise<void> {
  t.deepEqual(await names(place, 'images'), []);
  const snapshots = await place.containerd.ctr('snapshots', '--snapshotter', 'lazylayer', 'ls');
  t.notRegex(snapshots, /extract-/);
  await eventually('the lease is given back', async () =>
    (await names(place, 'leases')).length === 0 ? true : undefined,
  );
}

test.serial(
  'an image is in containerd after few requests, is kept by containerd, runs, and can be removed',
  async (t) => {
    const place = await open(t);
    const { proxy, image, served, containerd } = place;
    const { stdout, stderr } = await pull(place, image('lazy'));
    t.is(stdout, `${image('lazy')}\n`);
    t.regex(stderr, /is in containerd: 4 layers, 4 lazy; [\d.]+ [KM]iB compressed$/m);
    t.deepEqual(served.prepared(), ['true', 'true', 'true', 'true']);
    // Manifest, config, the end of each layer, and then what every container reads. containerd itself asks for nothing.
    t.true(proxy.requests.length <= 8, proxy.requests.map(({ method, path }) => `${method} ${path}`).join('\n'));
    t.deepEqual([...new Set(proxy.requests.map(({ agent }) => agent))], ['lazylayer']);
    t.deepEqual(await names(place, 'images'), [image('lazy')]);
    t.deepEqual(await names(place, 'leases'), [], 'it is kept by what it is named by');

    // A collection that waits for its end: what nothing refers to goes.
    await pull(place, image('sibling'));
    await containerd.ctr('images', 'rm', '--sync', image('sibling'));
    const { config } = await manifestOf(proxy.host, 'lazy');
    t.true((await names(place, 'content')).includes(config.digest));
    t.is((await names(place, 'content')).length, 2);
    const look = 'cat /srv/hard/small; ls /srv/hard/many | wc -l';
    t.is(await runOnce(place, image('lazy'), 'one', look), 'small\n1499\n');

    await containerd.ctr('images', 'rm', '--sync', image('lazy'));
    t.deepEqual(await names(place, 'content'), []);
    await using client = connectSnapshots(served.address);
    const left: string[] = [];
    for await (const { name } of client.walk()) left.push(name);
    t.deepEqual(left, []);
  },
);

test.serial('pulled again it costs one request, and a tag that moved is the new image', async (t) => {
  const place = await open(t);
  const { proxy, image, containerd } = place;
  await pull(place, image('lazy'));
  const { config } = await manifestOf(proxy.host, 'lazy');
  const before = proxy.requests.length;
  const again = JSON.parse((await pull(place, image('lazy'), '--json')).stdout) as PullInfo;
  const asked = proxy.requests.slice(before).map(({ path, range }) => `${path} ${range}`);
  t.is(asked.filter((one) => one.includes('/manifests/')).length, 1);
  t.deepEqual(
    asked.filter((one) => one.includes(config.digest) || one.includes('=-')),
    [],
  );
  const { image: name, layers, lazyLayers } = again;
  t.deepEqual({ name, layers, lazyLayers }, { name: image('lazy'), layers: 4, lazyLayers: 4 });

  // What has the name is another image by now.
  await pull(place, image('sibling'));
  await containerd.ctr('images', 'tag', '--force', image('sibling'), image('lazy'));
  await pull(place, image('lazy'));
  const listed = await containerd.ctr('images', 'ls', `name==${image('lazy')}`);
  t.true(listed.includes(again.digest), listed);
});

test.serial(
  'what cannot be lazy is downloaded and unpacked by containerd; what broke off leaves nothing',
  async (t) => {
    const place = await open(t);
    const { image, served, containerd, proxy } = place;
    const { stderr } = await pull(place, image('mixed'));
    const [first, ...others] = served.prepared();
    t.is(first, 'true');
    t.is(others.length, 4);
    t.regex(stderr, /^layer sha256:\w+ is downloaded whole \(.*\) before it can be read: .*no TOC digest/m);
    t.regex(stderr, /5 layers, 1 lazy/);
    const look = 'cat /srv/hard/small; ls /srv/hard/many | wc -l';
    t.is(await runOnce(place, image('mixed'), 'mixed', look), 'small\n1499\n');
    const info = JSON.parse((await pull(place, image('mixed'), '--json')).stdout) as PullInfo;
    t.is(info.lazyLayers, 1, 'that they are there by now does not make them lazy');
    await containerd.ctr('images', 'rm', '--sync', image('mixed'));
    t.deepEqual(await names(place, 'content'), []);

    // Who is interrupted in a download leaves nothing that has a name.
    const layer = await largestLayer(place, 'plain');
    const args = ['--root', place.scene.root, '--config', place.scene.config, '--address', containerd.socket];
    const child = startDaemon(t, process.execPath, [program, 'pull', ...args, image('plain')]);
    const { asked, release } = proxy.hold({ path: layer.digest, after: 1_000_000 });
    await asked;
    child.child.kill('SIGINT');
    await once(child.child, 'exit');
    t.is(child.child.exitCode, 130);
    release();
    await leavesNothing(t, place);
    await pull(place, image('plain'));
    t.is(await runOnce(place, image('plain'), 'plain', look), 'small\n1499\n');
  },
);

test.serial('an index: this machine’s image, or another by --platform; namespaces are apart', async (t) => {
  const place = await open(t);
  const { image, served, containerd } = place;
  await pull(place, image('index'));
  t.is(await runOnce(place, image('index'), 'index', 'cat /srv/hard/small'), 'small\n');
  const flags = ['--platform', 'linux/arm64', '--namespace', 'other', '--json'];
  const other = JSON.parse((await pull(place, image('index'), ...flags)).stdout) as PullInfo;
  t.deepEqual([other.layers, other.lazyLayers], [1, 1]);
  t.deepEqual(new Set(served.prepared()), new Set(['true']));
  const listed = await containerd.ctr('--namespace', 'other', 'images', 'ls');
  t.true(listed.includes(other.digest) && listed.includes('linux/arm64'), listed);
  // The same content in another namespace: containerd shares it.
  const same = JSON.parse((await pull(place, image('index'), '--namespace', 'third', '--json')).stdout) as PullInfo;
  t.not(same.digest, other.digest);
  t.deepEqual([same.layers, same.lazyLayers], [4, 4]);
  t.true((await containerd.ctr('--namespace', 'third', 'images', 'check')).includes('complete'));
});

test.serial('an image is never made of what another one only claims to be, in no namespace', async (t) => {
  const place = await open(t);
  const { scene, served, containerd } = place;
  const good = await buildImage({ layers: [[{ path: 'who', content: 'good' }]] });
  const [{ diffId }] = good.layers;
  const evil = await buildImage({ layers: [[{ path: 'who', content: 'evil' }]], diffIds: [diffId] });
  const registry = await startTestRegistry();
  t.teardown(() => registry.stop());
  for (const [tag, { manifest, blobs }] of Object.entries({ good, evil })) {
    for (const { bytes } of blobs.values()) registry.putBlob(bytes);
    registry.putManifest('test', tag, manifest.bytes, manifest.descriptor.mediaType);
  }
  const named = (tag: string) => `${registry.host}/test:${tag}`;
  const shown = async (namespace: string) => {
    const target = await scene.mountPoint(namespace);
    const where = ['--namespace', namespace, 'snapshots', '--snapshotter', 'lazylayer'];
    // Not by ctr, which does not keep a view from being collected.
    using client = new GrpcClient(containerd.socket, { 'containerd-namespace': namespace });
    const labels = { 'containerd.io/gc.root': 'test' };
    await client.call(Snapshots.method.view, { snapshotter: 'lazylayer', key: 'look', parent: diffId, labels });
    await run('sh', ['-ec', await containerd.ctr(...where, 'mounts', target, 'look')]);
    try {
      return await readFile(join(target, 'who'), 'utf8');
    } finally {
      await run('umount', [target]);
    }
  };
  await pull(place, named('evil'), '--namespace', 'first');
  t.is(await shown('first'), 'evil', 'it is its own');
  await pull(place, named('good'), '--namespace', 'second');
  t.is(await shown('second'), 'good');
  const rpull = ['images', 'rpull', '--plain-http', '--snapshotter', 'lazylayer'];
  await containerd.ctrRemote('--namespace', 'third', ...rpull, named('good'));
  t.is(await shown('third'), 'good');
  const [first, ...others] = served.prepared();
  t.is(first, 'true');
  t.is(others.length, 2);
  for (const other of others) t.regex(other, /taken by a lazy layer of another blob/);

  const { status, stderr } = await tryPull(place, named('good'), '--namespace', 'first');
  t.is(status, 1);
  t.regex(stderr, /has its diffID already, of another image .*remove that image first/);
});

test.serial('failures say what to do, and leave nothing', async (t) => {
  const place = await open(t);
  const { image, proxy, scene, containerd } = place;
  const fails = async (expected: RegExp, name: string, ...flags: string[]) => {
    const { status, stdout, stderr } = await tryPull(place, name, ...flags);
    const wrongUse = flags.includes('a b');
    t.deepEqual({ status, stdout: stdout.toString() }, { status: wrongUse ? 2 : 1, stdout: '' }, stderr);
    t.regex(stderr, expected);
  };
  await fails(/manifests\/1.*(MANIFEST_UNKNOWN|manifest unknown|404)/s, image('absent'));
  await fails(/containerd at \/nowhere\.sock/, image('lazy'), '--address', '/nowhere.sock');
  await fails(/namespace: expected letters/, image('lazy'), '--namespace', 'a b');
  await fails(/snapshotter .*absent.*lazylayer config containerd/s, image('lazy'), '--snapshotter', 'absent');
  await leavesNothing(t, place);
  await proxy.switchOff();
  await fails(/ECONNREFUSED/, image('sibling'));
  await proxy.switchOn();
  await pull(place, image('sibling'));
  await proxy.switchOff();
  await fails(/as it was at .*the registry could not be asked/, image('sibling'));
  await proxy.switchOn();
  await containerd.ctr('images', 'rm', '--sync', image('sibling'));
  await leavesNothing(t, place);

  // A registry that goes away in the middle of a layer.
  const layer = await largestLayer(place, 'plain');
  const dead = new Promise<void>((resolve, reject) => {
    const { asked, release } = proxy.hold({ path: layer.digest, after: 1_000_000 });
    asked
      .then(() => proxy.switchOff())
      .then(release)
      .then(resolve, reject);
  });
  await fails(/ECONNREFUSED|socket|closed|reset/i, image('plain'));
  await dead;
  await proxy.switchOn();
  await leavesNothing(t, place);

  await place.served.stop();
  await fails(/no daemon runs on this root: start `lazylayer serve`/, image('lazy'));
  await scene.mount(image('lazy'), place.target);
  await fails(/makes no snapshots for containerd: run `lazylayer serve`/, image('lazy'));
  await scene.umount(place.target);
  t.deepEqual(await names({ containerd }, 'images'), []);
});

test.serial('a serving process that dies in a pull is told of; the next pull goes on with what has come', async (t) => {
  const place = await open(t);
  const { image, proxy, scene } = place;
  const layer = await largestLayer(place, 'plain');
  const { asked, release } = proxy.hold({ path: layer.digest, after: 1_000_000 });
  const pulling = tryPull(place, image('plain'));
  await asked;
  process.kill((await scene.processes()).serving!, 'SIGKILL');
  const { status, stderr } = await pulling;
  release();
  t.is(status, 1);
  t.regex(stderr, /the daemon ended before it was done; see its log/);
  proxy.reset();
  await eventually('the daemon answers again', async () => {
    const again = await tryPull(place, image('plain'));
    return again.status === 0 ? true : undefined;
  });
  const ranges = proxy.requests.filter(({ path }) => path.endsWith(layer.digest)).map(({ range }) => range ?? '');
  t.true(Number(/^bytes=(\d+)-/.exec(ranges[0])?.[1]) > 100_000, ranges.join());
  t.is(await runOnce(place, image('plain'), 'again', 'cat /srv/hard/small'), 'small\n');
});

test.serial('what a landmark asks for is fetched before containerd has answered anything', async (t) => {
  const place = await open(t);
  const { image, proxy, scene } = place;
  const { layers } = await manifestOf(proxy.host, 'prefetch');
  proxy.reset();
  const silent = createServer(() => {});
  const address = join(scene.directory, 'silent.sock');
  await new Promise<void>((resolve) => silent.listen(address, resolve));
  const args = ['--root', scene.root, '--config', scene.config, '--address', address];
  const { child } = startDaemon(t, process.execPath, [program, 'pull', ...args, image('prefetch')]);
  await eventually('the landmark is fetched', async () => {
    const asked = proxy.requests.filter(({ path }) => path.endsWith(layers[0].digest));
    return asked.length === 2 ? true : undefined; // the blob's end, and what the landmark asks for
  });
  t.is(child.exitCode, null, 'it waits for containerd');
  await endChild(child);
  silent.close();
});
