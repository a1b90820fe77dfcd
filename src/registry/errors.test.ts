import test from 'ava';
import { networkError } from './errors.js';

const request = { method: 'GET', url: 'http://127.0.0.1:1/v2/' };

test('a network error tells its code once', (t) => {
  const failure = (message: string) => Object.assign(new Error(message), { code: 'ECONNREFUSED' });
  const { problem } = networkError(request, failure('connect ECONNREFUSED 127.0.0.1:1'));
  t.is(problem, 'connect ECONNREFUSED 127.0.0.1:1');
  t.is(networkError(request, failure('no connection')).problem, 'no connection, ECONNREFUSED');
  t.is(networkError(request, failure('')).problem, 'ECONNREFUSED');
});
