import test from 'ava';
import { BufferPool } from './buffers.js';

test('buffers are as large as asked for, or there is none; small ones are used again', (t) => {
  const pool = new BufferPool(1 << 20);
  for (const bytes of [0, 1, 65_536, 65_537, 1 << 23, (1 << 23) + 1]) {
    const buffer = pool.take(bytes);
    t.true(buffer.byteLength >= bytes && buffer.byteLength <= Math.max(65_536, 2 * bytes));
    pool.give(buffer);
  }
  const small = pool.take(100);
  pool.give(small);
  t.is(pool.take(100), small);
  // No processor has so many addresses, and 32 bits of it would be a small buffer.
  t.throws(() => pool.take(2 ** 48 + 100), { instanceOf: RangeError });
});
