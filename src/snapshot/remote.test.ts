import { mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { LazylayerError } from '../errors.js';
import { mountSnapshot, upperDirectory } from '../testing/snapshot-mounts.js';
import { fails } from '../testing/snapshotter-suite.js';
import { label } from './labels.js';
import { OverlaySnapshotter } from './overlay-snapshotter.js';
import type { PreparedLayer, RemoteLayers, RestoredLayer, RootAttributes } from './remote-layers.js';
import type { Info, Labels, Usage } from './snapshotter.js';

/** Layers by the label `layer`: `lazy…` is one, anything else is not. Everything that is asked is written down. */
class FakeLayers implements RemoteLayers {
  idmapRefusal: string | undefined = 'the fake has no ids';
  readonly asked: string[] = [];
  /** References by layer. */
  readonly held = new Map<string, number>();
  readonly unreachable = new Set<string>();
  readonly lost = new Set<string>();
  /** Those of which the disk has nothing. */
  readonly remote = new Set<string>();
  /** The topmost layers of containers. */
  readonly started: string[] = [];
  /** Where the trees are. */
  base = '/fuse';
  /** What a prepare waits for. */
  gate: Promise<void> = Promise.resolve();
  /** What a tree waits for. */
  tree: Promise<void> = Promise.resolve();

  async prepare(labels: Labels, signal?: AbortSignal): Promise<PreparedLayer | { reason: string }> {
    const layer = labels['layer'];
    this.asked.push(`prepare ${layer}`);
    await this.gate;
    signal?.throwIfAborted();
    if (layer === 'broken') throw new LazylayerError('UNAVAILABLE', 'registry says 503');
    if (!layer.startsWith('lazy')) return { reason: `${layer} is\nno eStargz` };
    const lower = this.tree.then(() => {
      this.#hold(layer, 1);
      return `${this.base}/${layer}`;
    });
    return { lower, record: { layer } };
  }

  starting(record: unknown): void {
    this.started.push((record as { layer: string }).layer);
  }

  usage(): Usage {
    return { size: 10, inodes: 2 };
  }

  async root(): Promise<RootAttributes> {
    return { mode: 0o2711, uid: 5, gid: 6 };
  }

  restore(record: unknown): RestoredLayer {
    const { layer } = record as { layer: string };
    this.asked.push(`restore ${layer}`);
    return { isLocal: !this.remote.has(layer), lower: this.#restored(layer) };
  }

  async #restored(layer: string): Promise<string> {
    if (this.remote.has(layer)) await this.tree;
    if (this.lost.has(layer)) throw new Error(`${layer} is not on disk`);
    this.#hold(layer, 1);
    return `${this.base}/${layer}`;
  }

  async check(record: unknown): Promise<void> {
    const { layer } = record as { layer: string };
    this.asked.push(`check ${layer}`);
    if (this.unreachable.has(layer)) throw new Error(`${layer} is far away`);
  }

  async release(record: unknown): Promise<void> {
    const { layer } = record as { layer: string };
    this.asked.push(`release ${layer}`);
    this.#hold(layer, -1);
  }

  #hold(layer: string, by: number): void {
    const count = (this.held.get(layer) ?? 0) + by;
    if (count < 0) throw new Error(`${layer} was released more often than held`);
    if (count === 0) this.held.delete(layer);
    else this.held.set(layer, count);
  }
}

interface Line {
  readonly message: string;
  readonly fields: Record<string, unknown>;
}

class Scene {
  readonly lines: Line[] = [];
  layers = new FakeLayers();
  snapshotter!: OverlaySnapshotter;

  private constructor(readonly root: string) {}

  static async open(t: ExecutionContext, options: { remapIds?: boolean } = {}): Promise<Scene> {
    const directory = await mkdtemp(join(tmpdir(), 'lazylayer-remote-'));
    t.teardown(() => rm(directory, { recursive: true, force: true }));
    const scene = new Scene(join(directory, 'root'));
    await scene.start(options);
    t.teardown(() => scene.snapshotter.close());
    return scene;
  }

  async start(options: { remapIds?: boolean } = {}): Promise<void> {
    const say = (fields: object, message: string) => {
      this.lines.push({ fields: fields as Record<string, unknown>, message });
    };
    const log = { info: say, warn: say };
    this.snapshotter = await OverlaySnapshotter.open({ root: this.root, remote: this.layers, log, ...options });
  }

  /** As containerd pulls a layer: the name of what is there afterwards, and whether it has to be unpacked. */
  async pull(layer: string, chainId: string, parent: string): Promise<'served' | 'to unpack'> {
    const labels = { [label.ref]: chainId, layer };
    try {
      await this.snapshotter.prepare(`extract ${chainId}`, parent, { labels });
    } catch (error) {
      if ((error as LazylayerError).code !== 'ALREADY_EXISTS') throw error;
      const found = await all(this.snapshotter.walk([`labels."${label.ref}"==${chainId},parent=="${parent}"`]));
      if (found.length !== 1 || found[0].kind !== 'committed')
        throw new Error(`${chainId} exists, and is not to be found`, { cause: error });
      return 'served';
    }
    await this.snapshotter.commit(chainId, `extract ${chainId}`, { labels });
    return 'to unpack';
  }
}

async function all(infos: AsyncIterable<Info>): Promise<Info[]> {
  const found: Info[] = [];
  for await (const info of infos) found.push(info);
  return found;
}

test('a lazy layer is committed under the name that the client wants, with its labels', async (t) => {
  const { snapshotter, layers, lines, root } = await Scene.open(t);
  const labels = { [label.ref]: 'sha256:1', layer: 'lazy1', other: 'kept' };
  await fails(t, 'ALREADY_EXISTS', snapshotter.prepare('extract', '', { labels }));
  await fails(t, 'NOT_FOUND', snapshotter.stat('extract'));
  const info = await snapshotter.stat('sha256:1');
  t.is(info.kind, 'committed');
  t.deepEqual(info.labels, { ...labels, [label.remote]: 'remote snapshot' });
  t.deepEqual(await snapshotter.usage('sha256:1'), { size: 10, inodes: 2 });
  t.deepEqual(await readdir(join(root, 'snapshots')), []);
  t.like(lines.at(-1)?.fields, { 'remote-snapshot-prepared': 'true', key: 'extract', snapshot: 'sha256:1' });
  t.deepEqual([...layers.held], [['lazy1', 1]]);
});

test('mounts have the lazy layers below, and new roots their attributes', async (t) => {
  const scene = await Scene.open(t);
  const { snapshotter, root } = scene;
  t.is(await scene.pull('lazy1', 'c1', ''), 'served');
  t.is(await scene.pull('lazy2', 'c2', 'c1'), 'served');
  const [bound] = await snapshotter.view('single', 'c1');
  t.like(bound, { type: 'bind', source: '/fuse/lazy1', options: ['ro', 'rbind'] });
  const [{ options }] = await snapshotter.prepare('container', 'c2');
  t.true(options.includes('lowerdir=/fuse/lazy2:/fuse/lazy1'));
  const upper = options.find((option) => option.startsWith('upperdir='))!.slice('upperdir='.length);
  t.true(upper.startsWith(join(root, 'snapshots/')));
  const { mode, uid, gid } = await stat(upper);
  t.deepEqual([mode & 0o7777, uid, gid], [0o2711, 5, 6]);
});

test('a client goes on while a tree is made; a container waits for it', async (t) => {
  const scene = await Scene.open(t);
  const { snapshotter, layers } = scene;
  let made!: () => void;
  layers.tree = new Promise((resolve) => (made = resolve));
  t.is(await scene.pull('lazy1', 'c1', ''), 'served');
  t.is(await scene.pull('lazy2', 'c2', 'c1'), 'served');
  let mounts: unknown;
  const preparing = snapshotter.prepare('container', 'c2').then((found) => (mounts = found));
  await new Promise((resolve) => setTimeout(resolve, 20));
  t.is(mounts, undefined);
  made();
  await preparing;
  t.false(layers.asked.some((asked) => asked.startsWith('restore')));
});

test('a tree that could not be made is told of, tried again for the next container, and not held', async (t) => {
  const scene = await Scene.open(t);
  const { snapshotter, layers } = scene;
  layers.tree = Promise.reject(new Error('what a TOC'));
  t.is(await scene.pull('lazy1', 'c1', ''), 'served');
  layers.lost.add('lazy1');
  const error = await t.throwsAsync(snapshotter.prepare('container', 'c1'), { code: 'UNAVAILABLE' });
  t.regex(error.message, /snapshot c1 cannot be served: .* remove its image and pull it anew/);
  t.regex((await snapshotter.stat('c1')).labels[label.unavailable], /what a TOC|not on disk/);
  layers.lost.clear();
  await snapshotter.prepare('container', 'c1');
  await snapshotter.remove('container');
  await snapshotter.remove('c1');
  t.is(layers.held.size, 0);
});

test('a container over lazy layers and unpacked ones sees them all', async (t) => {
  const scene = await Scene.open(t);
  scene.layers.base = join(scene.root, 'fuse');
  for (const layer of ['lazy1', 'lazy3']) {
    await mkdir(join(scene.layers.base, layer), { recursive: true });
    await writeFile(join(scene.layers.base, layer, layer), 'from afar');
    await writeFile(join(scene.layers.base, layer, 'last'), layer);
  }
  await scene.pull('lazy1', 'c1', '');
  const upper = upperDirectory(await scene.snapshotter.prepare('extract', 'c1'));
  await writeFile(join(upper, 'plain2'), 'unpacked');
  await scene.snapshotter.commit('c2', 'extract');
  await scene.pull('lazy3', 'c3', 'c2');
  const target = join(scene.root, 'mnt');
  await mountSnapshot(t, await scene.snapshotter.prepare('container', 'c3'), target);
  t.deepEqual((await readdir(target)).sort(), ['last', 'lazy1', 'lazy3', 'plain2']);
  t.is(await readFile(join(target, 'last'), 'utf8'), 'lazy3');
  await writeFile(join(target, 'last'), 'mine');
  t.is(await readFile(join(scene.layers.base, 'lazy3', 'last'), 'utf8'), 'lazy3');
});

test('what cannot be lazy falls back layer by layer, and says why', async (t) => {
  const scene = await Scene.open(t);
  const { snapshotter, lines } = scene;
  t.is(await scene.pull('plain', 'c1', ''), 'to unpack');
  t.like(lines.at(-1)?.fields, { 'remote-snapshot-prepared': 'false', reason: 'plain is no eStargz' });
  t.is((await snapshotter.stat('c1')).labels[label.reason], 'plain is no eStargz', 'kept through the commit');
  t.false(label.remote in (await snapshotter.stat('c1')).labels);
  t.is(await scene.pull('lazy2', 'c2', 'c1'), 'served');
  t.is(await scene.pull('broken', 'c3', 'c2'), 'to unpack');
  t.like(lines.at(-1)?.fields, { 'remote-snapshot-prepared': 'false', reason: 'registry says 503' });
  const [{ options }] = await snapshotter.view('view', 'c3');
  t.regex(options.join(), /lowerdir=[^:]+\/snapshots\/\d+\/fs:\/fuse\/lazy2:[^:]+\/snapshots\/\d+\/fs/);
});

test('a layer that is there already is not asked for again', async (t) => {
  const scene = await Scene.open(t);
  const { layers } = scene;
  await scene.pull('lazy1', 'c1', '');
  await scene.pull('lazy1', 'c1', '');
  t.deepEqual(layers.asked, ['prepare lazy1']);
  // Over another parent the client would not find it.
  await scene.pull('plain', 'other', '');
  const labels = { [label.ref]: 'c1', layer: 'lazy1' };
  await scene.snapshotter.prepare('extract', 'other', { labels });
  t.regex((await scene.snapshotter.stat('extract')).labels[label.reason], /taken by another/);
  t.deepEqual([...layers.held], [['lazy1', 1]]);
});

test('clients that want one layer at once get one snapshot, and hold the layer once', async (t) => {
  const scene = await Scene.open(t);
  const labels = { [label.ref]: 'c1', layer: 'lazy1' };
  const prepares = Array.from({ length: 5 }, (_, i) => scene.snapshotter.prepare(`extract ${i}`, '', { labels }));
  for (const prepare of prepares) await fails(t, 'ALREADY_EXISTS', prepare);
  t.is((await all(scene.snapshotter.walk())).length, 1);
  t.deepEqual([...scene.layers.held], [['lazy1', 1]]);
  await scene.snapshotter.remove('c1');
  t.is(scene.layers.held.size, 0);
});

test('a client that leaves gets nothing, and leaves nothing', async (t) => {
  const scene = await Scene.open(t);
  let open!: () => void;
  scene.layers.gate = new Promise((resolve) => (open = resolve));
  const controller = new AbortController();
  const labels = { [label.ref]: 'c1', layer: 'lazy1' };
  const prepare = scene.snapshotter.prepare('extract', '', { labels, signal: controller.signal });
  controller.abort(new LazylayerError('ABORTED', 'the client left'));
  open();
  await fails(t, 'ABORTED', prepare);
  t.deepEqual(await all(scene.snapshotter.walk()), []);
  t.is(scene.layers.held.size, 0);
});

test('an ancestor that cannot be reached makes mounts, prepare and view unavailable', async (t) => {
  const scene = await Scene.open(t);
  const { snapshotter, layers, root } = scene;
  await scene.pull('lazy1', 'c1', '');
  await scene.pull('plain', 'c2', 'c1');
  await scene.pull('lazy3', 'c3', 'c2');
  await snapshotter.prepare('container', 'c3');
  layers.asked.length = 0;
  await snapshotter.mounts('container');
  t.deepEqual(layers.asked.sort(), ['check lazy1', 'check lazy3']);
  layers.unreachable.add('lazy1');
  const directories = await readdir(join(root, 'snapshots'));
  await fails(t, 'UNAVAILABLE', snapshotter.mounts('container'));
  await fails(t, 'UNAVAILABLE', snapshotter.prepare('another', 'c3'));
  await fails(t, 'UNAVAILABLE', snapshotter.view('another', 'c1'));
  await fails(t, 'NOT_FOUND', snapshotter.stat('another'));
  await snapshotter.cleanup();
  t.deepEqual(await readdir(join(root, 'snapshots')), directories);
  layers.unreachable.clear();
  await snapshotter.mounts('container');
});

test('a restart brings every layer back; one that is lost is marked and stops no other', async (t) => {
  const scene = await Scene.open(t);
  await scene.pull('lazy1', 'c1', '');
  await scene.pull('lazy2', 'c2', 'c1');
  await scene.pull('lazy3', 'apart', '');
  await scene.snapshotter.prepare('container', 'c2');
  const before = await all(scene.snapshotter.walk());
  await scene.snapshotter.close();

  scene.layers = new FakeLayers();
  scene.layers.lost.add('lazy1');
  await scene.start();
  const { snapshotter, layers } = scene;
  t.deepEqual(layers.asked.sort(), ['restore lazy1', 'restore lazy2', 'restore lazy3']);
  t.is((await all(snapshotter.walk())).length, before.length);
  const told = scene.lines.filter(({ message }) => /could not be brought back/.test(message));
  t.deepEqual(
    told.map(({ fields }) => fields['snapshot']),
    ['c1'],
  );
  t.regex((await snapshotter.stat('c1')).labels[label.unavailable], /lazy1 is not on disk/);
  t.false(label.unavailable in (await snapshotter.stat('apart')).labels);
  await snapshotter.view('view', 'apart');
  await fails(t, 'UNAVAILABLE', snapshotter.mounts('container'));

  // What a client read and writes back is not kept.
  await snapshotter.update(await snapshotter.stat('c1'), ['labels']);
  layers.lost.clear();
  await snapshotter.mounts('container');
  t.false(label.unavailable in (await snapshotter.stat('c1')).labels);

  for (const key of ['container', 'view', 'c2', 'c1', 'apart']) await snapshotter.remove(key);
  t.is(layers.held.size, 0);
});

test('a restart does not wait for a layer that only the registry has', async (t) => {
  const scene = await Scene.open(t);
  await scene.pull('lazy1', 'c1', '');
  await scene.pull('lazy2', 'c2', 'c1');
  await scene.snapshotter.close();
  scene.layers = new FakeLayers();
  scene.layers.remote.add('lazy1');
  let back!: () => void;
  scene.layers.tree = new Promise((resolve) => (back = resolve));
  await scene.start();
  const preparing = scene.snapshotter.prepare('container', 'c2');
  t.deepEqual(scene.layers.started, []);
  back();
  await preparing;
  t.deepEqual(scene.layers.started, ['lazy2'], 'the topmost alone');
  await scene.pull('plain', 'c3', 'c2');
  await scene.snapshotter.view('view', 'c2');
  t.deepEqual(scene.layers.started, ['lazy2'], 'neither what is unpacked nor a view is a container');
});

test('lazy layers of a root that is opened without them are unavailable, and all else works', async (t) => {
  const scene = await Scene.open(t);
  await scene.pull('lazy1', 'c1', '');
  await scene.pull('plain', 'c2', '');
  await scene.snapshotter.close();
  const log = { info: () => undefined, warn: () => undefined };
  const plain = await OverlaySnapshotter.open({ root: scene.root, log });
  t.teardown(() => plain.close());
  await plain.view('view', 'c2');
  await fails(t, 'UNAVAILABLE', plain.view('other', 'c1'));
  await plain.prepare('ordinary', 'c2', { labels: { [label.ref]: 'c3', layer: 'lazy3' } });
  await plain.remove('c1');
});

test('a start sweeps out directories of no snapshot, and tells of snapshots without one', async (t) => {
  const scene = await Scene.open(t);
  await scene.pull('plain', 'c1', '');
  await scene.pull('plain', 'c2', 'c1');
  await scene.snapshotter.prepare('active', 'c1');
  const directories = (await readdir(join(scene.root, 'snapshots'))).sort();
  await scene.snapshotter.close();
  await mkdir(join(scene.root, 'snapshots', '77', 'fs'), { recursive: true });
  await writeFile(join(scene.root, 'snapshots', '77', 'fs', 'file'), '');
  await mkdir(join(scene.root, 'removed', '80', 'fs'), { recursive: true });
  await rm(join(scene.root, 'snapshots', directories[0]), { recursive: true });
  await rm(join(scene.root, 'snapshots', directories[2]), { recursive: true });

  await scene.start();
  const { snapshotter } = scene;
  await snapshotter.cleanup();
  t.deepEqual(await readdir(join(scene.root, 'snapshots')), [directories[1]]);
  t.deepEqual(await readdir(join(scene.root, 'removed')), []);
  await fails(t, 'NOT_FOUND', snapshotter.stat('active'));
  t.is((await snapshotter.stat('c1')).labels[label.unavailable], 'its directory is gone');
  await fails(t, 'UNAVAILABLE', snapshotter.view('view', 'c2'));
  const [{ source }] = await snapshotter.prepare('new', '');
  t.true(Number(source.split('/').at(-2)) > 77, 'a number that was seen is not used again');
  for (const key of ['c2', 'c1', 'new']) await snapshotter.remove(key);
});

const mapped = { [label.uidMapping]: '0:1000:65536', [label.gidMapping]: '0:2000:65536' };

test('id-mapped: the root directory belongs to the mapped root, mounts are mapped where clients can', async (t) => {
  const plain = await Scene.open(t);
  await plain.pull('plain', 'c1', '');
  const [{ options: unmapped }] = await plain.snapshotter.prepare('key', 'c1', { labels: mapped });
  t.notRegex(unmapped.join(), /uidmap/);
  const upper = unmapped.find((option) => option.startsWith('upperdir='))!.slice('upperdir='.length);
  const { uid, gid } = await stat(upper);
  t.deepEqual([uid, gid], [1000, 2000]);

  const able = await Scene.open(t, { remapIds: true });
  await able.pull('plain', 'c1', '');
  const given = await able.snapshotter.prepare('key', 'c1', { labels: mapped });
  t.deepEqual(given[0].options.slice(0, 2), ['uidmap=0:1000:65536', 'gidmap=0:2000:65536']);
  t.deepEqual(await able.snapshotter.mounts('key'), given);
  await able.pull('lazy2', 'c2', 'c1');
  const error = await t.throwsAsync(able.snapshotter.prepare('other', 'c2', { labels: mapped }));
  t.like(error, { code: 'FAILED_PRECONDITION' });
  t.regex(error.message, /the fake has no ids/);
  able.layers.idmapRefusal = undefined;
  await able.snapshotter.prepare('other', 'c2', { labels: mapped });
});

test('mappings that cannot be read are refused', async (t) => {
  const { snapshotter } = await Scene.open(t);
  for (const [uids, gids] of [
    ['0:1000:65536', undefined],
    ['nonsense', '0:1:1'],
    ['1:1000:10', '0:1:1'],
    ['0:1000:0', '0:1:1'],
    ['0:4294967295:2', '0:1:1'],
    ['0:1:1,', '0:1:1'],
  ]) {
    const labels = { [label.uidMapping]: uids, ...(gids === undefined ? {} : { [label.gidMapping]: gids }) } as Labels;
    await fails(t, 'INVALID_ARGUMENT', snapshotter.prepare('key', '', { labels }));
  }
  t.deepEqual(await all(snapshotter.walk()), []);
});
