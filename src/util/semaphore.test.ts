import test from 'ava';
import { PrioritySemaphore } from './semaphore.js';

test('urgent waiters go first, and nobody starves', async (t) => {
  const semaphore = new PrioritySemaphore(1, { priorities: 2, patience: 3 });
  const order: string[] = [];
  const hold = await semaphore.acquire(0);
  const work = async (name: string, priority: number) => {
    const release = await semaphore.acquire(priority);
    order.push(name);
    release();
  };
  const all = [work('low', 1), ...['a', 'b', 'c', 'd', 'e'].map((n) => work(n, 0))];
  hold();
  await Promise.all(all);
  t.deepEqual(order, ['a', 'b', 'c', 'low', 'd', 'e']);
  t.is(semaphore.used, 0);
});

test('weights are honoured, and one above the capacity is served alone', async (t) => {
  const semaphore = new PrioritySemaphore(10, { priorities: 1 });
  const small = await semaphore.acquire(0, 4);
  let big = false;
  const waiting = semaphore.acquire(0, 99).then((release) => {
    big = true;
    return release;
  });
  await Promise.resolve();
  t.false(big);
  small();
  (await waiting)();
  t.true(big);
  t.is(semaphore.used, 0);
});

test('an aborted waiter leaves the line and takes nothing with it', async (t) => {
  const semaphore = new PrioritySemaphore(1, { priorities: 1 });
  const hold = await semaphore.acquire(0);
  const controller = new AbortController();
  const waiting = semaphore.acquire(0, 1, controller.signal);
  controller.abort(new Error('gone'));
  await t.throwsAsync(waiting, { message: 'gone' });
  hold();
  hold();
  t.is(semaphore.used, 0);

  const late = new AbortController();
  const granted = semaphore.acquire(0, 1, late.signal);
  late.abort(new Error('late'));
  await t.throwsAsync(granted, { message: 'late' });
  t.is(semaphore.used, 0);
});
