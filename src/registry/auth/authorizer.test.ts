import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import test, { type ExecutionContext } from 'ava';
import { NO_LOGINS } from '../../testing/registry-auth.js';
import { startTestRegistry, type TestRegistry } from '../../testing/registry.js';
import type { TestAuth } from '../../testing/registry-auth.js';
import { makeCertificates } from '../../testing/registry-tls.js';
import { temporaryDirectory } from '../../testing/temporary.js';
import { Registry, type RegistryOptions } from '../client.js';
import { RegistryError } from '../errors.js';
import type { Exchanger, OutgoingRequest } from '../exchange.js';
import type { Endpoint } from '../hosts.js';
import { Authorizer } from './authorizer.js';
import type { Credential } from './credentials.js';

const joe: Credential = { kind: 'password', username: 'joe', password: 'hidden-pw' };

async function setUp(t: ExecutionContext, auth: TestAuth, options: RegistryOptions = {}) {
  const server = await startTestRegistry({ auth });
  const registry = new Registry({ env: NO_LOGINS, ...options });
  t.teardown(async () => {
    await registry[Symbol.asyncDispose]();
    await server[Symbol.asyncDispose]();
  });
  const blob = server.putBlob(Buffer.from('0123456789'));
  const reader = (repository = 'team/app') => registry.openBlob({ host: server.host, repository }, blob);
  return { server, registry, reader, blob };
}

const seen = (server: TestRegistry) => server.requests.map((r) => `${r.path.split('?')[0].slice(0, 12)} ${r.status}`);

test('Bearer for anybody: no ping, one 401, one token, then none of both', async (t) => {
  const { server, reader } = await setUp(t, { kind: 'bearer' });
  await reader().read(0, 4);
  t.deepEqual(seen(server), ['/v2/team/app 401', '/token 200', '/v2/team/app 206']);
  t.is(server.requests[1].path, '/token?service=test+registry&scope=repository%3Ateam%2Fapp%3Apull');
  await reader().read(4, 4);
  t.is(server.requests.length, 4);
  await reader('team/other').read(0, 4);
  t.is(server.requests.length, 7);
});

test('who once wanted a login is taken to want one, whatever it answers later', (t) => {
  const authorizer = new Authorizer({} as Exchanger, async () => ({ problems: [] }));
  const endpoint = (base: string) => ({ base }) as Endpoint;
  const [plain, secure] = ['http://a/v2', 'https://b/v2'].map(endpoint);
  t.deepEqual([authorizer.asksForNone(plain), authorizer.asksForNone(secure)], [true, false]);
  authorizer.met(secure, false);
  t.true(authorizer.asksForNone(secure));
  for (const challenged of [true, false]) {
    authorizer.met(plain, challenged);
    t.false(authorizer.asksForNone(plain));
  }
});

test('concurrent requests fetch one token', async (t) => {
  const { server, reader } = await setUp(t, { kind: 'bearer' });
  server.faults.add({ path: '/token', action: { kind: 'latency', ms: 30 } });
  await Promise.all(Array.from({ length: 10 }, async (_, i) => reader().read(i, 1)));
  t.is(server.count('/token'), 1);
  t.is(server.count('/v2/'), 20);
});

test('an expired token is replaced: before the request where its end is known, else after one 401', async (t) => {
  const { server, reader } = await setUp(t, { kind: 'bearer', expiresIn: 0 });
  await reader().read(0, 4);
  server.reset();
  await Promise.all([reader().read(0, 4), reader().read(4, 4)]);
  t.is(server.count('/token'), 1);
  t.deepEqual(
    server.requests.filter((r) => r.status === 401),
    [],
  );

  const late = await setUp(t, { kind: 'bearer' });
  await late.reader().read(0, 4);
  late.server.expireTokens();
  late.server.reset();
  await late.reader().read(0, 4);
  t.deepEqual(seen(late.server), ['/v2/team/app 401', '/token 200', '/v2/team/app 206']);
});

test('a token that cannot be renewed is forgotten, and the registry asked what it wants by now', async (t) => {
  const everybody = { kind: 'bearer', expiresIn: 0 } as const;
  const change: Record<string, { wants: TestAuth | undefined; requests: string[] }> = {
    Basic: { wants: { ...joe, kind: 'basic' }, requests: ['/token 404', '/v2/team/app 401', '/v2/team/app 206'] },
    nothing: { wants: undefined, requests: ['/token 404', '/v2/team/app 206'] },
  };
  for (const [what, { wants, requests }] of Object.entries(change)) {
    const { server, reader } = await setUp(t, everybody, { credentials: async () => joe });
    await reader().read(0, 4);
    server.guard(wants);
    server.reset();
    await reader().read(0, 4);
    t.deepEqual(seen(server), requests, what);
    server.reset();
    await reader().read(0, 4);
    t.deepEqual(seen(server), ['/v2/team/app 206'], what);
  }

  const { server, reader } = await setUp(t, everybody);
  await reader().read(0, 4);
  server.faults.add({ path: '/token', times: 1, action: { kind: 'status', status: 404 } });
  server.reset();
  await Promise.all(Array.from({ length: 10 }, async (_, i) => reader().read(i, 1)));
  t.deepEqual(seen(server).slice(0, 2), ['/token 404', '/v2/team/app 401']);
  t.is(server.count('/token'), 2);
});

test('who is told of a new token service does not wait for the renewal by the old one', async (t) => {
  let renewals = 0;
  const send = async ({ url }: OutgoingRequest) => {
    if (url.host === 'old' && renewals++ > 0) await new Promise(() => {});
    return {
      status: 200,
      text: async () => JSON.stringify({ token: url.host, expires_in: url.host === 'old' ? 0 : 60 }),
    };
  };
  const authorizer = new Authorizer({ send } as unknown as Exchanger, async () => ({
    credential: undefined,
    problems: [],
  }));
  const endpoint = { base: 'https://registry/v2', credentialHost: 'registry' } as Endpoint;
  const error = new RegistryError('UNAUTHENTICATED', 'refused', { method: 'GET', url: endpoint.base });
  const answer = (realm: string) =>
    authorizer.answer(endpoint, 'app', { challenge: `Bearer realm="${realm}"`, used: 'Bearer old', error });
  await answer('https://old');
  const leave = new AbortController();
  const renewing = authorizer.known(endpoint, 'app', leave.signal);
  while (renewals < 2) await sleep(1);
  t.is(await answer('https://new'), 'Bearer new');
  leave.abort(new Error('I leave'));
  await t.throwsAsync(renewing, { message: 'I leave' });
  t.is(await authorizer.known(endpoint, 'app'), 'Bearer new');
});

test('a token service that fails for a while is told of, and asked again by the next request', async (t) => {
  const { server, reader } = await setUp(t, { kind: 'bearer', expiresIn: 0 }, { retry: { attempts: 1 } });
  await reader().read(0, 4);
  const mend = server.faults.add({ path: '/token', action: { kind: 'status', status: 503 } });
  for (let i = 0; i < 2; i++)
    await t.throwsAsync(reader().read(0, 4), { code: 'UNAVAILABLE', message: /token.*503.*the token service gave no/ });
  mend();
  t.is((await reader().read(0, 4)).byteLength, 4);
});

test('Bearer with a password, and with an identity token by POST', async (t) => {
  const auth = { kind: 'bearer', username: 'joe', password: 'hidden-pw', identityToken: 'hidden-idt' } as const;
  const one = await setUp(t, auth, { credentials: async () => joe });
  t.is((await one.reader().read(0, 4)).byteLength, 4);
  const two = await setUp(t, auth, { credentials: async () => ({ kind: 'identity', token: 'hidden-idt' }) });
  t.is((await two.reader().read(0, 4)).byteLength, 4);
  t.deepEqual(
    two.server.requests.map((r) => r.method),
    ['GET', 'POST', 'GET'],
  );
});

test('Basic: the credential is asked for once, sent first from then on', async (t) => {
  let asked: string[] = [];
  const auth = { kind: 'basic', username: 'joe', password: 'hidden-pw' } as const;
  const { server, reader } = await setUp(t, auth, {
    credentials: async (host, repository) => {
      asked = [...asked, `${host}/${repository}`];
      return joe;
    },
  });
  await reader().read(0, 4);
  await reader().read(0, 4);
  t.deepEqual(seen(server), ['/v2/team/app 401', '/v2/team/app 206', '/v2/team/app 206']);
  t.deepEqual(asked, [`${server.host}/team/app`]);
});

test('wrong or no credentials: one more try at most, then UNAUTHENTICATED, in words without secrets', async (t) => {
  for (const auth of [
    { kind: 'basic', username: 'joe', password: 'right' },
    { kind: 'bearer', username: 'joe', password: 'right' },
  ] as const)
    for (const credential of [joe, undefined, { kind: 'token', token: 'hidden-token' } as const]) {
      const { server, reader } = await setUp(t, auth, { credentials: async () => credential });
      const error = await t.throwsAsync(reader().read(0, 4), { code: 'UNAUTHENTICATED' });
      t.false(JSON.stringify([error?.message, error]).includes('hidden'));
      t.true(server.requests.length <= 3);
    }
});

test('a login in an auth file is found, and what failed on the way is told when there is none', async (t) => {
  const root = await temporaryDirectory(t, 'home');
  await mkdir(join(root, '.docker'));
  const auth = { kind: 'bearer', username: 'joe', password: 'hidden-pw' } as const;
  const { server, reader } = await setUp(t, auth, { env: { ...NO_LOGINS, HOME: root, PATH: '/nonexistent' } });
  const file = join(root, '.docker/config.json');
  await writeFile(file, JSON.stringify({ credsStore: 'gone' }));
  await t.throwsAsync(reader().read(0, 4), {
    code: 'UNAUTHENTICATED',
    message: /no token.*no credentials were found; docker-credential-gone: could not be run, ENOENT/,
  });
  const encoded = Buffer.from('joe:hidden-pw').toString('base64');
  await writeFile(file, JSON.stringify({ credsStore: 'gone', auths: { [server.host]: { auth: encoded } } }));
  t.is((await reader().read(0, 4)).byteLength, 4);
});

test('a token service that answers nonsense, or fails, or is another scheme', async (t) => {
  for (const [action, message] of [
    [{ kind: 'status', status: 200, body: 'hidden-nonsense' }, /expected a token in the answer, found none/],
    [{ kind: 'status', status: 200, body: '{"token":""}' }, /expected a token in the answer/],
    [{ kind: 'status', status: 503 }, /status 503/],
  ] as const) {
    const { server, reader } = await setUp(t, { kind: 'bearer' }, { retry: { attempts: 2, baseMs: 1 } });
    server.faults.add({ path: '/token', action });
    const error = await t.throwsAsync(reader().read(0, 4), { message });
    t.false(error.message.includes('hidden'));
    t.true(server.count('/token') <= 2);
  }
  const { server, reader } = await setUp(t, { kind: 'bearer' });
  server.faults.add({
    path: '/v2/',
    action: { kind: 'header', name: 'www-authenticate', value: 'Bearer realm="ftp://joe:hidden@x/"' },
  });
  const error = await t.throwsAsync(reader().read(0, 4), {
    code: 'UNAUTHENTICATED',
    message: /expected a URL as realm/,
  });
  t.false(error.message.includes('hidden'));
});

test('a source of credentials that throws is told without its words', async (t) => {
  const { reader } = await setUp(
    t,
    { kind: 'basic', username: 'joe', password: 'x' },
    {
      credentials: async () => Promise.reject(new Error('hidden-pw')),
    },
  );
  const error = await t.throwsAsync(reader().read(0, 4), { message: /the credentials hook failed/ });
  t.false(error.message.includes('hidden'));
});

test('a registry with TLS cannot send a login to a token service without', async (t) => {
  const { cert, key } = await makeCertificates(t);
  await using listener = await startTestRegistry({ auth: { kind: 'bearer' } });
  await using server = await startTestRegistry({ auth: { kind: 'bearer' }, tls: { cert, key } });
  const challenge = `Bearer realm="${listener.url}/token",service="test registry"`;
  server.faults.add({ path: '/v2/', action: { kind: 'header', name: 'www-authenticate', value: challenge } });
  const blob = server.putBlob(Buffer.from('0123456789'));
  const hosts = { [server.host]: { server: server.url, skip_verify: true } };
  for (const credential of [joe, undefined]) {
    await using registry = new Registry({ env: NO_LOGINS, hosts, credentials: async () => credential });
    await t.throwsAsync(registry.openBlob({ host: server.host, repository: 'app' }, blob).read(0, 4), {
      code: 'UNAUTHENTICATED',
      message: credential === undefined ? /was refused/ : /without TLS.*credentials are not sent/,
    });
    t.is(listener.requests.length, credential === undefined ? 1 : 0);
  }
});
