import { mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { LazylayerError } from '../errors.js';
import { all, RemoteScene } from '../testing/remote-layers.js';
import { mountSnapshot, upperDirectory } from '../testing/snapshot-mounts.js';
import { fails } from '../testing/snapshotter-suite.js';
import { label } from './labels.js';
import type { Labels } from './snapshotter.js';

test('a lazy layer is committed under the name that the client wants, with its labels', async (t) => {
  const { snapshotter, layers, lines, root } = await RemoteScene.open(t);
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
  const scene = await RemoteScene.open(t);
  const { snapshotter, root } = scene;
  t.is(await scene.pull('lazy1', 'c1', ''), 'served');
  t.is(await scene.pull('lazy2', 'c2', 'c1'), 'served');
  const [bound] = await snapshotter.view('single', 'c1');
  t.like(bound, { type: 'bind', source: '/fuse/lazy1', options: ['ro', 'rbind'] });
  const mounts = await snapshotter.prepare('container', 'c2');
  const [{ options }] = mounts;
  t.true(options.includes('lowerdir=/fuse/lazy2:/fuse/lazy1'));
  const upper = upperDirectory(mounts);
  t.true(upper.startsWith(join(root, 'snapshots/')));
  const { mode, uid, gid } = await stat(upper);
  t.deepEqual([mode & 0o7777, uid, gid], [0o2711, 5, 6]);
});

test('a client goes on while a tree is made; a container waits for it', async (t) => {
  const scene = await RemoteScene.open(t);
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
  const scene = await RemoteScene.open(t);
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

test('a snapshot whose tree could not be made gives back nothing that others hold', async (t) => {
  const scene = await RemoteScene.open(t);
  const { snapshotter, layers } = scene;
  await scene.pull('lazy1', 'c1', '');
  layers.tree = Promise.reject(new Error('what a TOC'));
  await scene.pull('lazy1', 'c2', 'c1');
  await snapshotter.remove('c2');
  t.deepEqual([...layers.held], [['lazy1', 1]]);
});

test('clients that prepare one key at once get one snapshot, and leave one directory', async (t) => {
  const { snapshotter, root } = await RemoteScene.open(t);
  const outcomes = await Promise.allSettled(Array.from({ length: 3 }, () => snapshotter.prepare('key', '')));
  t.deepEqual(outcomes.map(({ status }) => status).sort(), ['fulfilled', 'rejected', 'rejected']);
  await snapshotter.cleanup();
  t.is((await readdir(join(root, 'snapshots'))).length, 1);
});

test('a container over lazy layers and unpacked ones sees them all', async (t) => {
  const scene = await RemoteScene.open(t);
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
  const scene = await RemoteScene.open(t);
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
  const scene = await RemoteScene.open(t);
  const { layers } = scene;
  await scene.pull('lazy1', 'c1', '');
  await scene.pull('lazy1', 'c1', '');
  t.deepEqual(layers.asked, ['prepare lazy1']);
  // Over another parent the client would not find it.
  await scene.pull('plain', 'other', '');
  const labels = { [label.ref]: 'c1', layer: 'lazy1' };
  await scene.snapshotter.prepare('extract', 'other', { labels });
  t.regex((await scene.snapshotter.stat('extract')).labels[label.reason], /taken by another/);
  // Nor is it another blob's, whatever the name says.
  t.is(await scene.pull('lazy2', 'c1', '', 'ns c1'), 'to unpack');
  t.regex((await scene.snapshotter.stat('ns c1')).labels[label.reason], /lazy layer of another blob/);
  // What was unpacked has the diffID that it is named by.
  t.is(await scene.pull('lazy2', 'other', ''), 'served');
  t.deepEqual([...layers.held], [['lazy1', 1]]);
});

test('clients that want one layer at once get one snapshot, and hold the layer once', async (t) => {
  const scene = await RemoteScene.open(t);
  const labels = { [label.ref]: 'c1', layer: 'lazy1' };
  const prepares = Array.from({ length: 5 }, (_, i) => scene.snapshotter.prepare(`extract ${i}`, '', { labels }));
  for (const prepare of prepares) await fails(t, 'ALREADY_EXISTS', prepare);
  t.is((await all(scene.snapshotter.walk())).length, 1);
  t.deepEqual([...scene.layers.held], [['lazy1', 1]]);
  await scene.snapshotter.remove('c1');
  t.is(scene.layers.held.size, 0);
});

test('a client that leaves gets nothing, and leaves nothing', async (t) => {
  const scene = await RemoteScene.open(t);
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
  const scene = await RemoteScene.open(t);
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

const mapped = { [label.uidMapping]: '0:1000:65536', [label.gidMapping]: '0:2000:65536' };

test('id-mapped: the root directory belongs to the mapped root, mounts are mapped where clients can', async (t) => {
  const plain = await RemoteScene.open(t);
  await plain.pull('plain', 'c1', '');
  const unmapped = await plain.snapshotter.prepare('key', 'c1', { labels: mapped });
  t.notRegex(unmapped[0].options.join(), /uidmap/);
  const upper = upperDirectory(unmapped);
  const { uid, gid } = await stat(upper);
  t.deepEqual([uid, gid], [1000, 2000]);

  const able = await RemoteScene.open(t, { remapIds: true });
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
  const { snapshotter } = await RemoteScene.open(t);
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
