import { setImmediate as turn } from 'node:timers/promises';
import test from 'ava';
import { DEMAND, FetchScheduler, PREFETCH } from './scheduler.js';

test('background work waits while somebody reads, and a while after', async (t) => {
  await using scheduler = new FetchScheduler({ quietMs: 100 });
  const order: string[] = [];
  const demandEnds = scheduler.demandStarts();
  const waiting = scheduler.politely().then(() => order.push('background'));
  setTimeout(() => {
    order.push('read');
    demandEnds();
    setTimeout(() => order.push('a moment later'), 10);
  }, 150);
  await waiting;
  t.deepEqual(order, ['read', 'a moment later', 'background']);
});

test('who leaves while it waits for leave to start holds nothing', async (t) => {
  await using scheduler = new FetchScheduler({ maxRequests: 1, maxBulkRequests: 1 });
  const first = await scheduler.admit(PREFETCH, () => 100);
  for (const priority of [DEMAND, PREFETCH] as const) {
    const controller = new AbortController();
    const waiting = scheduler.admit(priority, () => 10, controller.signal);
    await turn();
    controller.abort(new Error('I leave'));
    await t.throwsAsync(waiting, { message: 'I leave' });
  }
  t.is(scheduler.memoryInUse, 100);
  const next = scheduler.admit(DEMAND, () => 10);
  first.release();
  (await next).release();
  t.deepEqual([scheduler.memoryInUse, scheduler.requestsInUse], [0, 0]);
});

test('where nobody ever read, background work begins at once, unless somebody is about to', async (t) => {
  await using scheduler = new FetchScheduler({ quietMs: 86_400_000 });
  await scheduler.politely();
  scheduler.stir();
  const controller = new AbortController();
  const waiting = scheduler.politely(controller.signal);
  controller.abort(new Error('the end'));
  await t.throwsAsync(waiting, { name: 'AbortError' });
});

test('readers that never pause do not starve background work', async (t) => {
  await using scheduler = new FetchScheduler({ quietMs: 10 });
  scheduler.demandStarts();
  await Promise.all(Array.from({ length: 50 }, () => scheduler.politely()));
  t.pass();
});

test('how fast the network is, is told by all that comes while something comes', async (t) => {
  await using scheduler = new FetchScheduler();
  const { rate } = scheduler;
  const little = scheduler.measure();
  scheduler.came(1000);
  little();
  t.is(scheduler.rate, rate);
  // Of no transfer more than 64 KiB, of all together far more than was assumed.
  const ended = Array.from({ length: 20_000 }, () => scheduler.measure());
  for (let i = 0; i < ended.length; i++) scheduler.came(60 * 1024);
  for (const end of ended) end();
  t.true(scheduler.rate > rate);
});
