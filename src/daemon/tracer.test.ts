import { setImmediate as turn, setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import type { ReadRing } from '../fuse/read-ring.js';
import type { ServedLayers } from '../fuse/served.js';
import type { Layer } from '../layer/layer.js';
import { digestOf } from '../digest/digester.js';
import { inodeAt, treeOf } from '../testing/image-tree.js';
import { wallClock } from '../util/wall-clock.js';
import { Tracer } from './tracer.js';

/** One layer in slot 3, of chunks of 4096 bytes that are not compressed. */
function fixture() {
  const tree = treeOf([
    { path: 'usr/a', size: 10_000 },
    { path: 'usr/b', size: 4096 },
  ]);
  const layer = { tree, digest: digestOf('blob'), size: 20_000 } as Layer;
  const rings: (ReadRing | undefined)[] = [];
  const served = {
    trace: async (ring: ReadRing | undefined) => void rings.push(ring),
    using: async (slot: number, work: (layer: Layer) => Promise<unknown>) => {
      if (slot !== 3) throw new Error('no such layer');
      return work(layer);
    },
  } as unknown as ServedLayers;
  return { served, rings, layer, a: inodeAt(tree, 'usr/a'), b: inodeAt(tree, 'usr/b') };
}

const { digest } = fixture().layer;
const request = {
  method: 'GET',
  url: 'http://localhost/v2/a/blobs/b',
  blob: digest,
  range: 'bytes=0-6',
  reason: 'demand' as const,
  status: 206,
  start: 0,
  bytes: 7,
  headMs: 10,
};
/** What is told of it besides its times. */
const told = { url: request.url, blob: digest, range: request.range, reason: request.reason, bytes: 7 };
const atOnce = Promise.resolve(undefined);

test('reads of both threads, requests, and the names of what was read', async (t) => {
  const { served, rings, layer, a, b } = fixture();
  const tracer = new Tracer();
  t.is(tracer.read(3, a, 0, 1), undefined);
  tracer.request({ ...request, ms: 30, complete: true });
  let finish = () => {};
  let begun = 0;
  const tracing = tracer.record(
    served,
    new Promise<undefined>((resolve) => (finish = () => resolve(undefined))),
    (time) => {
      begun = time;
      rings[0]!.put(3, b, 0, 4096, time + 1, time + 2);
      const read = tracer.read(3, a, 8000, 1000)!;
      read.source = 'network';
      read.end(false);
      tracer.read(9, 1, 0, 10)!.end(true);
      tracer.request({ ...request, start: time, ms: 0, headMs: 0, complete: true });
      finish();
    },
  );
  const { begin, end, layers, files, reads, requests, dropped } = await tracing;
  t.is(begin, begun);
  t.true(end >= begin);
  t.is(dropped, 0);
  t.is(rings.length, 2);
  t.is(rings[1], undefined);
  t.deepEqual(
    reads
      .map(({ slot, inode, offset, length, source, failed }) => [slot, inode, offset, length, source, failed])
      .sort(),
    [
      [3, a, 8000, 1000, 'network', undefined],
      [3, b, 0, 4096, 'cache', undefined],
      [9, 1, 0, 10, 'cache', true],
    ],
  );
  // Of `a`, the second chunk and the third, which has what is left.
  t.deepEqual(layers, [{ slot: 3, digest: layer.digest, bytes: 20_000, readBytes: 4096 + 1808 + 4096 }]);
  t.deepEqual(files, [
    { slot: 3, inode: a, path: '/usr/a', bytes: 10_000 },
    { slot: 3, inode: b, path: '/usr/b', bytes: 4096 },
  ]);
  t.deepEqual(requests, [{ ...told, status: 206, start: begun, firstByte: begun, end: begun }]);
  t.is(tracer.read(3, a, 0, 1), undefined);
});

test('what is under way at the end is told as it was then, and what began later is not', async (t) => {
  const { served, rings, layer, a, b } = fixture();
  const tracer = new Tracer();
  const later = () => sleep(3).then(wallClock);
  let begun = 0;
  let finish = (_: number) => {};
  const tracing = tracer.record(served, new Promise<number>((resolve) => (finish = resolve)), (time) => (begun = time));
  await turn();
  const held = tracer.read(3, a, 0, 4096)!;
  held.source = 'network';
  const slow = tracer.read(3, a, 4096, 4096)!;
  const failing = tracer.read(3, b, 0, 4096)!;
  failing.end(true);
  const asked = { ...request, start: begun + 1, bytes: 0, headMs: undefined, status: undefined };
  const coming = { ...request, start: begun + 2, headMs: 0 };
  tracer.progress(asked, 0);
  tracer.progress(coming, 0);
  tracer.progress(coming, 5);
  const until = await later();
  await later();
  tracer.progress(coming, 1);
  tracer.progress(coming, 1);
  const ended = Object.assign(coming, { ms: wallClock() - coming.start, complete: true });
  tracer.request(ended);
  tracer.progress({ ...request, start: wallClock() }, 0);
  slow.end(true);
  tracer.read(3, b, 0, 4096)!.end(false);
  const now = wallClock();
  rings[0]!.put(3, b, 0, 4096, now, now);
  finish(until);
  const { end, reads, requests, layers } = await tracing;
  t.is(end, until);
  t.deepEqual(
    requests.map(({ start: _, ...rest }) => rest),
    [
      { ...told, bytes: 0, end, underWay: true },
      { ...told, bytes: 5, end, underWay: true, status: 206, firstByte: begun + 2 },
    ],
  );
  t.deepEqual(
    reads.map(({ inode, offset, source, end: at, underWay, failed }) => [
      inode,
      offset,
      source,
      at === end,
      underWay,
      failed,
    ]),
    [
      [b, 0, 'cache', false, undefined, true],
      [a, 4096, 'cache', true, true, undefined],
      [a, 0, 'network', true, true, undefined],
    ],
  );
  t.is(layers[0].readBytes, 2 * 4096, 'what failed, and what was read later, was not needed');
  t.is(layers[0].digest, layer.digest);
});

test('there is one trace at a time, and what is wrong with one does not stay', async (t) => {
  const { served, rings } = fixture();
  const tracer = new Tracer();
  let fail = (_: Error) => {};
  const first = tracer.record(served, new Promise<never>((_, reject) => (fail = reject)), () => {});
  await t.throwsAsync(
    tracer.record(served, atOnce, () => {}),
    { code: 'BUSY' },
  );
  fail(new Error('hung up'));
  await t.throwsAsync(first, { message: 'hung up' });
  t.is(rings.at(-1), undefined);
  t.deepEqual((await tracer.record(served, atOnce, () => {})).reads, []);
});
