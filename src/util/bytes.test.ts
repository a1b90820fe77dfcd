import test from 'ava';
import { bufferOf, gather } from './bytes.js';

test('a buffer of bytes is those bytes, not a copy, wherever they lie in their memory', (t) => {
  const memory = Uint8Array.from([0, 1, 2, 3, 4, 5, 6, 7]);
  const bytes = memory.subarray(2, 7);
  t.deepEqual([...bufferOf(bytes)], [2, 3, 4, 5, 6]);
  t.deepEqual([...bufferOf(bytes, 1)], [3, 4, 5, 6]);
  t.deepEqual([...bufferOf(bytes, 1, 2)], [3, 4]);
  bufferOf(bytes)[0] = 9;
  t.is(memory[2], 9);
});

async function* pieces(...sizes: number[]) {
  let next = 0;
  for (const size of sizes) yield Uint8Array.from({ length: size }, () => next++);
}

test('pieces lie one behind the other, and what has come is told of each', async (t) => {
  const into = new Uint8Array(6);
  const heard: number[] = [];
  t.is(await gather(pieces(2, 0, 3), into, (come) => heard.push(come)), 5);
  t.deepEqual([...into], [0, 1, 2, 3, 4, 0]);
  t.deepEqual(heard, [2, 2, 5]);
});

test('of a source that gives more than there is room for, no piece that does not fit is put anywhere, and it is left', async (t) => {
  let left = false;
  const endless = async function* () {
    try {
      for (;;) yield Uint8Array.of(1, 2, 3);
    } finally {
      left = true;
    }
  };
  const into = new Uint8Array(4);
  t.is(await gather(endless(), into), 6);
  t.deepEqual([...into], [1, 2, 3, 0]);
  t.true(left);
});
