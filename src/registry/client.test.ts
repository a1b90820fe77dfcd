import test, { type ExecutionContext } from 'ava';
import { digestOf } from '../digest/digester.js';
import { VerificationError } from '../errors.js';
import { parseConfig } from '../image/config.js';
import { mediaTypes } from '../image/mediatype.js';
import { parsePlatform } from '../image/platform.js';
import { parseReference } from '../image/reference.js';
import { NO_LOGINS } from '../testing/registry-auth.js';
import { startTestRegistry, type TestRegistry } from '../testing/registry.js';
import { until } from '../testing/until.js';
import { Registry, type RegistryOptions, type ResolvedImage } from './client.js';

const retry = { attempts: 2, baseMs: 1, maxMs: 2 };
const amd64 = parsePlatform('linux/amd64');

function pushImage(registry: TestRegistry, repository = 'team/app', tag = '1', author = 'nobody') {
  const layer = registry.putBlob(Buffer.alloc(300_000, 'layer'), mediaTypes.ociLayerGzip);
  const config = registry.putBlob(
    Buffer.from(
      JSON.stringify({
        author,
        architecture: 'amd64',
        os: 'linux',
        rootfs: { type: 'layers', diff_ids: [digestOf('x')] },
      }),
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

test('a tag of an index takes two requests, a manifest one, its config one, and a blob reader none until it reads', async (t) => {
  await using server = await startTestRegistry();
  const { layer, manifest } = pushImage(server);
  await using registry = new Registry({ env: NO_LOGINS });
  const reference = parseReference(`${server.host}/team/app:1`);
  const image = await registry.resolve(reference, { platform: amd64 });
  const config = parseConfig(await registry.fetchConfig(reference, image.manifest));
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
  t.is(config.architecture, 'amd64');

  server.reset();
  await registry.resolve(parseReference(`${server.host}/team/app:1-amd64`));
  t.is(server.requests.length, 1);

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
  t.is(registry.stats.requests, 5);
});

type Whole = ResolvedImage & { readonly configBytes: Uint8Array };

async function setUp(t: ExecutionContext, options: RegistryOptions = {}) {
  const server = await startTestRegistry();
  const registry = new Registry({ env: NO_LOGINS, retry, ...options });
  t.teardown(async () => {
    await registry[Symbol.asyncDispose]();
    await server[Symbol.asyncDispose]();
  });
  const resolve = async (name: string, known?: Whole): Promise<Whole> => {
    const reference = parseReference(`${server.host}/${name}`);
    const image = await registry.resolve(reference, { platform: amd64, known });
    return {
      ...image,
      configBytes: await registry.fetchConfig(reference, image.manifest, { known: known?.configBytes }),
    };
  };
  return { server, registry, resolve, ...pushImage(server) };
}

test('by digest: of the manifest, of the index, with a tag beside it that does not count', async (t) => {
  const { server, resolve, manifest, index } = await setUp(t);
  t.is((await resolve(`team/app@${manifest.digest}`)).descriptor.digest, manifest.digest);
  t.is((await resolve(`team/app@${index.digest}`)).descriptor.digest, manifest.digest);
  t.is((await resolve(`team/app:gone@${index.digest}`)).descriptor.digest, manifest.digest);
  t.is(server.requests.filter((r) => r.status !== 200).length, 0);
  t.is(server.requests.length, 8);
});

test('one request confirms what is known: of an index, of a manifest', async (t) => {
  const { server, resolve, manifest } = await setUp(t);
  const known = await resolve('team/app:1');
  for (const tag of ['1', '1-amd64']) {
    server.reset();
    const again = await resolve(`team/app:${tag}`, known);
    t.deepEqual(
      server.requests.map((r) => r.path),
      [`/v2/team/app/manifests/${tag}`],
    );
    t.like(again.descriptor, { digest: manifest.digest, size: manifest.size, mediaType: manifest.mediaType });
    t.deepEqual(again.manifestBytes, known.manifestBytes);
    t.deepEqual(again.configBytes, known.configBytes);
    t.deepEqual(again.manifest, known.manifest);
  }
});

test('what is known serves only for the digests that are asked for now', async (t) => {
  const { server, resolve, config, layer } = await setUp(t);
  const known = await resolve('team/app:1');
  const ask = async (tag: string, from: typeof known) => {
    server.reset();
    const image = await resolve(`team/app:${tag}`, from);
    return { image, asked: server.requests.map((r) => r.path.split('/')[4]) };
  };
  const relabelled = { schemaVersion: 2, config, layers: [layer], annotations: { a: 'b' } };
  const moved = server.putManifest('team/app', '1', Buffer.from(JSON.stringify(relabelled)), mediaTypes.ociManifest);
  const sameConfig = await ask('1', known);
  t.deepEqual(sameConfig.asked, ['manifests'], 'the tag has moved to a manifest with the config that is known');
  t.is(sameConfig.image.descriptor.digest, moved.digest);

  const { manifest: rebuilt } = pushImage(server, 'team/app', '2', 'another');
  const other = await ask('2', known);
  t.deepEqual(other.asked, ['manifests', 'manifests', 'blobs']);
  t.is(other.image.descriptor.digest, rebuilt.digest);

  const torn = { ...other.image, manifestBytes: other.image.manifestBytes.map((byte) => byte ^ 1) };
  const mended = await ask('2', { ...torn, configBytes: Buffer.from('{}') });
  t.deepEqual(mended.asked, ['manifests', 'manifests', 'blobs']);
  t.deepEqual(mended.image.configBytes, other.image.configBytes);
  t.deepEqual(mended.image.manifestBytes, other.image.manifestBytes);
});

test('every document is held against its digest', async (t) => {
  for (const [path, message] of [
    [/manifests\/1$/, /^manifest .*team\/app 1: expected sha256:/],
    [/manifests\/sha256/, /^manifest .*: expected sha256:/],
    [/blobs\//, /^blob .*: expected sha256:/],
  ] as const) {
    const { server, resolve } = await setUp(t);
    server.faults.add({ path, action: { kind: 'corrupt', offset: 3, length: 1 } });
    await t.throwsAsync(resolve('team/app:1'), { instanceOf: VerificationError, message });
  }
  const { server, resolve, index } = await setUp(t);
  server.faults.add({ path: 'manifests/1', action: { kind: 'header', name: 'docker-content-digest', value: '' } });
  t.truthy(await resolve('team/app:1'));
  server.faults.add({ path: 'manifests', action: { kind: 'corrupt', offset: 3, length: 1 } });
  await t.throwsAsync(resolve(`team/app@${index.digest}`), { instanceOf: VerificationError });
});

test('a body that breaks off is asked for again; one that is packed or too large is refused', async (t) => {
  for (const [action, error] of [
    [{ kind: 'truncate', after: 10 }, undefined],
    [{ kind: 'gzip' }, /expected no content-encoding, found "gzip"/],
    [
      { kind: 'status', status: 200, body: ' '.repeat(4 * 1024 * 1024 + 1) },
      /expected at most 4194304 bytes, found 4194305/,
    ],
  ] as const) {
    const { server, resolve } = await setUp(t);
    server.faults.add({ path: 'manifests/1', times: 1, action });
    if (error === undefined) {
      await resolve('team/app:1');
      t.is(server.requests.length, 4);
    } else await t.throwsAsync(resolve('team/app:1'), { code: 'DATA_LOSS', message: error });
  }
});

test('what cannot be mounted is told: no such platform, schema 1, a wrong size, diffIDs that do not fit', async (t) => {
  const { server, registry, resolve, config, layer, manifest } = await setUp(t);
  await t.throwsAsync(
    registry.resolve(parseReference(`${server.host}/team/app:1`), { platform: parsePlatform('linux/s390x') }),
    { code: 'NOT_FOUND', message: /team\/app:1: expected an image for linux\/s390x, found linux\/amd64$/ },
  );
  const put = (tag: string, value: object, mediaType: string) =>
    server.putManifest('team/app', tag, Buffer.from(JSON.stringify(value)), mediaType);
  put('old', { schemaVersion: 1 }, 'application/vnd.docker.distribution.manifest.v1+prettyjws');
  await t.throwsAsync(resolve('team/app:old'), { code: 'UNSUPPORTED', message: /found "application\/vnd\.docker.*v1/ });
  const platform = { os: 'linux', architecture: 'amd64' };
  put('size', { schemaVersion: 2, manifests: [{ ...manifest, size: 5, platform }] }, mediaTypes.ociIndex);
  await t.throwsAsync(resolve('team/app:size'), { code: 'DATA_LOSS', message: /expected 5 bytes, found \d+ bytes/ });
  put('two', { schemaVersion: 2, config, layers: [layer, layer] }, mediaTypes.ociManifest);
  await t.throwsAsync(resolve('team/app:two'), { message: /expected 2 digests, one for each layer .*, found 1/ });
  put('huge', { schemaVersion: 2, config: { ...config, size: 1e12 }, layers: [layer] }, mediaTypes.ociManifest);
  await t.throwsAsync(resolve('team/app:huge'), { message: /expected at most 8388608 bytes, found 1000000000000/ });
  await t.throwsAsync(resolve('team/app:none'), {
    code: 'NOT_FOUND',
    message: /status 404 \(not found\); MANIFEST_UNKNOWN/,
  });
});

test('a signal ends a resolve', async (t) => {
  const { server, registry } = await setUp(t);
  server.faults.add({ path: 'manifests', action: { kind: 'hang' } });
  const controller = new AbortController();
  const resolving = registry.resolve(parseReference(`${server.host}/team/app:1`), {
    platform: amd64,
    signal: controller.signal,
  });
  await until(() => server.count('manifests') > 0);
  controller.abort(new Error('left'));
  await t.throwsAsync(resolving, { message: 'left' });
});

test('closing the registry ends what is under way', async (t) => {
  const { server, registry, resolve } = await setUp(t);
  server.faults.add({ path: 'blobs', action: { kind: 'hang' } });
  const resolving = resolve('team/app:1');
  resolving.catch(() => {});
  await until(() => server.count('blobs') > 0);
  await registry[Symbol.asyncDispose]();
  await t.throwsAsync(resolving, { code: 'UNAVAILABLE' });
  await t.throwsAsync(resolve('team/app:1'), { code: 'UNAVAILABLE' });
});
