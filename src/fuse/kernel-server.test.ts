import { closeSync, openSync } from 'node:fs';
import test from 'ava';
import type { Negotiated } from './codec.js';
import { serveConnection } from './kernel-server.js';

test('the death of the thread that answers the kernel is no end of the mount', async (t) => {
  const fd = openSync('/dev/null', 'r+');
  t.teardown(() => closeSync(fd));
  const told: unknown[] = [];
  const host = { read: () => Promise.reject(new Error('nobody reads')), onError: (error: unknown) => told.push(error) };
  // There is no such slot.
  const asleep = [{ slot: 0, statistics: { bytes: 1, files: 1 } }];
  const resume = { minor: 31 } as Negotiated;
  const server = await serveConnection({ fd, mountpoint: '/nowhere' }, host, { asleep, resume });
  const why = await server.ended.then(
    () => 'it was unmounted',
    (error: Error) => error.message,
  );
  t.regex(why, /^slot: expected a number from 1/);
  t.is(told.length, 1);
  await t.throwsAsync(server.detach(1), { code: 'UNAVAILABLE' });
});
