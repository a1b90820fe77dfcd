import { createHash } from 'node:crypto';
import test, { type ExecutionContext } from 'ava';
import fc from 'fast-check';
import { collect } from '../testing/image-bytes.js';
import { NO_LOGINS } from '../testing/registry-auth.js';
import type { Fault, FaultAction } from '../testing/registry-faults.js';
import { startTestRegistry, type TestRegistryOptions } from '../testing/registry.js';
import { Registry, type RegistryOptions } from './client.js';
import { RegistryError } from './errors.js';

const retry = { attempts: 3, baseMs: 1, maxMs: 2 };
const size = 3_000_000;
const bytes = Buffer.alloc(size);
for (let i = 0; i < size; i += 4) bytes.writeUInt32LE(i, i);

async function setUp(t: ExecutionContext, server: TestRegistryOptions = {}, options: RegistryOptions = {}) {
  const registry = await startTestRegistry(server);
  const client = new Registry({ env: NO_LOGINS, retry, ...options });
  t.teardown(async () => {
    await client[Symbol.asyncDispose]();
    await registry[Symbol.asyncDispose]();
  });
  const blob = registry.putBlob(bytes);
  return { server: registry, client, reader: client.openBlob({ host: registry.host, repository: 'app' }, blob) };
}

const faulty = (action: FaultAction, rest: Partial<Fault> = {}): TestRegistryOptions => ({
  faults: [{ action, ...rest }],
});

test('any range, read and streamed, is one request each and the right bytes', async (t) => {
  const { server, reader } = await setUp(t);
  const range = fc.tuple(fc.nat(size), fc.nat(size)).map(([a, b]) => [Math.min(a, b), Math.abs(a - b)] as const);
  await fc.assert(
    fc.asyncProperty(range, async ([offset, length]) => {
      server.reset();
      const expected = bytes.subarray(offset, offset + length);
      t.true(expected.equals(await reader.read(offset, length)));
      t.true(expected.equals(await collect(reader.stream(offset, length))));
      t.is(server.requests.length, length === 0 ? 0 : 2);
      const whole = offset === 0 && length === size;
      for (const { range } of server.requests)
        t.is(range, whole ? undefined : `bytes=${offset}-${offset + length - 1}`);
    }),
    { numRuns: 30, examples: [[[0, size]], [[0, 0]], [[size, 0]], [[size - 1, 1]], [[0, 1]]] },
  );
  await t.throwsAsync(reader.read(size, 1), { code: 'INVALID_ARGUMENT' });
});

for (const kind of ['truncate', 'reset'] as const)
  test(`a body that ends early (${kind}) goes on from where it broke`, async (t) => {
    const { server, reader } = await setUp(t, faulty({ kind, after: 700_000 }, { times: 2 }));
    t.true(bytes.subarray(1000, 2_001_000).equals(await reader.read(1000, 2_000_000)));
    const starts = server.requests.map((r) => Number(/\d+/.exec(r.range!)![0]));
    t.is(starts.length, 3);
    t.is(starts[0], 1000);
    t.true(starts[1] > starts[0] && starts[2] > starts[1]);
    if (kind === 'truncate') t.deepEqual(starts, [1000, 701_000, 1_401_000]);
  });

test('a body that always ends early is an error after bounded tries, however it ends', async (t) => {
  for (const faults of [
    [{ kind: 'truncate', after: 10 }],
    [{ kind: 'reset', after: 0 }],
    [{ kind: 'truncate', after: 10 }, { kind: 'chunked' }],
  ] as FaultAction[][]) {
    const { server, reader } = await setUp(t, { faults: faults.map((action) => ({ action })) });
    await t.throwsAsync(reader.read(5, 1000), { instanceOf: RegistryError, code: 'UNAVAILABLE' });
    t.is(server.requests.length, retry.attempts);
  }
});

test('a transfer that gets on is not given up: each break after a MiB counts as the first', async (t) => {
  const { server, reader } = await setUp(t, faulty({ kind: 'truncate', after: 1_048_576 }), {
    retry: { ...retry, attempts: 2 },
  });
  t.true(bytes.equals(await collect(reader.stream(0, size))));
  t.is(server.requests.length, 3);
});

for (const [name, action, message] of [
  [
    'a wrong start',
    { kind: 'content-range', value: `bytes 0-9/${size}` },
    /expected content-range bytes 100-109\/3000000, found bytes 0-9\/3000000/,
  ],
  ['a start one too early', { kind: 'content-range', value: `bytes 99-109/${size}` }, /expected content-range/],
  ['an end one too early', { kind: 'content-range', value: `bytes 100-108/${size}` }, /expected content-range/],
  ['a wrong size', { kind: 'content-range', value: 'bytes 100-109/7' }, /expected content-range/],
  ['no Content-Range', { kind: 'content-range', value: '' }, /expected content-range .* found/],
  ['several ranges', { kind: 'header', name: 'content-range', value: 'multipart' }, /found multipart/],
  ['a wrong length', { kind: 'excess', bytes: 5 }, /expected content-length 10, found "15"/],
  ['gzip', { kind: 'gzip' }, /expected no content-encoding, found "gzip"/],
] as const)
  test(`refuses ${name}, without another try`, async (t) => {
    const { server, reader } = await setUp(t, faulty(action));
    await t.throwsAsync(reader.read(100, 10), { instanceOf: RegistryError, code: 'DATA_LOSS', message });
    t.is(server.requests.length, 1);
  });

test('a body without Content-Length is counted: right when it is whole, an error when it is longer', async (t) => {
  const { server, reader } = await setUp(t, faulty({ kind: 'chunked' }));
  t.true(bytes.subarray(100, 500_100).equals(await reader.read(100, 500_000)));
  t.true(bytes.equals(await reader.read(0, size)));
  server.faults.add({ action: { kind: 'excess', bytes: 1 } });
  await t.throwsAsync(reader.read(100, 10), { code: 'DATA_LOSS', message: /expected 10 bytes, found more/ });
  await t.throwsAsync(reader.read(0, size), { code: 'DATA_LOSS', message: /expected 3000000 bytes, found more/ });
});

test('a total of "*" is fine', async (t) => {
  const { reader } = await setUp(t, faulty({ kind: 'content-range', value: 'bytes 5-9/*' }));
  t.true(bytes.subarray(5, 10).equals(await reader.read(5, 5)));
});

test('200 for a range is never taken for the range: read past near the start, UNSUPPORTED further in', async (t) => {
  const { server, reader } = await setUp(t, faulty({ kind: 'ignore-range' }));
  t.true(bytes.subarray(0, 100).equals(await reader.read(0, 100)));
  t.true(bytes.subarray(70_001, 90_000).equals(await reader.read(70_001, 19_999)));
  const error = await t.throwsAsync(reader.read(2_000_000, 10), { instanceOf: RegistryError, code: 'UNSUPPORTED' });
  t.regex(error.message, /expected a range from byte 2000000, found the whole blob: no ranges here/);
  t.true(bytes.equals(await reader.read(0, size)));
  server.faults.add({ times: 1, action: { kind: 'truncate', after: 2_000_000 } });
  t.true(bytes.equals(await reader.read(0, size)));
});

test('a blob that is shorter than its descriptor says: 416, or a wrong length', async (t) => {
  const { server, client } = await setUp(t);
  const short = server.putBlob(Buffer.from('short'));
  const reader = client.openBlob({ host: server.host, repository: 'app' }, { ...short, size: 500 });
  await t.throwsAsync(reader.read(100, 10), { code: 'DATA_LOSS', message: /status 416 \(the range is outside/ });
  await t.throwsAsync(reader.read(0, 10), { code: 'DATA_LOSS', message: /expected content-range bytes 0-9\/500/ });
  await t.throwsAsync(reader.read(0, 500), { code: 'DATA_LOSS', message: /expected content-length 500, found "5"/ });
});

test('wrong bytes are passed on for the caller to find, and fetchBlob finds them', async (t) => {
  const { server, client, reader } = await setUp(t, faulty({ kind: 'corrupt', offset: 50, length: 1 }));
  const read = await reader.read(40, 20);
  t.deepEqual(
    [...read.keys()].filter((i) => read[i] !== bytes[40 + i]),
    [10],
  );
  const name = { host: server.host, repository: 'app' };
  await t.throwsAsync(client.fetchBlob(name, reader.descriptor, { limit: size }), {
    code: 'DATA_LOSS',
    message: /^blob .*: expected sha256:[0-9a-f]+, found sha256:/,
  });
  server.reset();
  await t.throwsAsync(client.fetchBlob(name, reader.descriptor, { limit: 10 }), {
    message: /expected at most 10 bytes/,
  });
  t.is(server.requests.length, 0);
});

test('leaving a stream ends the transfer; a slow consumer holds the sender back', async (t) => {
  const large = Buffer.alloc(64 << 20);
  const { server, client } = await setUp(t);
  const blob = server.putBlob(large);
  const reader = client.openBlob({ host: server.host, repository: 'app' }, blob);
  for await (const piece of reader.stream(0, large.length)) {
    t.true(piece.byteLength > 0);
    await new Promise((resolve) => setTimeout(resolve, 100));
    break;
  }
  t.true(server.requests[0].bytes < large.length / 2);
  server.reset();
  t.is((await reader.read(1, 3)).byteLength, 3);
  t.is(server.requests.length, 1);
});

test('who stops at the last piece leaves the connection in good order', async (t) => {
  const faults = [{ action: { kind: 'chunked' } }, { action: { kind: 'late-end', ms: 20 } }] as const;
  const { server, reader } = await setUp(t, { faults });
  for (let i = 0; i < 3; i++) {
    let left = 500;
    for await (const piece of reader.stream(i, 500)) if ((left -= piece.byteLength) === 0) break;
  }
  t.is(new Set(server.requests.map(({ port }) => port)).size, 1);
});

test('a whole blob, streamed, is one request, and its bytes are counted', async (t) => {
  const { client, server, reader } = await setUp(t);
  const hash = createHash('sha256');
  for await (const piece of reader.stream(0, size)) hash.update(piece);
  t.is(`sha256:${hash.digest('hex')}`, reader.descriptor.digest);
  t.deepEqual(client.stats, { requests: 1, bytes: size });
  t.is(server.requests[0].bytes, size);
});

test('the end of a blob of unknown size is one request, and all of a short one', async (t) => {
  const { server, client, reader } = await setUp(t);
  const name = { host: server.host, repository: 'app' };
  const { digest } = reader.descriptor;
  const end = await client.fetchBlobEnd(name, digest, 1000);
  t.is(end.start, size - 1000);
  t.true(bytes.subarray(-1000).equals(end.bytes));
  const all = await client.fetchBlobEnd(name, digest, size + 1);
  t.is(all.start, 0);
  t.true(bytes.equals(all.bytes));
  t.deepEqual(
    server.requests.map(({ range }) => range),
    ['bytes=-1000', `bytes=-${size + 1}`],
  );
});

for (const [action, code] of [
  [{ kind: 'ignore-range' }, 'UNSUPPORTED'],
  [{ kind: 'gzip' }, 'UNSUPPORTED'],
  [{ kind: 'content-range', value: `bytes 0-999/${size}` }, 'DATA_LOSS'],
  [{ kind: 'content-range', value: `bytes ${size - 1000}-${size - 1}/*` }, 'DATA_LOSS'],
  [{ kind: 'content-range', value: 'none' }, 'DATA_LOSS'],
  [{ kind: 'excess', bytes: 10 }, undefined],
  [{ kind: 'truncate', after: 500 }, 'UNAVAILABLE'],
  [{ kind: 'status', status: 416 }, undefined],
  [{ kind: 'status', status: 503 }, 'UNAVAILABLE'],
] as const)
  test(`the end of a blob is refused: ${JSON.stringify(action)}`, async (t) => {
    const { server, client, reader } = await setUp(t, faulty(action));
    const name = { host: server.host, repository: 'app' };
    const ending = client.fetchBlobEnd(name, reader.descriptor.digest, 1000);
    await t.throwsAsync(ending, { instanceOf: RegistryError, ...(code !== undefined && { code }) });
    t.is(server.requests.length, 1);
  });

test('who asks for authorization is remembered; over HTTPS it is expected', async (t) => {
  const { server, client, reader } = await setUp(t);
  t.true(client.givesEnds(server.host), 'plain HTTP');
  t.false(client.givesEnds('registry.test'), 'HTTPS that was never asked');
  await reader.read(0, 1);
  t.true(client.givesEnds(server.host));

  const guarded = await setUp(t, { auth: { kind: 'bearer' } });
  t.true(guarded.client.givesEnds(guarded.server.host));
  await guarded.reader.read(0, 1);
  t.false(guarded.client.givesEnds(guarded.server.host));
});

test('a registry without suffix ranges is remembered; a mirror is asked for authorization like its upstream', async (t) => {
  const { server, client, reader } = await setUp(t, faulty({ kind: 'ignore-range' }));
  const name = { host: server.host, repository: 'app' };
  await t.throwsAsync(client.fetchBlobEnd(name, reader.descriptor.digest, 1000), { code: 'UNSUPPORTED' });
  t.false(client.givesEnds(server.host));
  t.is(server.requests.length, 1);

  const hosts = { 'mirrored.test': { hosts: [{ url: server.url }] } };
  await using mirrored = new Registry({ env: NO_LOGINS, hosts });
  t.false(mirrored.givesEnds('mirrored.test'), 'the upstream speaks HTTPS');
});
