import { mkdir, readdir, readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import test from 'ava';
import { digestOf } from '../src/digest/digester.js';
import { writeProgram } from '../src/testing/program.js';
import { manifestOf, startDockerRegistry } from './support/docker-registry.js';
import type { OciManifest } from './support/oci-layout.js';
import { PodmanScene } from './support/podman.js';
import { CountingProxy } from './support/proxy.js';
import { program } from './support/scene.js';
import { stageFor } from './support/stage.js';
import { outcomeOf, run } from './support/tools.js';

const stage = stageFor(test);

const answer = ['sh', '-c', 'echo $((6 * 7))'];
const password = 'not-to-be-told';

test.serial('behind a login: the daemon finds what podman login left, and tells nobody', async (t) => {
  const { scene, fixtures } = await stage(t, 'background = false\n');
  const registry = await startDockerRegistry(t, fixtures.storage, {
    readOnly: true,
    login: { user: 'reader', password },
  });
  const proxy = await CountingProxy.start(t, registry.port);
  const store = await PodmanScene.open(t, scene, proxy.host);
  await store.start('--log-level', 'trace');
  const image = `${proxy.host}/lazy:1`;
  const refused = await store.tryPodman('pull', '--quiet', image);
  t.not(refused.status, 0, 'nobody logged in yet');
  await store.podman('login', '--tls-verify=false', '--username', 'reader', '--password', password, proxy.host);
  proxy.reset();
  await store.podman('pull', '--quiet', image);
  t.is(await store.podman('run', '--rm', image, ...answer), '42\n');
  const downloads = proxy.blobRequests.filter(
    ({ agent, bytes }) => agent?.includes('lazylayer') !== true && bytes > 100_000,
  );
  t.deepEqual(downloads, [], 'no layer was pulled by Podman');
  t.regex(store.said(), /"status":206/, 'requests are in the log');
  for (const secret of [password, Buffer.from(`reader:${password}`).toString('base64')])
    t.false(store.said().includes(secret));
});

test.serial(
  'a login that only the client has comes by its helper; what is gone from memory is not on disk',
  async (t) => {
    const { scene, fixtures } = await stage(t, 'background = false\n');
    const login = { user: 'reader', password };
    const registry = await startDockerRegistry(t, fixtures.storage, { readOnly: true, login });
    const store = await PodmanScene.open(t, scene, registry.host);
    await store.start('--log-level', 'trace');
    const reference = `${registry.host}/sibling:1`;
    const directory = join(store.mountPoint, Buffer.from(reference).toString('base64'));
    const helper = join(scene.directory, 'helper');
    const main = join(dirname(program), 'store-credential-main.js');
    writeProgram(helper, `exec ${process.execPath} ${main}`);
    // Without arguments, as clients do.
    const hand = (logins: object) =>
      outcomeOf(helper, [], { env: { ...store.env, LAZYLAYER_ROOT: scene.root }, input: JSON.stringify(logins) });

    await t.throwsAsync(readdir(directory), { code: 'EIO' });
    t.like(await hand({ [`${registry.host}/lazy:1`]: { username: 'reader', password } }), { status: 0, stderr: '' });
    await t.throwsAsync(readdir(directory), { code: 'EIO' }, 'that was for another repository');
    t.like(await hand({ [reference]: { username: 'reader', password } }), { status: 0, stderr: '' });
    t.deepEqual(await readdir(directory), []);
    const refused = await hand({ [reference]: { username: 'reader', password: [password] } });
    t.is(refused.status, 2);
    t.false(refused.stderr.includes(password));
    t.is(await store.stop(), 0);
    const nobody = await hand({ [reference]: { username: 'reader', password } });
    t.is(nobody.status, 1);
    t.regex(nobody.stderr, /no daemon has/);

    const said = store.said() + refused.stderr + nobody.stderr;
    t.regex(said, /"status":200/, 'requests are in the log');
    const kept = await outcomeOf('grep', ['-rlF', password, scene.root]);
    t.is(kept.stdout.toString(), '', 'nothing of it is on disk');
    for (const secret of [password, Buffer.from(`reader:${password}`).toString('base64')])
      t.false(said.includes(secret));
  },
);

test.serial('a lazy image is pushed to another registry: anybody pulls from there what it was', async (t) => {
  const { scene, proxy, image } = await stage(t, 'background = false\n');
  const storage = join(scene.directory, 'registry');
  await mkdir(storage);
  const other = await startDockerRegistry(t, storage);
  const store = await PodmanScene.open(t, scene, proxy.host);
  await store.start();
  await store.podman('pull', '--quiet', image('lazy'));
  await store.podman('push', '--quiet', '--tls-verify=false', image('lazy'), `${other.host}/copied:1`);
  const layout = join(scene.directory, 'oci');
  await run('skopeo', ['copy', '-q', '--src-tls-verify=false', `docker://${other.host}/copied:1`, `oci:${layout}:1`]);
  const blob = (digest: string) => readFile(join(layout, 'blobs', ...digest.split(':')));
  const json = async <V>(digest: string) => JSON.parse((await blob(digest)).toString()) as V;
  const index = JSON.parse(await readFile(join(layout, 'index.json'), 'utf8')) as { manifests: { digest: string }[] };
  const copied = await json<OciManifest>(index.manifests[0].digest);
  const original = await manifestOf(proxy.host, 'lazy');
  t.is(copied.config.digest, original.config.digest);
  t.is(copied.layers.length, original.layers.length);
  const { rootfs } = await json<{ rootfs: { diff_ids: string[] } }>(copied.config.digest);
  for (const [i, { digest }] of copied.layers.entries())
    t.is(String(digestOf(gunzipSync(await blob(digest)))), rootfs.diff_ids[i]);
});

test.serial(
  'a container outlives its registry: what was read is there, the rest is an error until it is back',
  async (t) => {
    const { scene, proxy, image } = await stage(t, 'background = false\nprefetch = false\n');
    const store = await PodmanScene.open(t, scene, proxy.host);
    await store.start();
    await store.podman('run', '--detach', '--name', 'stays', image('lazy'), 'sleep', '600');
    const inside = (...command: string[]) => outcomeOf('podman', ['exec', 'stays', ...command], { env: store.env });
    const known = await inside('cat', '/srv/hard/small');
    t.is(known.status, 0, known.stderr);
    await proxy.switchOff();
    const again = await inside('cat', '/srv/hard/small');
    t.is(again.stdout.toString(), known.stdout.toString());
    const unread = await inside('cat', '/srv/hard/random');
    t.is(unread.status, 1);
    t.regex(unread.stderr, /Input\/output error/);
    await proxy.switchOn();
    const back = await inside('cat', '/srv/hard/random');
    t.is(back.status, 0, back.stderr);
    await store.podman('rm', '--force', '--time', '0', 'stays');
  },
);
