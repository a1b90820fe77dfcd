import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { NO_LOGINS } from '../testing/registry-auth.js';
import { startTestRegistry, type TestRegistry, type TestRegistryOptions } from '../testing/registry.js';
import { makeCertificates } from '../testing/registry-tls.js';
import { temporaryDirectory } from '../testing/temporary.js';
import { until } from '../testing/until.js';
import { Registry, type RegistryOptions } from './client.js';
import { RegistryError } from './errors.js';
import type { RequestProgress, RequestRecord } from './exchange.js';
import { retryAfterMs } from './retry-after.js';

const retry = { attempts: 3, baseMs: 1, maxMs: 2 };
const bytes = Buffer.from('0123456789');

async function serve(t: ExecutionContext, options: TestRegistryOptions = {}) {
  const server = await startTestRegistry(options);
  t.teardown(() => server[Symbol.asyncDispose]());
  return { server, blob: server.putBlob(bytes) };
}

function connect(t: ExecutionContext, options: RegistryOptions = {}) {
  const registry = new Registry({ env: NO_LOGINS, retry, ...options });
  t.teardown(() => registry[Symbol.asyncDispose]());
  return registry;
}

async function setUp(t: ExecutionContext, server: TestRegistryOptions = {}, options: RegistryOptions = {}) {
  const served = await serve(t, server);
  const registry = connect(t, options);
  const reader = registry.openBlob({ host: served.server.host, repository: 'app' }, served.blob);
  return { ...served, registry, reader };
}

const seen = (server: TestRegistry) => server.requests.map((r) => `${r.server} ${r.status}`);

for (const status of [429, 500, 502, 503])
  test(`${status} is tried again, a bounded number of times`, async (t) => {
    const { server, reader } = await setUp(t);
    const off = server.faults.add({ action: { kind: 'status', status } });
    const error = await t.throwsAsync(reader.read(0, 4), { instanceOf: RegistryError, code: 'UNAVAILABLE' });
    t.is(error?.status, status);
    t.is(server.requests.length, retry.attempts);
    off();
    server.reset();
    server.faults.add({ times: 2, action: { kind: 'status', status } });
    t.deepEqual(Buffer.from(await reader.read(0, 4)), bytes.subarray(0, 4));
    t.is(server.requests.length, 3);
  });

for (const [status, code] of [
  [400, 'FAILED_PRECONDITION'],
  [401, 'UNAUTHENTICATED'],
  [403, 'PERMISSION_DENIED'],
  [404, 'NOT_FOUND'],
  [416, 'DATA_LOSS'],
] as const)
  test(`${status} is ${code} and not tried again; what the registry said is told`, async (t) => {
    const { server, reader } = await setUp(t);
    const body = JSON.stringify({ errors: [{ code: 'DENIED', message: 'm'.repeat(5000), detail: { a: 1 } }] });
    server.faults.add({ action: { kind: 'status', status, body } });
    const error = await t.throwsAsync<RegistryError>(reader.read(0, 4), { instanceOf: RegistryError, code });
    t.is(server.requests.length, 1);
    t.is(error?.diagnostics[0].code, 'DENIED');
    t.is(error?.diagnostics[0].detail, '{"a":1}');
    t.true(error.message.length < 600);
    t.regex(error.message, new RegExp(`^GET ${server.url}/v2/app/blobs/sha256:[0-9a-f]+: status ${status}`));
  });

test('Retry-After: seconds and dates are waited for, a wait too long is an error at once', async (t) => {
  t.is(retryAfterMs('3', 0), 3000);
  t.is(retryAfterMs('Thu, 01 Jan 1970 00:00:07 GMT', 2000), 5000);
  t.is(retryAfterMs('Thu, 01 Jan 1970 00:00:07 GMT', 20000), 0);
  for (const nothing of [undefined, '', '-1', 'soon', '1.5']) t.is(retryAfterMs(nothing, 0), undefined);
  const { server, reader } = await setUp(t, {}, { retry: { ...retry, maxRetryAfterMs: 500 } });
  server.faults.add({ times: 1, action: { kind: 'status', status: 429, retryAfter: '3600' } });
  await t.throwsAsync(reader.read(0, 4), { code: 'UNAVAILABLE', message: /status 429.*asks to wait 3600 s/ });
  t.is(server.requests.length, 1);
  server.faults.add({ times: 1, action: { kind: 'status', status: 503, retryAfter: new Date().toUTCString() } });
  await reader.read(0, 4);
  t.is(server.requests.length, 3);
});

test('timeouts: no answer, and an answer that stops coming', async (t) => {
  const { server, reader } = await setUp(t, {}, { timeouts: { headersMs: 60, bodyMs: 60 } });
  const off = server.faults.add({ action: { kind: 'hang' } });
  await t.throwsAsync(reader.read(0, 4), { code: 'TIMEOUT', message: /no answer within the time limit/ });
  t.is(server.requests.length, retry.attempts);
  off();
  server.faults.add({ action: { kind: 'stall', after: 0 } });
  await t.throwsAsync(reader.read(0, 4), { code: 'TIMEOUT', message: /the answer stopped coming/ });
});

test('a registry that is down is UNAVAILABLE; when it is up again, the next read works', async (t) => {
  const { server, reader } = await setUp(t);
  await server.stop();
  await t.throwsAsync(reader.read(0, 4), { code: 'UNAVAILABLE', message: /ECONNREFUSED/ });
  await server.start();
  t.is((await reader.read(0, 4)).byteLength, 4);
});

test('a signal ends a request, a wait between tries, and a body, with its own reason', async (t) => {
  for (const action of [
    { kind: 'hang' },
    { kind: 'status', status: 503, retryAfter: '20' },
    { kind: 'stall', after: 2 },
  ] as const) {
    const { server, reader } = await setUp(t);
    server.faults.add({ action });
    const controller = new AbortController();
    const reading = reader.read(0, 4, { signal: controller.signal });
    await until(() => server.requests.length > 0);
    setTimeout(() => controller.abort(new Error('left')), 20);
    const error = await t.throwsAsync(reading);
    t.true(error?.message === 'left' || error?.name === 'AbortError');
    t.is(server.requests.length, 1);
  }
});

test('with the first connection a few more are opened, which what follows side by side finds ready; all are kept', async (t) => {
  const { server, reader } = await setUp(t);
  for (let i = 0; i < 8; i++) await reader.read(i, 2);
  await until(() => server.connections >= 8);
  await Promise.all(Array.from({ length: 8 }, (_, i) => reader.read(i, 2)));
  await Promise.all(Array.from({ length: 8 }, (_, i) => reader.read(i, 2)));
  t.is(server.connections, 8);
  await Promise.all(Array.from({ length: 10 }, (_, i) => reader.read(i % 8, 2)));
  t.is(server.connections, 10);
});

test('requests that come together before any connection stands share what is on its way', async (t) => {
  const { server, reader } = await setUp(t);
  await Promise.all(Array.from({ length: 8 }, (_, i) => reader.read(i, 2)));
  t.is(server.connections, 8);
});

test('a redirect is kept while it is valid, renewed once when it is not, and carries no login', async (t) => {
  const auth = { kind: 'basic', username: 'joe', password: 'pw' } as const;
  const { server, reader } = await setUp(
    t,
    { redirectBlobs: true, auth },
    { credentials: async () => ({ kind: 'password', username: 'joe', password: 'pw' }) },
  );
  await reader.read(0, 4);
  await reader.read(4, 4);
  t.deepEqual(seen(server), ['registry 401', 'registry 307', 'storage 206', 'storage 206']);
  t.true(server.requests.every((r) => r.server === 'registry' || r.headers.authorization === undefined));
  server.expireSignatures();
  server.reset();
  await reader.read(4, 4);
  t.deepEqual(seen(server), ['storage 403', 'registry 307', 'storage 206']);
  server.reset();
  server.faults.add({ server: 'storage', action: { kind: 'status', status: 403 } });
  const error = await t.throwsAsync(reader.read(4, 4), { code: 'PERMISSION_DENIED' });
  t.deepEqual(seen(server), ['storage 403', 'registry 307', 'storage 403']);
  t.false(error.message.includes('very-secret'));
});

test('headers of the configuration are for the server that they are configured for, not where it redirects to', async (t) => {
  const { server, blob } = await serve(t, { redirectBlobs: true });
  const hosts = [{ url: server.url, header: { 'X-Secret': 's' } }];
  const registry = connect(t, { hosts: { 'registry.test': { hosts } } });
  const reader = registry.openBlob({ host: 'registry.test', repository: 'app' }, blob);
  for (let i = 0; i < 2; i++) await reader.read(0, 4);
  t.deepEqual(
    server.requests.map((r) => [r.server, r.headers['x-secret']]),
    [
      ['registry', 's'],
      ['storage', undefined],
      ['storage', undefined],
    ],
  );
});

test('a kept redirect to a storage that fails is not asked again: the registry may know another', async (t) => {
  const { server, reader } = await setUp(t, { redirectBlobs: true });
  await reader.read(0, 4);
  server.reset();
  server.faults.add({ server: 'storage', times: 1, action: { kind: 'status', status: 503 } });
  t.deepEqual(Buffer.from(await reader.read(4, 4)), bytes.subarray(4, 8));
  t.deepEqual(
    server.requests.map((r) => r.server),
    ['storage', 'registry', 'storage'],
  );
});

test('concurrent reads share the kept redirect', async (t) => {
  const { server, reader } = await setUp(t, { redirectBlobs: true });
  await reader.read(0, 1);
  await Promise.all(Array.from({ length: 5 }, (_, i) => reader.read(i, 1)));
  t.is(seen(server).filter((s) => s === 'registry 307').length, 1);
});

test('redirects: a loop, none given, and another protocol are errors', async (t) => {
  for (const [to, message, requests] of [
    ['/v2/app/blobs/again', /expected at most 5 redirects/, 6],
    ['ftp://host/x', /expected a redirect to http or https, found ftp:/, 1],
    ['http://', /expected a URL in location/, 1],
  ] as const) {
    const { server, reader } = await setUp(t);
    server.faults.add({ action: { kind: 'redirect', to } });
    await t.throwsAsync(reader.read(0, 4), { code: 'FAILED_PRECONDITION', message });
    t.is(server.requests.length, requests);
  }
});

test('mirrors in order: asked with ns, passed over when down, missing or broken, remembered for a blob', async (t) => {
  const down = await serve(t);
  const empty = await startTestRegistry();
  t.teardown(() => empty[Symbol.asyncDispose]());
  const good = await serve(t);
  const own = await serve(t);
  await down.server.stop();
  const hosts = [
    { url: down.server.url },
    { url: empty.url },
    { url: `${good.server.url}`, header: { 'X-Team': 'a' } },
  ];
  const registry = connect(t, { hosts: { 'registry.test': { server: own.server.url, hosts } } });
  const reader = registry.openBlob({ host: 'registry.test', repository: 'app' }, good.blob);
  await reader.read(0, 4);
  t.deepEqual([empty.requests.length, good.server.requests.length, own.server.requests.length], [1, 1, 0]);
  t.true(good.server.requests[0].path.endsWith('?ns=registry.test'));
  t.is(good.server.requests[0].headers['x-team'], 'a');
  await reader.read(4, 4);
  t.deepEqual([empty.requests.length, good.server.requests.length], [1, 2]);

  good.server.faults.add({ action: { kind: 'status', status: 500 } });
  await reader.read(0, 4);
  t.is(own.server.requests.length, 1);
  await own.server.stop();
  const error = await t.throwsAsync(reader.read(0, 4), { instanceOf: RegistryError, code: 'UNAVAILABLE' });
  t.regex(error.message, /ECONNREFUSED.*\(mirrors: .*status 404.*status 500/);
});

test('capabilities: a mirror without "resolve" is not asked for tags; none that can is an error in words', async (t) => {
  const mirror = await serve(t);
  const own = await serve(t);
  const put = (s: TestRegistry) => s.putManifest('app', '1', Buffer.from('{}'), 'application/json');
  put(mirror.server);
  const manifest = put(own.server);
  const hosts = [{ url: mirror.server.url, capabilities: ['pull'] }];
  const registry = connect(t, {
    hosts: { a: { server: own.server.url, hosts }, b: { server: own.server.url, capabilities: ['push'] } },
  });
  await registry.fetchManifest({ host: 'a', repository: 'app', tag: '1' });
  t.deepEqual([mirror.server.requests.length, own.server.requests.length], [0, 1]);
  await registry.fetchManifest({ host: 'a', repository: 'app', digest: manifest.digest });
  t.deepEqual([mirror.server.requests.length, own.server.requests.length], [1, 1]);
  await t.throwsAsync(registry.fetchManifest({ host: 'b', repository: 'app', tag: '1' }), {
    code: 'FAILED_PRECONDITION',
    message: /^b: expected a server with the capability "resolve"/,
  });
});

test('HTTPS: refused without the authority, then by ca, by skip_verify, with a client certificate; no restart', async (t) => {
  const certificates = await makeCertificates(t);
  const { cert, key, caText, clientCert, clientKey } = certificates;
  const { server, blob } = await serve(t, {
    tls: { cert, key, ca: caText, requestCert: true, rejectUnauthorized: false },
  });
  const certs = await temporaryDirectory(t, 'certs');
  const host = `127.0.0.1:${server.port}`;
  const write = async (text: string) => {
    await mkdir(join(certs, host), { recursive: true });
    await writeFile(join(certs, host, 'hosts.toml'), `server = "${server.url}"\n${text}`);
  };
  const registry = connect(t, { certsDirs: [certs] });
  const reader = registry.openBlob({ host, repository: 'app' }, blob);
  await write('');
  await t.throwsAsync(reader.read(0, 4), { code: 'UNAVAILABLE', message: /certificate.*set "ca" in certs\.d/ });
  t.is(registry.stats.requests, 1);
  await write('skip_verify = true');
  await reader.read(0, 4);
  await write(`ca = "${certificates.ca}"`);
  await reader.read(0, 4);
  t.deepEqual(
    server.requests.map((r) => r.client),
    ['', ''],
  );
  await write(`ca = "${certificates.ca}"\nclient = [["${clientCert}", "${clientKey}"]]`);
  await reader.read(0, 4);
  t.is(server.requests[2].client, 'test client');
});

test('what onRequest is told: every request once, with its bytes', async (t) => {
  const records: unknown[] = [];
  const { server, reader } = await setUp(
    t,
    { redirectBlobs: true },
    { onRequest: ({ method, url, status, bytes, complete }) => records.push([method, url, status, bytes, complete]) },
  );
  await reader.read(0, 4);
  await server.stop();
  await t.throwsAsync(reader.read(0, 4));
  t.deepEqual(records.slice(0, 2), [
    ['GET', `${server.url}/v2/app/blobs/${reader.descriptor.digest}`, 307, 0, true],
    ['GET', `${server.storageUrl}/${reader.descriptor.digest}?X-Signature=redacted`, 206, 4, true],
  ]);
  t.deepEqual((records[2] as unknown[]).slice(2), [undefined, 0, false]);
});

test('what onRequestProgress is told: the beginning and each piece, of an object that knows what came so far', async (t) => {
  const told: unknown[] = [];
  const begun = new Set<RequestProgress>();
  const onRequestProgress = (progress: RequestProgress, bytes: number) => {
    begun.add(progress);
    told.push([bytes, progress.bytes, progress.status]);
  };
  const ended: RequestRecord[] = [];
  const onRequest = (record: RequestRecord) => ended.push(record);
  const { server, reader } = await setUp(t, {}, { onRequestProgress, onRequest });
  server.faults.add({ action: { kind: 'stall', after: 3 } });
  const leaving = new AbortController();
  const reading = reader.read(0, 4, { signal: leaving.signal });
  await until(() => told.length === 2);
  t.deepEqual(told, [
    [0, 0, undefined],
    [3, 3, 206],
  ]);
  t.deepEqual(ended, []);
  leaving.abort(new Error('left'));
  await t.throwsAsync(reading, { message: 'left' });
  t.deepEqual(new Set(ended), begun);
  t.false(ended[0].complete);
});

test('a redirect within the registry is followed with what was sent, and not kept', async (t) => {
  const { server, reader } = await setUp(t);
  server.faults.add({
    path: '/v2/app/',
    action: { kind: 'redirect', to: `/v2/moved/blobs/${reader.descriptor.digest}`, status: 302 },
  });
  await reader.read(0, 4);
  t.deepEqual(Buffer.from(await reader.read(4, 4)), bytes.subarray(4, 8));
  t.deepEqual(seen(server), ['registry 302', 'registry 206', 'registry 302', 'registry 206']);
  t.deepEqual(
    server.requests.map((r) => r.range),
    ['bytes=0-3', 'bytes=0-3', 'bytes=4-7', 'bytes=4-7'],
  );
});
