import { chmod, lstat, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import type { Mount, Snapshotter } from '../src/snapshot/snapshotter.js';
import { mountSnapshot, upperDirectory } from '../src/testing/snapshot-mounts.js';
import { connectSnapshots } from '../src/testing/snapshots-client.js';
import { startContainerd } from './support/containerd.js';
import { mountedWhole } from './support/scene.js';
import { ServedScene } from './support/serve.js';
import { stageFor, type Stage } from './support/stage.js';
import { eventually } from './support/tools.js';
import { runInUserNamespace } from './support/user-namespace.js';

const stage = stageFor(test);

const host = { uid: 100_000, gid: 200_000 };
const labels = {
  'containerd.io/snapshot/uidmapping': `0:${host.uid}:65536`,
  'containerd.io/snapshot/gidmapping': `0:${host.gid}:65536`,
};

interface Pulled extends Stage {
  readonly served: ServedScene;
  readonly snapshotter: Snapshotter;
  /** Name of the snapshot that is the whole image. */
  readonly top: string;
}

/** The lazy image, pulled by containerd into a snapshotter that says that clients may map ids. */
async function pulled(t: ExecutionContext, more = '', fetch = 'background = false'): Promise<Pulled> {
  const staged = await stage(t, `${fetch}\n[snapshotter]\nremap_ids = true\n${more}`);
  const { scene, image } = staged;
  // What a container of another user is made of lies below.
  await chmod(scene.directory, 0o711);
  const served = new ServedScene(t, scene);
  await served.start();
  const containerd = await startContainerd(t, served.plugin);
  await containerd.ctrRemote('images', 'rpull', '--plain-http', '--snapshotter', 'lazylayer', image('lazy'));
  t.deepEqual(served.prepared(), ['true', 'true', 'true', 'true']);
  const snapshotter = connectSnapshots(served.address);
  t.teardown(() => snapshotter.close());
  return { ...staged, served, snapshotter, top: await topOf(snapshotter) };
}

async function topOf(snapshotter: Snapshotter): Promise<string> {
  const names: string[] = [];
  const parents = new Set<string>();
  for await (const { name, parent } of snapshotter.walk()) {
    names.push(name);
    parents.add(parent);
  }
  return names.find((name) => !parents.has(name))!;
}

const ownerOf = async (path: string) => {
  const { uid, gid } = await lstat(path);
  return `${uid}:${gid}`;
};

test.serial(
  'a container in a user namespace sees the owners of lazy layers, and its own in what it wrote',
  async (t) => {
    const { scene, snapshotter, top, target, served } = await pulled(t);
    const mounts = await snapshotter.prepare('container', top, { labels });
    t.deepEqual(mounts[0].options.slice(0, 2), [`uidmap=0:${host.uid}:65536`, `gidmap=0:${host.gid}:65536`]);
    await mountSnapshot(t, mounts, target);
    const root = `${host.uid}:${host.gid}`;
    for (const name of ['.', 'usr', 'etc/passwd', 'srv/hard/small'])
      t.is(await ownerOf(join(target, name)), root, name);
    const shadow = await ownerOf(join(target, 'etc/shadow'));
    t.is(shadow, `${host.uid}:${host.gid + 42}`);

    const script = [
      'set -e; id -u; stat -c %u:%g / /etc/shadow /srv/hard/small; cat /srv/hard/small',
      'echo more >>/srv/hard/small; echo new >/new; chown 5:6 /etc/passwd; rm -r /srv/hard/many; mkdir /srv/hard/many',
      'stat -c %u:%g /srv/hard/small /new /etc/passwd /srv/hard/many',
    ].join('; ');
    const { status, stdout, stderr } = await runInUserNamespace(scene.directory, {
      id: `idmapped-${process.pid}`,
      rootfs: target,
      host,
      script,
    });
    t.is(status, 0, stderr);
    t.is(stdout.toString(), '0\n0:0\n0:42\n0:0\nsmall\n0:0\n0:0\n5:6\n0:0\n');
    const upper = upperDirectory(mounts);
    const owners = await Promise.all(
      ['.', 'srv/hard/small', 'new', 'etc/passwd', 'srv/hard/many'].map((name) => ownerOf(join(upper, name))),
    );
    t.deepEqual(owners, [root, root, root, `${host.uid + 5}:${host.gid + 6}`, root]);
    t.is(await readFile(join(upper, 'srv/hard/small'), 'utf8'), 'small\nmore\n');

    // Without the labels, and in another container's mapping, the same layers belong to others.
    const other = join(scene.directory, 'other');
    await mountSnapshot(t, await snapshotter.view('other', top), other);
    t.is(await ownerOf(join(other, 'srv/hard/small')), '0:0');

    // A new serving process goes on with what was negotiated.
    process.kill((await scene.processes()).serving!, 'SIGKILL');
    await eventually('snapshots are offered again', async () =>
      served.log().filter(({ msg }) => msg === 'snapshots are offered').length === 2 ? true : undefined,
    );
    const again = await eventually('the client is connected again', () =>
      snapshotter.prepare('again', top, { labels }),
    );
    await mountSnapshot(t, again, join(scene.directory, 'again'));
    t.is(await ownerOf(join(scene.directory, 'again/srv/hard/small')), root);
  },
);

test.serial('clients map the directory that all lower directories share, so these stay on one mount', async (t) => {
  const { scene, snapshotter, top } = await pulled(t, '', 'background_quiet_sec = 0');
  await eventually('the kernel reads the layers by itself', async () =>
    (await mountedWhole(scene.root)).length === 4 ? true : undefined,
  );
  const lower = ([{ options }]: Mount[]) =>
    options
      .find((option) => option.startsWith('lowerdir='))!
      .slice('lowerdir='.length)
      .split(':');
  for (const path of lower(await snapshotter.view('as it is', top)))
    t.true(path.startsWith(join(scene.root, 'whole/')));
  for (const path of lower(await snapshotter.prepare('mapped', top, { labels })))
    t.true(path.startsWith(join(scene.root, 'fuse/l/')));
});

test.serial('a lazy layer alone is bound with its owners mapped', async (t) => {
  const { scene, snapshotter, top } = await pulled(t);
  let lowest = top;
  for (;;) {
    const { parent } = await snapshotter.stat(lowest);
    if (parent === '') break;
    lowest = parent;
  }
  const view = join(scene.directory, 'view');
  await mountSnapshot(t, await snapshotter.view('view', lowest, { labels }), view);
  t.is(await ownerOf(join(view, 'etc/passwd')), `${host.uid}:${host.gid}`);
  t.true((await stat(join(view, 'etc/passwd'))).size > 0);
  await t.throwsAsync(writeFile(join(view, 'new'), ''), { code: 'EROFS' });
  await rm(view, { recursive: true }).catch(() => undefined);
  t.true((await stat(join(view, 'etc/passwd'))).isFile());
});

test.serial(
  'where the backend cannot, a mapping is refused, with the reason; without one all is as ever',
  async (t) => {
    const { snapshotter, top } = await pulled(t, '[fuse]\nbackend = "fuse-native"\n');
    const error = await t.throwsAsync(snapshotter.prepare('container', top, { labels }));
    t.like(error, { code: 'FAILED_PRECONDITION' });
    t.regex(error.message, /fuse-native, which has no id-mapped mounts/);
    t.is((await snapshotter.prepare('container', top)).length, 1);
  },
);
