import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import type { Info, Snapshotter } from '../src/snapshot/snapshotter.js';
import { mountSnapshot } from '../src/testing/snapshot-mounts.js';
import { connectSnapshots } from '../src/testing/snapshots-client.js';
import { snapshotterSuite } from '../src/testing/snapshotter-suite.js';
import { lazylayerPlugin, startContainerd, type Containerd } from './support/containerd.js';
import { startDockerRegistry } from './support/docker-registry.js';
import { fixtureImages, type Fixtures } from './support/fixtures.js';
import { eventually, startDaemon, Teardown, type Daemon } from './support/tools.js';

const program = join(import.meta.dirname, 'snapshotter-server.js');

// containerd's own snapshotter, through our client: the wire is theirs, and the suite asks for nothing that containerd does not do.
snapshotterSuite(
  test.serial,
  "containerd's overlayfs",
  async (t) => {
    const { socket } = await startContainerd(t);
    const client = connectSnapshots(socket, { snapshotter: 'overlayfs', namespace: 'suite' });
    t.teardown(() => client.close());
    // The one method that containerd does not offer: its garbage collector is the one who calls it.
    return { ...client, cleanup: async () => undefined };
  },
  { trees: false },
);

const shared = new Teardown();
let fixtures: Fixtures;
let host: string;

test.before('images and their registry', async (t) => {
  t.timeout(600_000);
  fixtures = await fixtureImages();
  ({ host } = await startDockerRegistry(shared, fixtures.storage, { readOnly: true }));
});
test.after.always('the registry ends', () => shared[Symbol.asyncDispose]());

interface Scene {
  readonly containerd: Containerd;
  readonly root: string;
  /** Straight to the served snapshotter. */
  readonly snapshotter: Snapshotter;
  serve(): Promise<Daemon>;
}

async function open(t: ExecutionContext): Promise<Scene> {
  t.timeout(180_000);
  const directory = await mkdtemp(join(tmpdir(), 'lazylayer-snapshotter-'));
  t.teardown(() => rm(directory, { recursive: true, force: true }));
  const address = join(directory, 'run', 'snapshots.sock');
  const root = join(directory, 'root');
  const serve = async () => {
    const daemon = startDaemon(t, process.execPath, [program, address, root]);
    await eventually('the snapshotter serves', async () => {
      if (daemon.child.exitCode !== null) throw new Error(daemon.said());
      return daemon.said().includes('serving') ? true : undefined;
    });
    return daemon;
  };
  const plugin = lazylayerPlugin(address);
  const containerd = await startContainerd(t, plugin);
  const snapshotter = connectSnapshots(address);
  t.teardown(() => snapshotter.close());
  return { containerd, root, snapshotter, serve };
}

/** What a container sees of itself, file by file: type, mode, owner, links, size, time, target, content. */
const inventory = [
  'cd / && for d in etc usr srv var opt home root; do',
  '[ -e $d ] && find $d -xdev ! -type d -printf "%p %y %m %U:%G %n %s %T@ %l\\n" -o -type d -printf "%p %y %m %U:%G\\n";',
  'done | LC_ALL=C sort; find usr/bin etc srv -xdev -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum',
].join(' ');

const all = async (infos: AsyncIterable<Info>) => {
  const found: Info[] = [];
  for await (const info of infos) found.push(info);
  return found;
};

const pull = ({ containerd }: Scene, snapshotter: string, image: string) =>
  containerd.ctr('images', 'pull', '--plain-http', '--snapshotter', snapshotter, image);

const runIn = ({ containerd }: Scene, snapshotter: string, image: string, id: string, ...flags: string[]) =>
  containerd.ctr('run', '--rm', '--snapshotter', snapshotter, ...flags, image, id, 'sh', '-c', inventory);

test.serial('an ordinary image: pulled, run, as on overlayfs, and nothing is left of it', async (t) => {
  const scene = await open(t);
  const { containerd, root, snapshotter } = scene;
  await scene.serve();
  const image = `${host}/plain:1`;
  await pull(scene, 'lazylayer', image);
  const layers = await all(snapshotter.walk());
  t.is(layers.length, 4);
  t.true(layers.every(({ kind }) => kind === 'committed'));

  await pull(scene, 'overlayfs', image);
  const [ours, theirs] = [
    await runIn(scene, 'lazylayer', image, 'ours'),
    await runIn(scene, 'overlayfs', image, 'theirs'),
  ];
  t.true(theirs.split('\n').length > 1000);
  t.is(ours, theirs);

  for (const { name } of layers) {
    const [mine, overlayfs] = await Promise.all([snapshotter.usage(name), usageOf(scene, 'overlayfs', name)]);
    t.is(mine.inodes, overlayfs.inodes, name);
  }

  await containerd.ctr('images', 'rm', '--sync', image);
  t.deepEqual(await all(snapshotter.walk()), []);
  await snapshotter.cleanup();
  t.deepEqual(await readdir(join(root, 'snapshots')), []);
  t.deepEqual(await readdir(join(root, 'removed')), []);
});

/** containerd's overlayfs names the same layer by the same chain id, behind other numbers. */
async function usageOf({ containerd }: Scene, snapshotter: string, name: string) {
  await using theirs = connectSnapshots(containerd.socket, { snapshotter, namespace: 'default' });
  return await theirs.usage(name.split('/').at(-1)!);
}

test.serial('what a container wrote becomes a layer; two containers of one image do not meet', async (t) => {
  const scene = await open(t);
  const { containerd, snapshotter } = scene;
  await scene.serve();
  const image = `${host}/plain:1`;
  await pull(scene, 'lazylayer', image);
  const ctr = (...args: string[]) => containerd.ctr(...args);
  const one = ['--snapshotter', 'lazylayer', image];
  const write = (id: string) => ctr('run', ...one, id, 'sh', '-c', `echo ${id} > /written && rm -r /usr/share/doc`);
  await Promise.all([write('first'), write('second')]);
  await ctr('snapshots', '--snapshotter', 'lazylayer', 'commit', 'kept', 'first');
  t.is((await all(snapshotter.walk(['kind==committed']))).length, 5);
  await ctr('snapshots', '--snapshotter', 'lazylayer', 'prepare', 'again', 'kept');
  const look = 'cat /written; ls -d /usr/share/doc 2>/dev/null; ls /usr/share | wc -l';
  const said = await ctr(
    'run',
    '--rm',
    '--rootfs',
    ...(await mountedFor(t, scene, 'again')),
    'third',
    '/bin/sh',
    '-c',
    look,
  );
  t.regex(said, /^first\n\d+\n$/);
  const second = await mountedFor(t, scene, 'second');
  t.is(await readFile(join(second[0], 'written'), 'utf8'), 'second\n');
});

/** The mounts of a snapshot, made at a directory, as containerd would. */
async function mountedFor(t: ExecutionContext, { containerd }: Scene, key: string): Promise<[string]> {
  await using client = connectSnapshots(containerd.socket, { snapshotter: 'lazylayer', namespace: 'default' });
  const target = await mkdtemp(join(tmpdir(), 'lazylayer-rootfs-'));
  t.teardown(() => rm(target, { recursive: true, force: true }));
  await mountSnapshot(t, await client.mounts(key), target);
  return [target];
}

test.serial('killed and started again, the snapshotter has every snapshot, and images run', async (t) => {
  const scene = await open(t);
  const { root, snapshotter } = scene;
  const first = await scene.serve();
  const image = `${host}/plain:1`;
  await pull(scene, 'lazylayer', image);
  const before = await all(snapshotter.walk());
  first.child.kill('SIGKILL');
  await eventually('the server is gone', async () => (first.child.signalCode === null ? undefined : true));
  await scene.serve();
  t.deepEqual(await eventually('the client is connected again', () => all(snapshotter.walk())), before);
  const said = await eventually('containerd is connected again', () => runIn(scene, 'lazylayer', image, 'after'));
  t.regex(said, /usr\/bin\/find/);
  await eventually("the container's snapshot is collected", async () =>
    (await readdir(join(root, 'snapshots'))).length === before.length ? true : undefined,
  );
});
