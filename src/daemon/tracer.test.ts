import test from 'ava';
import type { ReadRing } from '../fuse/read-ring.js';
import type { ServedLayers } from '../fuse/served.js';
import type { Layer } from '../layer/layer.js';
import { digestOf } from '../digest/digester.js';
import { inodeAt, treeOf } from '../testing/image-tree.js';
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

const request = { method: 'GET', url: 'http://localhost/v2/a/blobs/b', bytes: 7, ms: 30, headMs: 10, complete: true };

test('reads of both threads, requests, and the names of what was read', async (t) => {
  const { served, rings, layer, a, b } = fixture();
  const tracer = new Tracer();
  t.is(tracer.read(3, a, 0, 1), undefined);
  tracer.request(request);
  let finish = () => {};
  let begun = 0;
  const tracing = tracer.record(served, new Promise<void>((resolve) => (finish = resolve)), (time) => {
    begun = time;
    rings[0]!.put(3, b, 0, 4096, time + 1, time + 2);
    const read = tracer.read(3, a, 8000, 1000)!;
    read.source = 'network';
    read.end(false);
    tracer.read(9, 1, 0, 10)!.end(true);
    tracer.request({ ...request, blob: layer.digest, range: 'bytes=0-6', reason: 'demand', status: 206 });
    finish();
  });
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
  t.is(requests.length, 1);
  const [{ start, firstByte, end: ended, ...rest }] = requests;
  t.true(Math.abs(ended - start - 30) < 1e-3 && Math.abs(firstByte! - start - 10) < 1e-3);
  t.deepEqual(rest, {
    url: request.url,
    blob: layer.digest,
    range: 'bytes=0-6',
    reason: 'demand',
    status: 206,
    bytes: 7,
  });
  t.is(tracer.read(3, a, 0, 1), undefined);
});

test('there is one trace at a time, and what is wrong with one does not stay', async (t) => {
  const { served, rings } = fixture();
  const tracer = new Tracer();
  let fail = (_: Error) => {};
  const first = tracer.record(served, new Promise((_, reject) => (fail = reject)), () => {});
  await t.throwsAsync(
    tracer.record(served, Promise.resolve(), () => {}),
    { code: 'BUSY' },
  );
  fail(new Error('hung up'));
  await t.throwsAsync(first, { message: 'hung up' });
  t.is(rings.at(-1), undefined);
  t.deepEqual((await tracer.record(served, Promise.resolve(), () => {})).reads, []);
});
