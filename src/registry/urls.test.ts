import test, { type ExecutionContext } from 'ava';
import { NO_LOGINS } from '../testing/registry-auth.js';
import { startTestRegistry, type TestRegistryOptions } from '../testing/registry.js';
import { Registry } from './client.js';
import { RegistryError } from './errors.js';

const login = { kind: 'basic', username: 'me', password: 'secret' } as const;
const bytes = Buffer.from('0123456789');

/** A registry that asks for a login, another server that has the blob, and a reader that knows of both. */
async function setUp(
  t: ExecutionContext,
  { options, extra = [] }: { options?: TestRegistryOptions; extra?: readonly string[] } = {},
) {
  const home = await startTestRegistry({ auth: login });
  t.teardown(() => home[Symbol.asyncDispose]());
  const away = await startTestRegistry(options);
  t.teardown(() => away[Symbol.asyncDispose]());
  const blob = home.putBlob(bytes);
  away.putBlob(bytes);
  const client = new Registry({
    env: NO_LOGINS,
    retry: { attempts: 2, baseMs: 1, maxMs: 2 },
    credentials: async () => ({ ...login, kind: 'password' }),
  });
  t.teardown(() => client[Symbol.asyncDispose]());
  const url = `${away.url.replace('//', '//user:password@')}/v2/any/blobs/${blob.digest}?signature=1`;
  const name = { host: home.host, repository: 'app' };
  const open = (urls: readonly string[]) => client.openBlob(name, { ...blob, urls: [...extra, ...urls] });
  return { home, away, blob, url, open, reader: open([url]) };
}

test("a descriptor's URLs are asked before the registry, as they are, and get no credentials", async (t) => {
  const { home, away, reader } = await setUp(t, { extra: ['ftp://x.example/blob', 'nonsense', 'file:///etc/passwd'] });
  t.deepEqual(Buffer.from(await reader.read(2, 3)), bytes.subarray(2, 5));
  t.is(home.requests.length, 0);
  t.is(away.requests.length, 1);
  t.regex(away.requests[0].path, /\/blobs\/sha256:[0-9a-f]+\?signature=1$/);
  t.is(away.requests[0].headers.authorization, undefined);
});

test('where a URL has nothing, the registry is asked, and first the next time', async (t) => {
  const { home, away, open, url } = await setUp(t);
  const reader = open([url.replace('/any/blobs/', '/any/none/')]);
  for (let i = 0; i < 3; i++) t.deepEqual(Buffer.from(await reader.read(i, 4)), bytes.subarray(i, i + 4));
  t.is(away.requests.length, 1);
  t.is(home.requests.filter(({ status }) => status === 206).length, 3);
});

test('a server that wants a login is not given one; one that has something else is left', async (t) => {
  const { away, reader } = await setUp(t, { options: { auth: login } });
  t.deepEqual(Buffer.from(await reader.read(0, 4)), bytes.subarray(0, 4));
  t.deepEqual(
    away.requests.map(({ status, headers }) => [status, headers.authorization]),
    [[401, undefined]],
  );
  const other = await setUp(t);
  const wrong = other.away.putBlob(Buffer.from('a page that says sorry'));
  const misled = other.open([other.url.replace(other.blob.digest, wrong.digest)]);
  for (let i = 0; i < 2; i++) t.deepEqual(Buffer.from(await misled.read(1, 4)), bytes.subarray(1, 5));
  t.is(other.away.requests.length, 1);
});

test('a redirect is kept as one of the registry is; when nobody has the blob, all is told', async (t) => {
  const { home, away, reader } = await setUp(t, { options: { redirectBlobs: true } });
  for (let i = 0; i < 3; i++) await reader.read(i, 2);
  t.deepEqual(
    away.requests.map(({ server }) => server),
    ['registry', 'storage', 'storage', 'storage'],
  );
  t.is(home.requests.length, 0);

  const lost = await setUp(t);
  for (const [server, status] of [
    [lost.home, 404],
    [lost.away, 503],
  ] as const)
    server.faults.add({ action: { kind: 'status', status } });
  const error = await t.throwsAsync(lost.reader.read(0, 2), { instanceOf: RegistryError, code: 'NOT_FOUND' });
  t.regex(error.message, /503/);
  t.notRegex(error.message, /password|signature=1/);
});
