import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import { Singleflight } from './singleflight.js';

test('concurrent callers share one piece of work, later ones start another', async (t) => {
  const flights = new Singleflight<string, number>();
  let runs = 0;
  const work = async () => {
    await sleep(5);
    return ++runs;
  };
  t.deepEqual(await Promise.all([flights.run('a', work), flights.run('a', work), flights.run('b', work)]), [1, 1, 2]);
  t.is(await flights.run('a', work), 3);
});

test('a failure reaches every waiter and is not kept', async (t) => {
  const flights = new Singleflight<string, string>();
  const fail = async () => Promise.reject(new Error('no'));
  const results = await Promise.allSettled([flights.run('a', fail), flights.run('a', fail)]);
  t.deepEqual(
    results.map((r) => r.status),
    ['rejected', 'rejected'],
  );
  t.is(await flights.run('a', async () => 'yes'), 'yes');
});

test('one caller leaves alone; the work is aborted when the last has left', async (t) => {
  const flights = new Singleflight<string, string>();
  let aborted = false;
  const work = (signal: AbortSignal) =>
    new Promise<string>((resolve) => {
      signal.addEventListener('abort', () => (aborted = true));
      setTimeout(() => resolve('done'), 30);
    });
  const first = new AbortController();
  const second = new AbortController();
  const a = flights.run('k', work, first.signal);
  const b = flights.run('k', work, second.signal);
  first.abort(new Error('first left'));
  await t.throwsAsync(a, { message: 'first left' });
  t.false(aborted);
  second.abort(new Error('second left'));
  await t.throwsAsync(b, { message: 'second left' });
  t.true(aborted);
});
