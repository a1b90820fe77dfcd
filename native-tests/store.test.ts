import { chmod, open as openFile, readdir, readFile, readlink, rmdir, stat, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { digestOf } from '../src/digest/digester.js';
import { manifestOf } from './support/docker-registry.js';
import { PodmanScene } from './support/podman.js';
import { stageFor, type Stage } from './support/stage.js';
import { eventually, outcomeOf, requirePrograms, run } from './support/tools.js';

const stage = stageFor(test);

interface Place extends Stage {
  readonly store: PodmanScene;
  /** Of a reference in the store. */
  readonly directory: (name: string) => string;
}

/** No client but this test: what a client sees of the store's files, and what it is told. */
async function open(t: ExecutionContext, config = ''): Promise<Place> {
  const staged = await stage(t, `background = false\nprefetch = false\n${config}`);
  const store = await PodmanScene.open(t, staged.scene, staged.proxy.host);
  await store.start();
  const directory = (name: string) => join(store.mountPoint, Buffer.from(staged.image(name)).toString('base64'));
  return { ...staged, store, directory };
}

// Never synchronously: the registry's proxy runs in this very process.
const errnoOf = (work: Promise<unknown>): Promise<string> =>
  work.then(
    () => 'none',
    (error: NodeJS.ErrnoException) => error.code ?? String(error),
  );
const make = (path: string) => errnoOf(openFile(path, 'wx').then((file) => file.close()));
const use = (layer: string) => make(join(layer, 'use'));
const giveBack = (layer: string) => errnoOf(rmdir(layer));
const look = (layer: string) => errnoOf(readFile(join(layer, 'info')));

async function usesOf({ scene }: Place): Promise<Record<string, number>> {
  const saved = JSON.parse(await readFile(join(scene.root, 'pool', 'uses'), 'utf8').catch(() => '[]')) as {
    keys: Record<string, number>;
  }[];
  return saved[0]?.keys ?? {};
}

const layersOf = async ({ proxy }: Place, name: string) => (await manifestOf(proxy.host, name)).layers;

test.serial('diff, info and blob by both digests; pool; names that are none; what cannot be served', async (t) => {
  const place = await open(t);
  const { directory, store } = place;
  const [, , small] = await layersOf(place, 'lazy');
  const toc = small.annotations!['containerd.io/snapshot/stargz/toc.digest'];
  for (const digest of [small.digest, toc]) {
    const layer = join(directory('lazy'), digest);
    t.regex(await readlink(join(layer, 'diff')), /^\.\.\/\.\.\/l\/\d+$/);
    t.true((await stat(`${layer}/diff/`)).isDirectory());
    const info = JSON.parse(await readFile(join(layer, 'info'), 'utf8')) as Record<string, unknown>;
    t.is(info['compressed-diff-digest'], small.digest);
    t.is(info['toc-digest'], toc);
    t.is(info['compressed-size'], small.size);
    t.is(String(digestOf(await readFile(join(layer, 'blob')))), small.digest);
    t.deepEqual((await readdir(layer)).sort(), ['blob', 'diff', 'info']);
    t.is(await errnoOf(readFile(join(layer, 'use'))), 'ENOENT');
    t.is(await make(join(layer, 'other')), 'EROFS');
  }
  t.true((await readdir(join(store.mountPoint, 'pool'))).some((name) => name.startsWith('metadata--sha256-')));

  const none = `sha256:${'0'.repeat(64)}`;
  t.is(await look(join(store.mountPoint, 'no base64')), 'EINVAL');
  t.is(await look(join(directory('lazy'), 'sha256:x')), 'EINVAL');
  t.is(await look(join(directory('lazy'), none)), 'EIO');
  t.is(await look(directory('absent')), 'EIO');
  t.is(await giveBack(directory('lazy')), 'EROFS');
  t.is(await store.stop(), 0);
});

test.serial('uses are counted, side by side too, and given back; nothing can be written', async (t) => {
  const place = await open(t);
  const { directory } = place;
  const [first, second] = await layersOf(place, 'lazy');
  const layer = join(directory('lazy'), first.digest);
  const toc = join(directory('lazy'), first.annotations!['containerd.io/snapshot/stargz/toc.digest']);
  t.is(await use(layer), 'ENOENT');
  t.is(await use(toc), 'ENOENT');
  t.deepEqual(await usesOf(place), { [`store:${first.digest}`]: 2 }, 'on disk when the client goes on');
  // Twenty processes at once.
  const each = (script: string) =>
    outcomeOf('sh', ['-c', `for i in 1 2 3 4 5 6 7 8 9 10; do (${script}) 2>/dev/null & done; wait`]);
  const other = join(directory('lazy'), second.digest);
  await Promise.all([each(`: >"${layer}/use"`), each(`: >"${other}/use"`)]);
  t.deepEqual(await usesOf(place), { [`store:${first.digest}`]: 12, [`store:${second.digest}`]: 10 });
  await Promise.all([each(`rmdir "${layer}"`), each(`rmdir "${other}"`)]);
  t.deepEqual(await usesOf(place), { [`store:${first.digest}`]: 2 });
  t.is(await giveBack(layer), 'ENOENT');
  t.is(await giveBack(toc), 'ENOENT');
  t.is(await giveBack(toc), 'ENOENT', 'one too many');
  t.deepEqual(await usesOf(place), {});
  t.true((await stat(`${layer}/diff/`)).isDirectory(), 'the pool keeps it a while');

  const file = join(layer, 'diff', 'etc', 'passwd');
  for (const path of [file, join(place.scene.root, 'fuse', await readlinkFrom(layer), 'etc', 'passwd')])
    await t.throwsAsync(writeFile(path, 'x'), { code: 'EROFS' });
  t.true((await readFile(file, 'utf8')).startsWith('root:'));
});

const readlinkFrom = async (layer: string) => (await readlink(join(layer, 'diff'))).slice('../../'.length);

/** How many layers the serving process has files of open. */
async function openLayers(scene: Place['scene']): Promise<number> {
  const { serving } = await scene.processes();
  const links = await Promise.all(
    (await readdir(`/proc/${serving}/fd`)).map((fd) => readlink(`/proc/${serving}/fd/${fd}`).catch(() => '')),
  );
  return new Set(links.filter((path) => path.startsWith(join(scene.root, 'layers'))).map(dirname)).size;
}

test.serial('layers that nobody reads sleep, in use or not, and wake when they are read', async (t) => {
  const place = await open(t, '[fuse]\nlayer_idle_sec = 1\n');
  const { directory, scene } = place;
  const [first] = await layersOf(place, 'lazy');
  const layer = join(directory('lazy'), first.digest);
  t.is(await use(layer), 'ENOENT');
  await eventually('all sleep', async () => ((await openLayers(scene)) === 0 ? true : undefined), 60_000);
  t.true((await readFile(join(layer, 'diff', 'etc', 'passwd'), 'utf8')).startsWith('root:'));
  t.true((await readFile(join(layer, 'info'), 'utf8')).includes(first.digest));
});

test.serial(
  'a reference that leaves the pool takes descriptors and kernel entries along; one in use stays',
  async (t) => {
    const { scene, store, directory, ...place } = await open(t, '[pool]\nmax_entries = 1\nhold_sec = 0\n');
    const opened = () => openLayers(scene);
    const show = async (name: string) => {
      const { layers } = await manifestOf(place.proxy.host, name);
      for (const { digest } of layers) t.is(await look(join(directory(name), digest)), 'none');
      return join(directory(name), layers[0].digest);
    };
    const first = await show('lazy');
    t.is(await opened(), 4);
    await using held = await openFile(join(store.mountPoint, 'l', await slotOf(first)));
    const name = () => readlink(`/proc/self/fd/${held.fd}`);
    t.is(await use(await show('prefetch')), 'ENOENT');
    await eventually('the layers are closed', async () => ((await opened()) === 1 ? true : undefined));
    await eventually('the kernel drops them', async () => ((await name()).endsWith(' (deleted)') ? true : undefined));
    await show('lazy');
    await show('sibling');
    const listed = async (image: string) => (await readdir(store.mountPoint)).includes(basename(directory(image)));
    await eventually('it leaves again', async () => ((await listed('lazy')) ? undefined : true));
    t.true(await listed('prefetch'), 'used');
  },
);

const slotOf = async (layer: string) => basename(await readlink(join(layer, 'diff')));

test.serial('the store is for root alone; what root mounts from it is for everybody', async (t) => {
  requirePrograms('setpriv', 'mount', 'umount');
  const place = await open(t);
  const { directory, store, scene, target } = place;
  // Of mkdtemp: else nobody but root would come as far as the store.
  await chmod(scene.directory, 0o755);
  const layers = await layersOf(place, 'lazy');
  const paths = layers.map(({ digest }) => join(directory('lazy'), digest));
  const slots = await Promise.all(paths.map((path) => slotOf(path)));
  const nobody = (...command: string[]) =>
    outcomeOf('setpriv', ['--reuid', '65534', '--regid', '65534', '--clear-groups', ...command]);
  t.is((await nobody('stat', '-c', '%a', store.mountPoint)).stdout.toString(), '700\n');
  t.is(await run('stat', ['-c', '%a', join(paths[0], 'blob')]), '400\n');
  for (const command of [
    ['cat', join(paths[0], 'blob')],
    ['cat', join(paths[0], 'info')],
    ['ls', directory('lazy')],
    ['ls', join(store.mountPoint, 'l')],
    ['cat', join(store.mountPoint, 'l', slots[0], 'etc', 'passwd')],
  ]) {
    const { status, stderr } = await nobody(...command);
    t.not(status, 0, command.join(' '));
    t.regex(stderr, /Permission denied/);
    t.is((await outcomeOf(command[0], command.slice(1))).status, 0, `${command.join(' ')}, by root`);
  }
  const lower = slots.map((slot) => join(store.mountPoint, 'l', slot)).reverse();
  await run('mount', ['-t', 'overlay', 'overlay', '-o', `ro,lowerdir=${lower.join(':')}`, target]);
  t.teardown(() => run('umount', [target]));
  const read = await nobody('cat', join(target, 'etc', 'passwd'));
  t.true(read.stdout.toString().startsWith('root:'), read.stderr);
});

test.serial('a mount point that is not there, and a backend without a store, are refused by name', async (t) => {
  const { scene } = await stage(t, '[fuse]\nbackend = "fuse-native"\n');
  const absent = await scene.lazylayer('store', [join(scene.directory, 'absent')]);
  t.is(absent.status, 1);
  t.regex(absent.stderr, /backend "kernel"/);
  await writeFile(scene.config, '');
  const refused = await scene.lazylayer('store', [join(scene.directory, 'absent')]);
  t.is(refused.status, 1);
  t.regex(refused.stderr, /absent: expected a directory/);
  t.deepEqual(await scene.mounted(), []);
});
