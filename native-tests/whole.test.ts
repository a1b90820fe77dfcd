import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { dropCaches } from '../src/bench/caches.js';
import { DaemonClient } from '../src/daemon/client.js';
import { listMounts } from '../src/util/mountinfo.js';
import { sha256File } from './support/compare.js';
import { startContainerd } from './support/containerd.js';
import { PodmanScene } from './support/podman.js';
import { mountedWhole, type Scene } from './support/scene.js';
import { ServedScene } from './support/serve.js';
import { differences, stageFor, type Stage } from './support/stage.js';
import { eventually, freePort, requireErofs, run } from './support/tools.js';

/*
 * Layers whose content is all in the cache are mounted by the kernel (EROFS) for what is mounted from then on. These tests say of each way to
 * mount whether it is so, and that nothing depends on the daemon any more.
 */

test.before('a kernel that has EROFS over files', () => requireErofs());

const stage = stageFor(test);
const layerCount = 4;

const whole = ({ root }: Scene) => mountedWhole(root);

/** Lower directories of the overlay at a mount point. */
async function lowers(target: string): Promise<string[]> {
  const mount = (await listMounts()).findLast((m) => m.target === target)!;
  return /(?:^|,)lowerdir=([^,]*)/.exec(mount.superOptions)![1].split(':');
}

/** Mounts the image lazily, and waits until the background fetch has brought all of it. */
async function mountUntilWhole({ scene, image }: Stage, target: string): Promise<void> {
  await scene.mount(image('lazy'), target);
  expectFuse(await lowers(target));
  await eventually('every layer is mounted by the kernel', async () =>
    (await whole(scene)).length === layerCount ? true : undefined,
  );
}

function expectFuse(paths: readonly string[]): void {
  if (!paths.every((path) => path.startsWith('l/')))
    throw new Error(`expected layers of FUSE, found ${paths.join(', ')}`);
}

const digestOf = (root: string) => sha256File(join(root, 'srv/hard/random'));

test.serial(
  'a mount of what is all there is the kernel’s own, and is the same; what was mounted before stays',
  async (t) => {
    const place = await stage(t, 'background_quiet_sec = 0\n');
    const { scene, image, target, fixtures, proxy } = place;
    await mountUntilWhole(place, target);
    const second = await scene.mountPoint('second');
    await scene.mount(image('lazy'), second);
    for (const path of await lowers(second)) t.regex(path, /^\.\.\/whole\/\d+\/l$/);
    expectFuse(await lowers(target));
    await proxy.switchOff();
    for (const at of [second, target]) t.deepEqual(await differences({ fixtures, backend: 'kernel' }, 'lazy', at), []);

    await using recording = await new DaemonClient(scene.root).trace();
    await dropCaches();
    t.is(await digestOf(second), await digestOf(fixtures.reference.lazy));
    t.deepEqual((await recording.finish()).reads, [], 'nobody is asked for anything');
    await proxy.switchOn();

    await scene.umount(target);
    t.is((await whole(scene)).length, layerCount, 'as long as a mount is left');
    await scene.umount(second);
    await scene.daemonGone();
    t.deepEqual(await scene.mounted(), []);
    t.deepEqual(await readdir(join(scene.root, 'whole')), []);

    // Of a daemon that finds all of it on disk.
    await scene.mount(image('lazy'), target);
    for (const path of await lowers(target)) t.regex(path, /^\.\.\/whole\/\d+\/l$/);
    await scene.umount(target);
  },
);

test.serial('while reads are traced, mounts are such that they are seen', async (t) => {
  const place = await stage(t, 'background_quiet_sec = 0\n');
  const { scene, image, target } = place;
  await mountUntilWhole(place, target);
  const second = await scene.mountPoint('second');
  await using recording = await new DaemonClient(scene.root).trace();
  await scene.mount(image('lazy'), second);
  expectFuse(await lowers(second));
  await dropCaches();
  await digestOf(second);
  t.true((await recording.finish()).files.some(({ path }) => path === '/srv/hard/random'));
  await scene.umount(second);
  await scene.umount(target);
});

test.serial('nothing of it waits for a daemon that was killed; the next one goes on, or takes all away', async (t) => {
  const place = await stage(t, 'background_quiet_sec = 0\n');
  const { scene, image, target, fixtures } = place;
  await mountUntilWhole(place, target);
  await scene.umount(target);
  await scene.daemonGone();
  await scene.mount(image('lazy'), target);
  const expected = await digestOf(fixtures.reference.lazy);
  const slots = await whole(scene);
  t.is(slots.length, layerCount);

  const { serving } = await scene.processes();
  process.kill(serving!, 'SIGKILL');
  await dropCaches();
  t.is(await digestOf(target), expected);
  await eventually('another process serves', async () => {
    const now = (await scene.processes()).serving;
    return now !== undefined && now !== serving && (await scene.ps()).length === 1 ? true : undefined;
  });
  t.deepEqual(await whole(scene), slots, 'taken over');
  const second = await scene.mountPoint('second');
  await scene.mount(image('lazy'), second);
  for (const path of await lowers(second)) t.regex(path, /^\.\.\/whole\//);
  await scene.umount(second);

  await scene.killAll();
  await dropCaches();
  t.is(await digestOf(target), expected, 'with no daemon at all');
  await scene.umount(target);
  t.deepEqual(await scene.mounted(), []);
  t.deepEqual(await readdir(join(scene.root, 'whole')), []);
});

test.serial('erofs = false leaves all layers to FUSE', async (t) => {
  const place = await stage(t, 'background_quiet_sec = 0\n[fuse]\nerofs = false\n');
  const { scene, image, target } = place;
  await scene.mount(image('lazy'), target);
  await eventually('everything is present', async () => {
    const [info] = await scene.ps();
    return info.presentBytes === info.contentBytes ? true : undefined;
  });
  const second = await scene.mountPoint('second');
  await scene.mount(image('lazy'), second);
  expectFuse(await lowers(second));
  t.deepEqual(await whole(scene), []);
  await scene.umount(second);
  await scene.umount(target);
});

test.serial(
  'content that has to make room takes its mount along; who has it open reads on, and the next mount fetches',
  async (t) => {
    const config = 'background_quiet_sec = 0\n[fuse]\nlayer_idle_sec = 4\n[cache]\nmax_bytes = 0\n';
    const place = await stage(t, config);
    const { scene, image, target, fixtures } = place;
    await scene.mount(image('lazy'), target, '--no-background-fetch');
    // What upper layers hide, too.
    await run('sh', ['-c', 'tar -c . | cat >/dev/null'], { cwd: join(scene.root, 'fuse/l') });
    const second = await scene.mountPoint('second');
    // Whole as they are, none is dropped as long as it is awake: so they are mounted by the kernel, if only for a moment.
    await scene.mount(image('lazy'), second, '--no-background-fetch');
    const mountedBy = await lowers(second);
    t.true(
      mountedBy.some((path) => path.startsWith('../whole/')),
      mountedBy.join(),
    );
    const { serving } = await scene.processes();
    await eventually('content of layers that sleep is dropped', async () =>
      (await whole(scene)).length === 0 ? true : undefined,
    );
    t.is((await scene.processes()).serving, serving);
    await dropCaches();
    const expected = await digestOf(fixtures.reference.lazy);
    t.is(await digestOf(second), expected, 'what is mounted keeps what it has');
    t.is(await digestOf(target), expected, 'by FUSE, it is fetched again');
    await scene.umount(second);
    await scene.umount(target);
  },
);

async function served(t: ExecutionContext) {
  const address = `127.0.0.1:${await freePort()}`;
  const place = await stage(t, `background_quiet_sec = 0\n[metrics]\naddress = "${address}"\n`);
  const value = async (name: string) => {
    const text = await fetch(`http://${address}/metrics`).then((answer) => answer.text());
    return Number(new RegExp(`^${name} (\\d+)$`, 'm').exec(text)?.[1]);
  };
  const untilWhole = () =>
    eventually('every layer is mounted by the kernel', async () =>
      (await value('lazylayer_layers_whole')) === layerCount ? true : undefined,
    );
  return { ...place, value, untilWhole };
}

test.serial(
  'containerd: a container over layers that are all there asks the daemon for nothing, and outlives it',
  async (t) => {
    const { scene, image, fixtures, value, untilWhole } = await served(t);
    const daemon = new ServedScene(t, scene);
    await daemon.start();
    const { ctr, ctrRemote } = await startContainerd(t, daemon.plugin);
    await ctrRemote('images', 'rpull', '--plain-http', '--snapshotter', 'lazylayer', image('lazy'));
    await untilWhole();
    const expected = `${await digestOf(fixtures.reference.lazy)}  -\n`;

    t.teardown(async () => {
      await ctr('tasks', 'rm', '--force', 'one').catch(() => {}); // where the test itself has done it
    });
    await ctr('run', '--detach', '--snapshotter', 'lazylayer', image('lazy'), 'one', 'sh', '-c', 'sleep 1000');
    let execs = 0;
    const sum = () =>
      ctr('tasks', 'exec', '--exec-id', `e${execs++}`, 'one', 'sh', '-c', 'sha256sum </srv/hard/random');
    await dropCaches();
    const before = await value('lazylayer_fuse_requests_total');
    t.is(await sum(), expected);
    t.is(await value('lazylayer_fuse_requests_total'), before);

    t.is(await daemon.stop(), 0);
    t.deepEqual(await scene.mounted(), []);
    await dropCaches();
    t.is(await sum(), expected, 'with no daemon at all');

    await daemon.start();
    await eventually('containerd is connected again', () =>
      ctr('run', '--rm', '--snapshotter', 'lazylayer', image('lazy'), `again${execs++}`, 'sh', '-c', 'true'),
    );
    t.is(await value('lazylayer_layers_whole'), layerCount, 'mounted again when they are wanted');
    await ctr('tasks', 'rm', '--force', 'one');
    await ctr('containers', 'rm', 'one');
    await ctr('images', 'rm', '--sync', image('lazy'));
    await eventually('layers that nobody has are let go', async () =>
      (await whole(scene)).length === 0 ? true : undefined,
    );
  },
);

test.serial(
  'Podman: a container over layers that are all there asks the daemon for nothing, also after it is started anew',
  async (t) => {
    const { scene, image, fixtures, proxy, value, untilWhole } = await served(t);
    const store = await PodmanScene.open(t, scene, proxy.host);
    await store.start();
    const expected = await digestOf(fixtures.reference.lazy);
    await store.podman('pull', '--quiet', image('lazy'));
    await untilWhole();
    for (const start of ['the first', 'another']) {
      if (start === 'another') {
        t.is(await store.stop(), 0);
        t.deepEqual(await whole(scene), []);
        await store.start();
        await untilWhole();
      }
      const mounted = (await store.podman('image', 'mount', image('lazy'))).trim();
      await dropCaches();
      const before = await value('lazylayer_fuse_requests_total');
      t.is(await digestOf(mounted), expected);
      t.is(await value('lazylayer_fuse_requests_total'), before, start);
      await store.podman('image', 'umount', image('lazy'));
    }
    await store.podman('rmi', image('lazy'));
  },
);
