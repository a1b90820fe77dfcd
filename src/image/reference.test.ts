import test from 'ava';
import fc from 'fast-check';
import { digestOf } from '../digest/digester.js';
import { LazylayerError } from '../errors.js';
import { externalTocReference, formatReference, parseReference } from './reference.js';

const digest = digestOf('x');

for (const [text, full] of [
  ['python', 'docker.io/library/python:latest'],
  ['python:3.12', 'docker.io/library/python:3.12'],
  ['docker.io/python', 'docker.io/library/python:latest'],
  ['index.docker.io/team/app', 'docker.io/team/app:latest'],
  ['team/app', 'docker.io/team/app:latest'],
  ['library/python', 'docker.io/library/python:latest'],
  ['localhost/app', 'localhost/app:latest'],
  ['localhost:5000/app', 'localhost:5000/app:latest'],
  ['quay.io/a/b/c:v1', 'quay.io/a/b/c:v1'],
  ['[::1]:5000/app', '[::1]:5000/app:latest'],
  ['127.0.0.1:5000/a__b/c-d.e:T_1', '127.0.0.1:5000/a__b/c-d.e:T_1'],
  ['Registry/app', 'Registry/app:latest'],
  [`app@${digest}`, `docker.io/library/app@${digest}`],
  [`host:1/app:2@${digest}`, `host:1/app:2@${digest}`],
] as const)
  test(`${text} is ${full}`, (t) => {
    t.is(formatReference(parseReference(text)), full);
    t.deepEqual(parseReference(full), parseReference(text));
  });

for (const [text, message] of [
  ['', /repository components/],
  ['/', /repository components|host name/],
  ['Python', /repository name in lower case, found "Python"/],
  ['team/App', /in lower case, found "App"/],
  ['app:', /a tag of at most 128/],
  [`app:${'t'.repeat(129)}`, /a tag of at most 128/],
  ['app@sha256:12', /64 lower-case hex digits/],
  [`app@${digest.replace('256', '512')}`, /sha256: and 64/],
  ['a'.repeat(64), /an image id of 64 hex digits/],
  [`${'a/'.repeat(130)}a`, /at most 255 characters/],
  ['a..b/c', /host name/],
  ['a//b', /repository components/],
  ['app-', /repository components/],
  ['a___b', /repository components/],
  ['host:port/app', /host name with or without a port/],
  ['https://host/app', /host name/],
  ['app name', /repository components/],
  ['host.io/../../etc', /repository components/],
] as const)
  test(`refuses ${JSON.stringify(text.slice(0, 30))}`, (t) => {
    t.throws(() => parseReference(text), { instanceOf: LazylayerError, code: 'INVALID_ARGUMENT', message });
  });

test('any text is refused in words or gives a reference that survives being written', (t) => {
  const alphabet = fc.constantFrom(...'aA0.-_/:@[]# \u00e9'.split(''), '..', '__', digest, 'localhost', 'docker.io/');
  const texts = fc.oneof(
    fc.string(),
    fc.array(alphabet, { maxLength: 12 }).map((parts) => parts.join('')),
  );
  fc.assert(
    fc.property(texts, (text) => {
      let reference;
      try {
        reference = parseReference(text);
      } catch (error) {
        t.true(error instanceof LazylayerError && error.code === 'INVALID_ARGUMENT');
        return;
      }
      t.deepEqual(parseReference(formatReference(reference)), reference);
      t.true(reference.tag !== undefined || reference.digest !== undefined);
      t.false(reference.repository.split('/').includes('..'));
      t.is(new URL(`https://${reference.host}/v2/${reference.repository}/x`).pathname, `/v2/${reference.repository}/x`);
    }),
    { numRuns: 2000 },
  );
});

test('the image with the external TOC has the same name and a longer tag', (t) => {
  t.is(formatReference(externalTocReference(parseReference(`host:1/app:2@${digest}`))), 'host:1/app:2-esgztoc');
  t.throws(() => externalTocReference(parseReference(`app@${digest}`)), { code: 'UNSUPPORTED' });
});
