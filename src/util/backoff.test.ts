import test from 'ava';
import { backoffMs, retry } from './backoff.js';

const options = { attempts: 3, baseMs: 1, maxMs: 4 };

test('the bound doubles and is capped', (t) => {
  t.deepEqual(
    [0, 1, 2, 3, 10].map((n) => backoffMs(n, options, () => 1)),
    [1, 2, 4, 4, 4],
  );
});

test('retries what is worth it, gives up after the last try, and at once on the rest', async (t) => {
  let tries = 0;
  const fail = async () => {
    tries++;
    throw new Error('down');
  };
  await t.throwsAsync(
    retry(fail, () => 0, options),
    { message: 'down' },
  );
  t.is(tries, 3);
  tries = 0;
  await t.throwsAsync(
    retry(fail, () => undefined, options),
    { message: 'down' },
  );
  t.is(tries, 1);
  t.is(
    await retry(
      async (n) => (n === 2 ? 'up' : Promise.reject(new Error())),
      () => 0,
      options,
    ),
    'up',
  );
});

test('waits at least as long as told', async (t) => {
  const start = performance.now();
  await retry(
    async (n) => (n > 0 ? n : Promise.reject(new Error())),
    () => 30,
    options,
  );
  t.true(performance.now() - start >= 29);
});

test('an abort ends the wait', async (t) => {
  const controller = new AbortController();
  const waiting = retry(
    async () => Promise.reject(new Error('down')),
    () => 60_000,
    {
      ...options,
      signal: controller.signal,
    },
  );
  setTimeout(() => controller.abort(), 5);
  await t.throwsAsync(waiting, { name: 'AbortError' });
});
