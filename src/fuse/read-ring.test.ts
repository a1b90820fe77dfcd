import test from 'ava';
import { ReadRing } from './read-ring.js';

test('another thread sees the newest reads, oldest first, and how many had to make room', (t) => {
  const ring = ReadRing.allocate(3);
  t.deepEqual([...ring], []);
  for (let i = 0; i < 5; i++) ring.put(2 ** 21 - 1, 2 ** 32 - 1 - i, 2 ** 40 + i, 4096, 1.25, 1.5 + i);
  const seen = new ReadRing(ring.buffer);
  t.is(seen.dropped, 2);
  t.deepEqual(
    [...seen],
    [2, 3, 4].map((i) => ({
      slot: 2 ** 21 - 1,
      inode: 2 ** 32 - 1 - i,
      offset: 2 ** 40 + i,
      size: 4096,
      start: 1.25,
      end: 1.5 + i,
    })),
  );
});
