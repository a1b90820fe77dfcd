import test from 'ava';
import fc from 'fast-check';
import { Ring } from './ring.js';

test('a ring has the newest, oldest first, and counts the others', (t) => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 8 }), fc.array(fc.integer()), (capacity, items) => {
      const ring = new Ring<number>(capacity);
      for (const item of items) ring.put(item);
      t.deepEqual([...ring], items.slice(-capacity));
      t.is(ring.dropped, Math.max(0, items.length - capacity));
    }),
  );
});
