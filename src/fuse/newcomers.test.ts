import test from 'ava';
import { Newcomers } from './newcomers.js';

test('a process is new once', (t) => {
  const newcomers = new Newcomers();
  t.deepEqual(
    [7, 8, 7, 8, 7].map((pid) => newcomers.isNew(pid)),
    [true, true, false, false, false],
  );
  t.false(newcomers.isNew(0), 'nobody that could be looked at');
});

test('one that another has displaced is new again', (t) => {
  const newcomers = new Newcomers();
  t.true(newcomers.isNew(5));
  t.true(newcomers.isNew(5 + 1024));
  t.true(newcomers.isNew(5));
});

test('of very many at once a few are told of, and others later', (t) => {
  let now = 0;
  const newcomers = new Newcomers(() => now);
  const told = (from: number) =>
    Array.from({ length: 500 }, (_, i) => newcomers.isNew(from + i)).filter(Boolean).length;
  t.is(told(1), 16);
  t.is(told(501), 0);
  now = 100;
  t.is(told(1), 16, 'also of those that were left out');
});
