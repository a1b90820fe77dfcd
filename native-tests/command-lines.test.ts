import { randomBytes } from 'node:crypto';
import test from 'ava';
import type { TraceReport } from '../src/bench/trace/report.js';
import { buildImage } from '../src/testing/image.js';
import { startTestRegistry } from '../src/testing/registry.js';
import { hostPrograms } from './support/host-programs.js';
import { Scene } from './support/scene.js';

const late = '/srv/app/late.py';

for (const engine of ['mount', 'containerd'])
  test.serial(`${engine}: what only the command line names comes before it is read`, async (t) => {
    t.timeout(300_000);
    const registry = await startTestRegistry();
    t.teardown(() => registry.stop());
    const image = await buildImage({
      // Nothing else of the layer is read, so that nothing else brings the file.
      layers: [
        await hostPrograms('/usr/bin/sh', '/usr/bin/sleep', '/usr/bin/cat'),
        [
          { path: 'srv/a', content: randomBytes(1_000_000) },
          { path: late.slice(1), content: 'import nothing\n' },
          { path: 'srv/b', content: randomBytes(1_000_000) },
        ],
      ],
      config: { Cmd: ['/usr/bin/cat'] },
      architecture: process.arch === 'x64' ? 'amd64' : process.arch,
    });
    for (const blob of image.blobs.values()) registry.putBlob(blob.bytes);
    registry.putManifest('img', '1', image.manifest.bytes, image.manifest.descriptor.mediaType);
    const scene = await Scene.open(t, 'log_level = "error"\n[fetch]\nbackground = false\n');
    const command = ['sh', '-c', `sleep 2; cat ${late}`];
    const args = ['--engine', engine, '--json', '--stall', '0ms', `${registry.host}/img:1`, '--', ...command];
    const { status, stdout, stderr } = await scene.lazylayer('trace', args, { timeout: 240_000 });
    t.is(status, 0, stderr);
    const { files, reads, requests } = JSON.parse(stdout.toString()) as TraceReport;
    const read = reads.find(({ file }) => files[file].path === late);
    t.not(read, undefined);
    t.is(read!.source, 'cache');
    const { digest } = image.layers[1].descriptor;
    const brought = requests.filter(({ blob, reason }) => blob === digest && reason !== 'toc');
    t.deepEqual(
      brought.map(({ reason }) => reason),
      ['prefetch'],
    );
    t.true(brought[0].endMs < read!.startMs - 1000, `${brought[0].endMs} ${read!.startMs}`);
  });
