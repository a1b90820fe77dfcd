import { mkdir, readdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { all, FakeLayers, RemoteScene } from '../testing/remote-layers.js';
import { fails } from '../testing/snapshotter-suite.js';
import { label } from './labels.js';
import { OverlaySnapshotter } from './overlay-snapshotter.js';

test('a restart brings every layer back; one that is lost is marked and stops no other', async (t) => {
  const scene = await RemoteScene.open(t);
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
  const scene = await RemoteScene.open(t);
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
  const scene = await RemoteScene.open(t);
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
  const scene = await RemoteScene.open(t);
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
  t.true(Number(source.split('/').at(-2)) > 80, 'a number that was seen is not used again');
  for (const key of ['c2', 'c1', 'new']) await snapshotter.remove(key);
  await snapshotter.close();
  await mkdir(join(scene.root, 'snapshots', '177', 'fs'), { recursive: true });
  await scene.start();
  const [next] = await scene.snapshotter.prepare('next', '');
  t.true(Number(next.source.split('/').at(-2)) > 177, 'nor one that a directory had');
});
