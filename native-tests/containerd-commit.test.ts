import { createHash } from 'node:crypto';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import test from 'ava';
import { compareTrees, estargzFiles, roundToSeconds } from './support/compare.js';
import { startContainerd } from './support/containerd.js';
import { startDockerRegistry } from './support/docker-registry.js';
import { OciLayout, type OciDescriptor, type OciManifest } from './support/oci-layout.js';
import { ServedScene } from './support/serve.js';
import { stageFor } from './support/stage.js';
import { outcomeOf, run } from './support/tools.js';

const stage = stageFor(test);

const layerType = 'application/vnd.oci.image.layer.v1.tar+gzip';

/*
 * What containerd makes of the layers below by unpacking them: times before 1970 become 1970, attributes in `trusted.` are left out, and
 * so is the one that overlayfs hides for mounts with `userxattr` beside the one that it hides here.
 */
const lostByUnpacking = [
  './opt/becomes-directory: xattr user.overlay.opaque: expected 0x79, found none',
  './opt/opaque: xattr user.overlay.opaque: expected 0x79, found none',
  './srv/hard/before-epoch: mtime: expected -2147472000000000000 ns, found 0 ns',
  './srv/posix/before-epoch: mtime: expected -2000000000 ns, found 0 ns',
  './srv/posix/xattr: xattr trusted.fixture: expected 0x74, found none',
];

/** Everything that a layer can say of the ones below: new, changed, gone, in place of another type, hidden as a whole. */
const change = [
  "set -e; touch -d '1 second ago' /dev/shm/begin; cd /srv/hard",
  'mkdir -p /srv/new/deep; echo new >/srv/new/deep/file; ln /srv/new/deep/file /srv/new/link; ln -s deep /srv/new/symbolic',
  'echo more >>small; chmod 4751 /usr/bin/id; chown 7:8 /etc/issue',
  'rm random; rm -r many; mkdir many; echo only >many/one',
  'rm /etc/debian_version; mkdir /etc/debian_version',
  // containerd writes whole seconds into a layer. Of the image's own files, some may be minutes old.
  'find /srv /etc -newer /dev/shm/begin -exec touch -hd @1700000000 {} +',
].join('; ');

test.serial('a container over lazy layers becomes an image that is pushed, and pulled anywhere', async (t) => {
  const { scene, image } = await stage(t, 'background = false\n');
  const served = new ServedScene(t, scene);
  await served.start();
  const { socket, ctr, ctrRemote, push } = await startContainerd(t, served.plugin);
  const storage = join(scene.directory, 'registry');
  await mkdir(storage);
  const registry = await startDockerRegistry(t, storage);
  const base = image('lazy');
  const committed = `${registry.host}/committed:1`;
  await ctrRemote('images', 'rpull', '--plain-http', '--snapshotter', 'lazylayer', base);
  t.deepEqual(served.prepared(), ['true', 'true', 'true', 'true']);

  await ctr('run', '--snapshotter', 'lazylayer', base, 'made', 'sh', '-c', change);
  await ctr('tasks', 'rm', 'made').catch(() => undefined);
  const layer = await outcomeOf('ctr', ['-a', socket, 'snapshots', '--snapshotter', 'lazylayer', 'diff', 'made']);
  t.is(layer.status, 0, layer.stderr);
  t.true(
    layer.stdout.length < 100_000,
    `a layer of what was changed, and of nothing else: ${layer.stdout.length} bytes`,
  );

  // What was pulled lazily is not in containerd's own store; whoever pushes it is told so, until it is fetched.
  for (const verb of [
    ['push', '--plain-http', `${registry.host}/lazy:1`, base],
    ['export', join(scene.directory, 'export.tar'), base],
  ]) {
    const { status, stderr } = await outcomeOf('ctr', ['-a', socket, 'images', ...verb]);
    t.is(status, 1, verb[0]);
    t.regex(stderr, /content digest sha256:[0-9a-f]{64}: not found/, verb[0]);
  }
  await ctr('content', 'fetch', '--plain-http', base);

  const layout = new OciLayout(join(scene.directory, 'oci'));
  await mkdir(join(layout.directory, 'blobs', 'sha256'), { recursive: true });
  await writeFile(join(layout.directory, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}');
  await writeFile(join(layout.directory, 'index.json'), '{"schemaVersion":2,"manifests":[]}');
  const content = async (digest: string) => JSON.parse(await ctr('content', 'get', digest)) as object;
  const digest = (await ctr('images', 'ls', `name==${base}`)).match(/sha256:[0-9a-f]{64}/)![0];
  const manifest = (await content(digest)) as OciManifest & { mediaType: string };
  const config = (await content(manifest.config.digest)) as { rootfs: { diff_ids: string[] } };
  config.rootfs.diff_ids.push(`sha256:${createHash('sha256').update(gunzipSync(layer.stdout)).digest('hex')}`);
  const descriptor = (mediaType: string, value: object): Promise<OciDescriptor> =>
    layout.addBlob(mediaType, Buffer.from(JSON.stringify(value)));
  const whole = {
    ...manifest,
    config: await descriptor(manifest.config.mediaType, config),
    layers: [...manifest.layers, await layout.addBlob(layerType, layer.stdout)],
  };
  await layout.tag('1', await descriptor(manifest.mediaType, whole));
  const archive = join(scene.directory, 'committed.tar');
  await run('tar', ['-C', layout.directory, '-cf', archive, '.']);
  await ctr('images', 'import', '--no-unpack', '--base-name', `${registry.host}/committed`, archive);
  await push(committed);
  await ctr('images', 'rm', '--sync', committed);

  await ctr('images', 'pull', '--plain-http', '--snapshotter', 'overlayfs', committed);
  const [left, right] = [await scene.mountPoint('lazily'), await scene.mountPoint('pulled')];
  await ctr('images', 'mount', '--snapshotter', 'overlayfs', committed, right);
  t.teardown(() => run('umount', [right]));
  await run('sh', ['-ec', await ctr('snapshots', '--snapshotter', 'lazylayer', 'mounts', left, 'made')]);
  t.teardown(() => run('umount', [left]));
  const differences = await compareTrees(left, right, { time: roundToSeconds, ignore: estargzFiles });
  const ofTheRoot = (line: string) => line.startsWith('.: mtime');
  t.deepEqual(differences.filter((line) => !ofTheRoot(line)).sort(), lostByUnpacking.sort());

  // Its own layer is no lazy one; those below are, and are there already.
  await ctrRemote('images', 'rpull', '--plain-http', '--snapshotter', 'lazylayer', committed);
  const [reason, ...others] = served.prepared().slice(4);
  t.regex(reason, /^false .*no TOC digest/);
  t.deepEqual(others, []);
  const script = 'cat /srv/hard/small /srv/hard/many/one /srv/new/symbolic/file; ls /srv/hard/many';
  t.is(
    await ctr('run', '--rm', '--snapshotter', 'lazylayer', committed, 'again', 'sh', '-c', script),
    'small\nmore\nonly\nnew\none\n',
  );
});
