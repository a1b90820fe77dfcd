import { rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { Client } from 'undici';
import { LazylayerError } from '../errors.js';
import type { RemoteLayers } from '../snapshot/remote-layers.js';
import { temporaryDirectory } from '../testing/temporary.js';
import { Metrics, type Observed } from './metrics.js';

const observed: Observed = {
  workspace: {
    cache: { usedBytes: 4096 },
    pool: { entries: () => [{}, {}].values() },
    layers: { scheduler: { requestsInUse: 3, memoryInUse: 1024 } },
  } as unknown as Observed['workspace'],
  fuse: { stats: { requests: 9, cachedReads: 5, deferredReads: 4, waitingReads: 1 } },
  served: { badChunks: 2, counts: { shown: 3, awake: 1 }, whole: 2 },
  mounts: { list: () => [] },
};

const remote: RemoteLayers = {
  idmapRefusal: 'no',
  prepare: async ({ what }) => {
    if (what === 'lazy') return { shown: Promise.resolve(), record: 1 };
    if (what === 'nothing') return { reason: 'no labels' };
    return { reason: 'https://registry.example/secret says 503', code: 'UNAVAILABLE' };
  },
  isOf: () => true,
  restore: () => ({ isLocal: true, shown: Promise.resolve() }),
  lower: async (record) => String(record),
  starting: () => {},
  usage: () => ({ size: 1, inodes: 1 }),
  root: async () => ({ mode: 0, uid: 0, gid: 0 }),
  check: async () => {},
  release: async () => {},
};

/** Values by name with labels. */
async function values(metrics: Metrics): Promise<Record<string, number>> {
  const lines = (await metrics.registry.metrics()).split('\n').filter((line) => line.startsWith('lazylayer_'));
  return Object.fromEntries(
    lines.map((line) => [line.slice(0, line.lastIndexOf(' ')), Number(line.split(' ').at(-1))]),
  );
}

test('what is heard is counted, in seconds and bytes', async (t) => {
  const metrics = new Metrics();
  metrics.heard('request', { method: 'GET', url: 'https://registry.example/x', status: 206, bytes: 100, ms: 20 });
  metrics.heard('request', { method: 'GET', url: 'https://registry.example/x', bytes: 0, ms: 2000 });
  metrics.heard('cache', { type: 'evicted', digest: 'sha256:x', bytes: 7 });
  metrics.heard('cache', { type: 'full', error: new Error('x') });
  metrics.heard('something else', {});
  metrics.readFailed(new LazylayerError('UNAVAILABLE', 'registry.example is gone'));
  t.like(await values(metrics), {
    'lazylayer_registry_requests_total{status="2xx"}': 1,
    'lazylayer_registry_requests_total{status="none"}': 1,
    lazylayer_registry_received_bytes_total: 100,
    'lazylayer_registry_request_duration_seconds_bucket{le="0.025"}': 1,
    lazylayer_registry_request_duration_seconds_sum: 2.02,
    lazylayer_cache_evictions_total: 1,
    lazylayer_cache_evicted_bytes_total: 7,
    'lazylayer_cache_troubles_total{kind="full"}': 1,
    'lazylayer_read_errors_total{reason="unavailable"}': 1,
  });
  t.notRegex(await metrics.registry.metrics(), /registry\.example|sha256:/);
});

test('layers that clients ask for, by what came of it', async (t) => {
  const metrics = new Metrics();
  const layers = metrics.watch(remote);
  for (const what of ['lazy', 'lazy', 'nothing', 'broken']) await layers.prepare({ what });
  t.is(layers.idmapRefusal, 'no');
  t.is(await layers.lower(1, false), '1');
  t.true(layers.restore(1).isLocal);
  t.true(layers.isOf({}, 1));
  t.like(await values(metrics), {
    'lazylayer_remote_snapshots_total{outcome="prepared",reason=""}': 2,
    'lazylayer_remote_snapshots_total{outcome="refused",reason="no_labels"}': 1,
    'lazylayer_remote_snapshots_total{outcome="refused",reason="unavailable"}': 1,
  });
});

test('what is looked at is looked at each time, and counts on', async (t) => {
  const metrics = new Metrics();
  t.is((await values(metrics)).lazylayer_cache_bytes, 0);
  metrics.observe(observed);
  await values(metrics);
  t.like(await values(metrics), {
    lazylayer_verification_failures_total: 2,
    lazylayer_layers_open: 3,
    lazylayer_layers_awake: 1,
    lazylayer_layers_whole: 2,
    lazylayer_mounts: 0,
    lazylayer_pool_references: 2,
    lazylayer_cache_bytes: 4096,
    lazylayer_fetches_in_flight: 3,
    lazylayer_fetch_memory_bytes: 1024,
    lazylayer_fuse_requests_total: 9,
    lazylayer_fuse_cached_reads_total: 5,
    lazylayer_fuse_deferred_reads_total: 4,
    lazylayer_fuse_waiting_reads: 1,
  });
});

test('over TCP: metrics, health before and after the start, and nothing else', async (t) => {
  await using metrics = new Metrics();
  const { port } = await metrics.listen('127.0.0.1:0');
  const get = (path: string, method = 'GET') => fetch(`http://127.0.0.1:${port}${path}`, { method });
  t.is((await get('/healthz')).status, 503);
  metrics.observe(observed);
  t.is(await (await get('/healthz')).text(), 'ok\n');
  const answer = await get('/metrics?x');
  t.regex(answer.headers.get('content-type')!, /^text\/plain; version=0\.0\.4/);
  t.regex(await answer.text(), /^process_resident_memory_bytes \d+$/m);
  t.is((await get('/')).status, 404);
  t.is((await get('/metrics', 'POST')).status, 405);
  await t.throwsAsync(new Metrics().listen(`127.0.0.1:${port}`), { code: 'UNAVAILABLE', message: /127\.0\.0\.1/ });
});

test('over a socket, for owner and group, in place of one that was left', async (t) => {
  const directory = await temporaryDirectory(t, 'metrics');
  const socketPath = join(directory, 'metrics.sock');
  for (let round = 0; round < 2; round++) {
    await using metrics = new Metrics();
    t.is((await metrics.listen(socketPath)).port, undefined);
    t.is((await stat(socketPath)).mode & 0o777, 0o660);
    const client = new Client('http://metrics', { socketPath });
    const { statusCode, body } = await client.request({ method: 'GET', path: '/metrics' });
    t.is(statusCode, 200);
    await body.dump();
    await client.destroy();
  }
  await rm(socketPath, { force: true });
  await writeFile(socketPath, 'kept');
  await t.throwsAsync(new Metrics().listen(socketPath), { code: 'UNAVAILABLE' });
  t.is((await stat(socketPath)).size, 4);
});
