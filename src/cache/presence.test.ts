import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import test from 'ava';
import { Presence } from './presence.js';

test('bits are one a chunk, also at the borders of words', (t) => {
  t.deepEqual(
    [0, 1, 32, 33].map((chunks) => Presence.bytes(chunks)),
    [0, 4, 4, 8],
  );
  const presence = new Presence(new SharedArrayBuffer(Presence.bytes(70)));
  t.true(presence.hasAll(5, 5));
  for (const chunk of [0, 31, 32, 63, 64, 69]) presence.set(chunk);
  presence.set(31);
  t.is(presence.count(), 6);
  t.true(presence.hasAll(31, 33));
  t.false(presence.hasAll(31, 34));
  t.false(presence.has(33));
  t.true(presence.has(69));
});

test('threads that set bits of the same word at once lose none', async (t) => {
  const chunks = 400_000;
  const presence = new Presence(new SharedArrayBuffer(Presence.bytes(chunks)));
  const arrived = new SharedArrayBuffer(4);
  const source = `
    const { workerData } = require('node:worker_threads');
    import(workerData.module).then(({ Presence }) => {
      const presence = new Presence(workerData.buffer);
      const arrived = new Int32Array(workerData.arrived);
      for (let chunk = workerData.from; chunk < workerData.chunks; chunk += 2) {
        // Side by side again and again: a thread that runs ahead would meet nobody.
        if (chunk % 10_000 < 2) for (Atomics.add(arrived, 0, 1); Atomics.load(arrived, 0) < 2 * (1 + Math.floor(chunk / 10_000)); );
        presence.set(chunk);
      }
    });`;
  const module = new URL('./presence.js', import.meta.url).href;
  await Promise.all(
    [0, 1].map((from) => {
      const workerData = { module, buffer: presence.buffer, arrived, from, chunks };
      return once(new Worker(source, { eval: true, workerData }), 'exit');
    }),
  );
  t.is(presence.count(), chunks);
});
