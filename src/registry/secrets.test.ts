import { inspect } from 'node:util';
import test from 'ava';
import { describeError } from '../errors.js';
import { parseReference } from '../image/reference.js';
import { NO_LOGINS, type TestAuth } from '../testing/registry-auth.js';
import { startTestRegistry } from '../testing/registry.js';
import type { FaultAction } from '../testing/registry-faults.js';
import { Registry } from './client.js';
import type { Credential } from './auth/credentials.js';
import type { RequestRecord } from './exchange.js';

/** Every secret of these tests holds this word, plain, or encoded as in a Basic header. */
const word = 'SECRET';
const password = 'my-SECRET-password';
const header = Buffer.from(`joe:${password}`).toString('base64');
const leaks = (text: string) =>
  text.includes(word) || text.includes(header) || /very-secret-\d/.test(text) || /\b[0-9a-f]{32}\b/.test(text);

const evil = 'https://joe:SECRET@elsewhere.test/x?X-Signature=SECRET';
const echo = JSON.stringify({
  errors: [{ code: 'DENIED', message: `see ${evil}, sent Authorization: Bearer SECRET.abc`, detail: { url: evil } }],
});

const faults: FaultAction[] = [
  { kind: 'status', status: 400, body: echo },
  { kind: 'status', status: 401, body: echo },
  { kind: 'status', status: 403, body: echo },
  { kind: 'status', status: 404, body: echo },
  { kind: 'status', status: 416, body: echo },
  { kind: 'status', status: 429, body: echo },
  { kind: 'status', status: 500, body: echo },
  { kind: 'status', status: 503, body: echo, retryAfter: '0' },
  { kind: 'status', status: 200, body: echo },
  { kind: 'truncate', after: 2 },
  { kind: 'reset', after: 0 },
  { kind: 'stall', after: 0 },
  { kind: 'hang' },
  { kind: 'gzip' },
  { kind: 'content-range', value: 'bytes 0-1/2' },
  { kind: 'ignore-range' },
  { kind: 'excess', bytes: 3 },
  { kind: 'redirect', to: 'http://joe:SECRET@127.0.0.1:1/x?X-Signature=SECRET' },
  { kind: 'redirect', to: 'ftp://joe:SECRET@127.0.0.1/x?sig=SECRET' },
  { kind: 'header', name: 'www-authenticate', value: `Bearer realm="${evil}",scope="SECRET"` },
];

const basic: TestAuth = { kind: 'basic', username: 'joe', password };
const bearer: TestAuth = { kind: 'bearer', username: 'joe', password, identityToken: 'idt-SECRET' };
const logins: [string, TestAuth, Credential | undefined][] = [
  ['Basic', basic, { kind: 'password', username: 'joe', password }],
  ['Bearer', bearer, { kind: 'password', username: 'joe', password }],
  ['identity token', bearer, { kind: 'identity', token: 'idt-SECRET' }],
  ['refused', bearer, { kind: 'token', token: 'wrong-SECRET' }],
];

for (const [name, auth, credential] of logins)
  for (const server of ['registry', 'storage'] as const)
    test(`no secret in any error or record, whatever fails: ${name}, faults in the ${server}`, async (t) => {
      let errors = 0;
      // undici looks at its timers once a second: silence is tried with one login only.
      const slow = (action: FaultAction) => name !== 'Basic' && (action.kind === 'hang' || action.kind === 'stall');
      for (const action of faults.filter((f) => !slow(f))) {
        await using registry = await startTestRegistry({ auth, redirectBlobs: true });
        const records: RequestRecord[] = [];
        await using client = new Registry({
          env: NO_LOGINS,
          retry: { attempts: 1, baseMs: 1, maxMs: 1 },
          timeouts: { headersMs: 80, bodyMs: 80, connectMs: 500 },
          credentials: async () => credential,
          onRequest: (record) => records.push(record),
        });
        const blob = registry.putBlob(Buffer.alloc(2_000_000));
        registry.putManifest('app', '1', Buffer.from('{}'), 'application/json');
        const reference = parseReference(`${registry.host}/app:1`);
        const reader = client.openBlob(reference, blob);
        await reader.read(0, 10).catch(() => {}); // so that a redirect is kept
        registry.faults.add({ server, action });
        for (const work of [
          () => reader.read(1_500_000, 10),
          () => client.openBlob(reference, blob).read(5, 10),
          () => client.resolve(reference),
        ]) {
          const error: unknown = await work().then(
            () => undefined,
            (e: unknown) => e,
          );
          if (error === undefined) continue;
          errors++;
          const shown = [describeError(error), inspect(error, { depth: 20, showHidden: true }), JSON.stringify(error)];
          for (const text of shown) t.false(leaks(text), `${inspect(action)}: ${text}`);
        }
        t.true(records.length > 0);
        t.false(leaks(JSON.stringify(records)), inspect(records));
      }
      t.true(errors >= faults.length - 2);
    });
