import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { defaultConfig } from '../config/config.js';
import { buildImage, type BuiltImage } from '../testing/image.js';
import { startTestRegistry, type TestRegistry } from '../testing/registry.js';
import { Workspace } from './workspace.js';

function publish(registry: TestRegistry, repository: string, image: BuiltImage): void {
  for (const { bytes, descriptor } of [...image.layers, image.config]) registry.putBlob(bytes, descriptor.mediaType);
  for (const { bytes, descriptor } of [image.manifest, image.index])
    registry.putManifest(repository, '1', bytes, descriptor.mediaType);
}

test('a tag that was met is confirmed by one request, after a restart too; a digest by none', async (t) => {
  const root = await mkdtemp(join(tmpdir(), 'lazylayer-workspace-'));
  t.teardown(() => rm(root, { recursive: true, force: true }));
  await using registry = await startTestRegistry();
  const name = `${registry.host}/app:1`;
  publish(registry, 'app', await buildImage({ layers: [[{ path: 'a', content: 'one' }]] }));
  const config = { ...defaultConfig(), root };
  const asked = () => registry.requests.map((request) => request.path.split('/')[3]);
  {
    await using workspace = await Workspace.open(config);
    const { digest } = await workspace.image(name);
    t.deepEqual(asked(), ['manifests', 'manifests', 'blobs']);
    registry.reset();
    t.is((await workspace.image(name)).digest, digest);
    t.deepEqual(asked(), ['manifests']);
    await workspace.image(`${name}@${digest}`);
    registry.reset();
    await workspace.image(`${name}@${digest}`);
    t.deepEqual(asked(), []);
  }
  await using workspace = await Workspace.open(config);
  const before = await workspace.image(name);
  t.deepEqual(asked(), ['manifests']);
  t.is(before.warning, undefined);
  publish(registry, 'app', await buildImage({ layers: [[{ path: 'a', content: 'two' }]] }));
  registry.reset();
  t.not((await workspace.image(name)).digest, before.digest);
  t.deepEqual(asked(), ['manifests', 'manifests', 'blobs']);
});
