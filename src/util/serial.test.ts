import { setImmediate as turn } from 'node:timers/promises';
import test from 'ava';
import { Serial } from './serial.js';

test('one after the other, in order', async (t) => {
  const serial = new Serial();
  const log: string[] = [];
  const work = (name: string, turns: number) => async () => {
    log.push(`${name} begins`);
    for (let i = 0; i < turns; i++) await turn();
    log.push(`${name} ends`);
  };
  void serial.run(work('a', 5));
  void serial.run(work('b', 0));
  const last = serial.run(work('c', 1));
  t.deepEqual(log, [], 'none begins before whoever asked goes on');
  await last;
  t.deepEqual(log, ['a begins', 'a ends', 'b begins', 'b ends', 'c begins', 'c ends']);
});

test('whoever asked gets the result, or the error; the next has its turn all the same', async (t) => {
  const serial = new Serial();
  const results = [
    serial.run(() => Promise.resolve(1)),
    serial.run(() => Promise.reject(new Error('rejected'))),
    serial.run((): number => {
      throw new Error('thrown');
    }),
    serial.run(() => 2),
  ];
  const outcomes = await Promise.allSettled(results);
  t.deepEqual(
    outcomes.map((one) => (one.status === 'fulfilled' ? one.value : (one.reason as Error).message)),
    [1, 'rejected', 'thrown', 2],
  );
});

test('flushed is what came up to now, whether it failed or not', async (t) => {
  const serial = new Serial();
  await serial.flushed();
  let over = 0;
  const failed = serial.run(async () => {
    await turn();
    over++;
    throw new Error('x');
  });
  void serial.run(() => void over++);
  const flushed = serial.flushed();
  let later = false;
  const end = serial.run(async () => {
    await turn();
    later = true;
  });
  await flushed;
  t.is(over, 2);
  t.false(later);
  await t.throwsAsync(failed, { message: 'x' });
  await end;
});
