import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { startContainerd } from './support/containerd.js';
import { Cri } from './support/cri/client.js';
import { sha256File } from './support/compare.js';
import { ServedScene } from './support/serve.js';
import { stageFor, type Stage } from './support/stage.js';
import { run } from './support/tools.js';

const stage = stageFor(test);

const sandboxImage = 'pods.example/pause:1';

/** An image that waits, for pods to be made of, as an archive that `ctr` imports. */
async function pauseArchive({ scene, image }: Stage): Promise<string> {
  const layout = join(scene.directory, 'pause');
  await run('skopeo', ['copy', '-q', '--src-tls-verify=false', `docker://${image('plain')}`, `oci:${layout}:1`]);
  const entrypoint = ['/bin/sleep', 'infinity'].flatMap((word) => ['--config.entrypoint', word]);
  await run('umoci', ['config', '--image', `${layout}:1`, ...entrypoint]);
  const archive = `${layout}.tar`;
  await run('tar', ['-C', layout, '-cf', archive, '.']);
  return archive;
}

test.serial('Kubernetes: CRI pulls an image lazily, and a pod runs a container of it', async (t) => {
  const staged = await stage(t, 'background = false\n');
  const { scene, image, proxy, fixtures } = staged;
  const served = new ServedScene(t, scene);
  await served.start();
  // As a person would paste it; the version stands in the file already.
  const flags = ['containerd', '--root', scene.root, '--config', scene.config, '--containerd-version', '1'];
  const { stdout } = await scene.lazylayer('config', flags);
  const pasted = stdout
    .toString()
    .replace('version = 2', '')
    .replace(/^address = .*$/m, `address = "${served.address}"`);
  const containerd = await startContainerd(t, pasted.split('\n'), { sandboxImage });
  const archive = await pauseArchive(staged);
  await containerd.ctr(
    '-n',
    'k8s.io',
    'images',
    'import',
    '--base-name',
    'pods.example/pause',
    '--snapshotter',
    'lazylayer',
    archive,
  );
  t.deepEqual(served.prepared(), []);

  const logs = join(scene.directory, 'logs');
  await mkdir(logs);
  const cri = new Cri(t, containerd.socket, logs);
  proxy.reset();
  await cri.pull(image('lazy'));
  t.deepEqual(served.prepared(), ['true', 'true', 'true', 'true']);
  const asked = proxy.requests.filter(({ agent }) => agent === 'lazylayer');
  t.true(asked.length <= 4 + 4, asked.map(({ method, path }) => `${method} ${path}`).join('\n'));

  const pod = await cri.runPod('lazy');
  const container = await cri.run(pod, 'lazy', image('lazy'), ['sh', '-c', 'sleep 1000']);
  const random = await sha256File(join(fixtures.reference.lazy, 'srv/hard/random'));
  t.is(await cri.exec(container, ['sha256sum', '/srv/hard/random']), `${random}  /srv/hard/random\n`);
  t.is(await cri.exec(container, ['sh', '-c', 'echo written >/new && cat /new']), 'written\n');

  await cri.removePod(pod);
  await cri.removeImage(image('lazy'));
  await cri.pull(image('lazy'));
  t.true(
    served.prepared().every((word) => word === 'true'),
    'pulled again, it is lazy again',
  );
});
