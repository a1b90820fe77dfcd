import test from 'ava';
import { digestOf } from '../digest/digester.js';
import { mediaTypes } from '../image/mediatype.js';
import { parsePlatform } from '../image/platform.js';
import { parseReference } from '../image/reference.js';
import { startTestRegistry, type TestRegistry } from '../testing/registry.js';
import { Registry } from './client.js';

const amd64 = parsePlatform('linux/amd64');

function pushImage(registry: TestRegistry, repository = 'team/app', tag = '1') {
  const layer = registry.putBlob(Buffer.alloc(300_000, 'layer'), mediaTypes.ociLayerGzip);
  const config = registry.putBlob(
    Buffer.from(
      JSON.stringify({ architecture: 'amd64', os: 'linux', rootfs: { type: 'layers', diff_ids: [digestOf('x')] } }),
    ),
    mediaTypes.ociConfig,
  );
  const manifest = registry.putManifest(
    repository,
    `${tag}-amd64`,
    Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: mediaTypes.ociManifest, config, layers: [layer] })),
    mediaTypes.ociManifest,
  );
  const index = registry.putManifest(
    repository,
    tag,
    Buffer.from(
      JSON.stringify({
        schemaVersion: 2,
        mediaType: mediaTypes.ociIndex,
        manifests: [{ ...manifest, platform: { os: 'linux', architecture: 'amd64' } }],
      }),
    ),
    mediaTypes.ociIndex,
  );
  return { layer, config, manifest, index };
}

test('a tag of an index takes three requests, a manifest two, and a blob reader none until it reads', async (t) => {
  await using server = await startTestRegistry();
  const { layer, manifest } = pushImage(server);
  await using registry = new Registry();
  const reference = parseReference(`${server.host}/team/app:1`);
  const image = await registry.resolve(reference, { platform: amd64 });
  t.deepEqual(
    server.requests.map((r) => [r.method, r.path.split('/')[4], r.status]),
    [
      ['GET', 'manifests', 200],
      ['GET', 'manifests', 200],
      ['GET', 'blobs', 200],
    ],
  );
  t.is(image.descriptor.digest, manifest.digest);
  t.deepEqual(image.manifest.layers, [layer]);
  t.is(image.config.architecture, 'amd64');

  server.reset();
  await registry.resolve(parseReference(`${server.host}/team/app:1-amd64`));
  t.is(server.requests.length, 2);

  server.reset();
  const reader = registry.openBlob(reference, image.manifest.layers[0]);
  t.is(reader.size, 300_000);
  t.is(server.requests.length, 0);
  const bytes = await reader.read(7, 100);
  t.deepEqual(Buffer.from(bytes), Buffer.alloc(300_000, 'layer').subarray(7, 107));
  t.deepEqual(
    server.requests.map((r) => [r.range, r.status, r.bytes]),
    [['bytes=7-106', 206, 100]],
  );
  t.is(registry.stats.requests, 6);
});
