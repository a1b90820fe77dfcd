import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import { EndOrder, type EndTry } from './end-order.js';

test('waits to be idle, goes on while it is needed, and ends when it can', async (t) => {
  const order = new EndOrder();
  const outcomes: EndTry[] = ['needed', 'ended'];
  let tries = 0;
  const end = order.given(async () => outcomes[tries++]);
  await sleep(5);
  t.is(tries, 0);
  order.whenIdle();
  await sleep(5);
  t.is(tries, 1);
  order.whenIdle();
  t.is(await end, 'nothing is mounted any more');
  t.is(tries, 2);
});

test('tries again by itself while files are open', async (t) => {
  const order = new EndOrder();
  const outcomes: EndTry[] = ['busy', 'ended'];
  order.whenIdle();
  await order.given(async () => outcomes.shift()!);
  t.deepEqual(outcomes, []);
});

test('an order to end at once is heard before, between and during tries; the first reason counts', async (t) => {
  const before = new EndOrder();
  before.now('SIGTERM');
  before.now('SIGINT');
  t.is(await before.given(async () => t.fail()), 'SIGTERM');

  const waiting = new EndOrder();
  const ended = waiting.given(async () => 'busy');
  waiting.whenIdle();
  await sleep(5);
  waiting.now('SIGINT');
  t.is(await ended, 'SIGINT');

  const during = new EndOrder();
  during.whenIdle();
  t.is(
    await during.given(async () => {
      during.now('SIGTERM');
      return 'busy';
    }),
    'SIGTERM',
  );
});
