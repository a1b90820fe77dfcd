import test from 'ava';
import fc from 'fast-check';
import { LazylayerError } from '../../errors.js';
import { GivenCredentials, parseGiven } from './given.js';

test('the last login that was given for any reference of a repository; none where the client has none', (t) => {
  const given = new GivenCredentials();
  const give = (value: object) => given.give(parseGiven(JSON.stringify(value)));
  give({ 'registry.test/a:1': { username: 'joe', password: 'one' } });
  t.deepEqual(given.find('registry.test', 'a'), { kind: 'password', username: 'joe', password: 'one' });
  t.is(given.find('registry.test', 'b'), undefined);
  t.is(given.find('other.test', 'a'), undefined);
  give({ 'registry.test/a:2': { identityToken: 'token' }, 'docker.io/library/x:1': { username: 'jane' } });
  t.deepEqual(given.find('registry.test', 'a'), { kind: 'identity', token: 'token' });
  t.deepEqual(given.find('docker.io', 'library/x'), { kind: 'password', username: 'jane', password: '' });
  give({ 'registry.test/a:2': {} });
  t.deepEqual(given.find('registry.test', 'a'), { kind: 'password', username: 'joe', password: 'one' });
  give({ 'registry.test/a:1': { username: '', password: '', identityToken: '' } });
  t.is(given.find('registry.test', 'a'), undefined);
});

test('as many as a thousand are kept, the newest', (t) => {
  const given = new GivenCredentials();
  for (let i = 0; i < 1100; i++) given.give({ [`registry.test/r${i}:1`]: { username: `u${i}` } });
  t.is(given.find('registry.test', 'r99'), undefined);
  t.like(given.find('registry.test', 'r100'), { username: 'u100' });
  t.like(given.find('registry.test', 'r1099'), { username: 'u1099' });
});

test('what is malformed is refused, and not repeated', (t) => {
  const secret = 'S3CRET';
  const malformed = [
    secret,
    `{"${secret}`,
    `"${secret}"`,
    JSON.stringify({ [`registry.test/${secret}`]: { username: 'u' } }),
    JSON.stringify({ 'registry.test/a:1': { username: 1, password: secret } }),
    JSON.stringify({ 'registry.test/a:1': secret }),
  ];
  for (const text of malformed) {
    const error = t.throws(() => parseGiven(text), { code: 'INVALID_ARGUMENT' }, text);
    t.false(error.message.includes(secret));
  }
  fc.assert(
    fc.property(fc.oneof(fc.string(), fc.json()), (text) => {
      try {
        new GivenCredentials().give(parseGiven(text));
      } catch (error) {
        t.true(error instanceof LazylayerError);
      }
    }),
  );
});
