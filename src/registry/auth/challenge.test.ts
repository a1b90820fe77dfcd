import test from 'ava';
import fc from 'fast-check';
import { parseChallenges } from './challenge.js';

test('reads one challenge, several, quoted and bare parameters, and stops at what is none', (t) => {
  t.deepEqual(parseChallenges('Bearer realm="https://a/token?x=1,2",service="s \\"q\\"", scope=repository:a/b:pull'), [
    {
      scheme: 'bearer',
      parameters: { realm: 'https://a/token?x=1,2', service: 's "q"', scope: 'repository:a/b:pull' },
    },
  ]);
  t.deepEqual(parseChallenges('Basic realm="x", Bearer realm="y", error="invalid_token", Negotiate'), [
    { scheme: 'basic', parameters: { realm: 'x' } },
    { scheme: 'bearer', parameters: { realm: 'y', error: 'invalid_token' } },
    { scheme: 'negotiate', parameters: {} },
  ]);
  t.deepEqual(parseChallenges('BASIC'), [{ scheme: 'basic', parameters: {} }]);
  t.deepEqual(parseChallenges(''), []);
  t.deepEqual(parseChallenges('"'), []);
});

test('any header is read without a crash, and a written challenge is read back', (t) => {
  fc.assert(
    fc.property(fc.oneof(fc.string(), fc.stringMatching(/^[A-Ba-b ="\\,]{0,40}$/)), (header) => {
      t.true(Array.isArray(parseChallenges(header)));
    }),
  );
  fc.assert(
    fc.property(fc.stringMatching(/^[ -~]*$/), (realm) => {
      const quoted = realm.replace(/[\\"]/g, '\\$&');
      t.deepEqual(parseChallenges(`Bearer realm="${quoted}"`), [{ scheme: 'bearer', parameters: { realm } }]);
    }),
  );
});
