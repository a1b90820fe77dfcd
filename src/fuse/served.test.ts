import test from 'ava';
import type { Digest } from '../digest/digest.js';
import { LazylayerError } from '../errors.js';
import type { ReferenceLayer } from '../fs/served-tree.js';
import type { KnownLayer } from '../layer/known.js';
import type { Layer } from '../layer/layer.js';
import { Gate } from '../testing/gate.js';
import { ServedLayers } from './served.js';
import type { FuseServer } from './server.js';

/** Layers and a server that write down what becomes of them, one line each: `open 1`, `attach 1`, `sleep 1`, `close 1` ... */
function scene() {
  const said: string[] = [];
  const touched = new Set<number>();
  const references = new Map<string, readonly ReferenceLayer[]>();
  /** Called before a step of this name; what it throws or waits for happens to the step. */
  const before = new Map<string, () => Promise<void> | void>();
  const step = async (what: string) => {
    await before.get(what)?.();
    said.push(what);
  };
  const opened = (slot: number) => {
    const layer = {
      digest: `sha256:${slot}`,
      slot,
      view: { slot },
      busy: false,
      stats: { fetchedBytes: 10, requests: 1, badChunks: 1, presentBytes: 5, totalBytes: 9 },
      [Symbol.asyncDispose]: () => step(`close ${slot}`),
    };
    return layer as typeof layer & Layer;
  };
  const current = new Map<number, ReturnType<typeof opened>>();
  const known = (slot: number): KnownLayer => ({
    digest: `sha256:${slot}` as Digest,
    slot,
    statistics: { bytes: 100, files: 3 },
    treeBytes: 50,
    async open() {
      await step(`open ${slot}`);
      current.set(slot, opened(slot));
      return current.get(slot)!;
    },
    looksWhole: async () => false,
    keep: () => {
      said.push(`keep ${slot}`);
      return () => said.push(`let go ${slot}`);
    },
  });
  const fuse = {
    attach: ({ slot }: { slot: number }) => step(`attach ${slot}`),
    sleep: ({ slot }: { slot: number }) => step(`sleep ${slot}`),
    detach: (slot: number) => step(`detach ${slot}`),
    touched: (slot: number) => touched.delete(slot),
    setReference: async (reference: string, layers: readonly ReferenceLayer[] | undefined) => {
      if (layers === undefined) references.delete(reference);
      else references.set(reference, layers);
    },
  } as unknown as FuseServer;
  const errors: unknown[] = [];
  const served = new ServedLayers({ onError: (_what, error) => errors.push(error) });
  /** What was said since the last call. */
  const heard = () => said.splice(0);
  /** Twice: a layer that was just woken is not idle at the first look. */
  const idle = async () => {
    await served.sleepIdle();
    await served.sleepIdle();
  };
  return { served, fuse, known, opened, current, touched, references, before, errors, heard, idle };
}

test('an image that shares layers with one that is being added waits until they are there', async (t) => {
  const { served, fuse, known, opened, before, heard } = scene();
  await served.bind(Promise.resolve(fuse));
  const attaching = new Gate();
  before.set('attach 2', () => attaching.promise);
  const first = served.add('a', [known(1), known(2)], [opened(1), opened(2)]);
  const second = served.add('b', [known(2)]).then(() => heard().includes('attach 2'));
  setImmediate(attaching.resolve);
  t.true(await second);
  await first;
});

test('a layer that is added again while it is still going is there afterwards, awake or asleep', async (t) => {
  for (const takes of ['an opened one', 'a sleeping one']) {
    const { served, fuse, known, opened, before, heard } = scene();
    await served.bind(Promise.resolve(fuse));
    await served.add('a', [known(1)]);
    const opening = new Gate();
    before.set('open 1', () => opening.promise);
    const waking = t.throwsAsync(served.wake(1), { code: 'NOT_FOUND' });
    const removing = served.remove('a', [known(1)]);
    await new Promise(setImmediate);
    const adding = served.add('b', [known(1)], takes === 'an opened one' ? [opened(1)] : []);
    setImmediate(opening.resolve);
    await Promise.all([waking, removing, adding]);
    const mount = heard().filter((step) => /^(attach|sleep|detach)/.test(step));
    t.is(mount.at(-1), takes === 'an opened one' ? 'attach 1' : 'sleep 1', mount.join());
    t.is(await served.using(1, async (layer) => layer.slot), 1);
  }
});

test('a layer that comes back in another slot is not shown in its place', async (t) => {
  const { served, fuse, known, opened, heard } = scene();
  await served.bind(Promise.resolve(fuse));
  await served.add('a', [{ ...known(1), open: async () => opened(2) }]);
  heard();
  await t.throwsAsync(served.wake(1), { code: 'INTERNAL' });
  t.deepEqual(heard(), ['close 2']);
});

test('what changes while the server starts, it is told of once it is there', async (t) => {
  const { served, fuse, known, opened, references, heard } = scene();
  await served.add('a', [known(1)]);
  t.is(served.initial().asleep.length, 1);
  const starting = new Gate<FuseServer>();
  const binding = served.bind(starting.promise);
  const changing = [served.wake(1), served.add('b', [known(2), known(3)], [opened(2)])];
  await new Promise(setImmediate);
  t.deepEqual(
    heard().filter((step) => /^(attach|sleep)/.test(step)),
    [],
  );
  starting.resolve(fuse);
  await Promise.all([binding, ...changing]);
  t.deepEqual(
    heard()
      .filter((step) => /^(attach|sleep)/.test(step))
      .sort(),
    ['attach 1', 'attach 2', 'sleep 3'],
  );
  t.deepEqual([...references.keys()], ['b']);
});

test('what is shown of a reference grows with each add and goes with as many removes', async (t) => {
  const { served, fuse, known, references } = scene();
  await served.bind(Promise.resolve(fuse));
  const shown = () =>
    [...references].map(([reference, layers]) => `${reference} ${layers.map(({ slot }) => slot).join()}`);
  await served.add('a', [known(1)]);
  await served.add('a', [known(2)]);
  await served.add('a', [known(1), known(1)]);
  await served.add('b', [known(2)]);
  t.deepEqual(shown(), ['a 1,2', 'b 2']);
  await served.remove('a', [known(1), known(1)]);
  t.deepEqual(shown(), ['a 1,2', 'b 2']);
  await served.remove('a', [known(1)]);
  t.deepEqual(shown(), ['a 2', 'b 2']);
  await served.remove('a', [known(2)]);
  t.deepEqual(shown(), ['b 2']);
  t.deepEqual(served.counts, { shown: 1, awake: 0 });
  t.throws(() => served.totals(1), { code: 'NOT_FOUND' });
});

test('a layer sleeps until something needs it, and again once nothing does; the mount knows first', async (t) => {
  const { served, fuse, known, touched, heard, idle } = scene();
  await served.add('a', [known(1), known(2)]);
  t.deepEqual(served.initial().asleep, [
    { slot: 1, statistics: { bytes: 100, files: 3 } },
    { slot: 2, statistics: { bytes: 100, files: 3 } },
  ]);
  t.deepEqual(served.initial().layers, []);
  await served.bind(Promise.resolve(fuse));
  t.deepEqual(heard(), ['keep 1', 'keep 2']);
  const [slot] = await Promise.all([served.using(1, async (layer) => layer.slot), served.wake(1), served.wake(1)]);
  t.is(slot, 1);
  t.deepEqual(heard(), ['open 1', 'attach 1'], 'opened once for all who want it');
  await served.sleepIdle();
  touched.add(1);
  await served.sleepIdle();
  t.deepEqual(served.counts, { shown: 2, awake: 1 });
  await served.sleepIdle();
  t.deepEqual(heard(), ['sleep 1', 'close 1']);
  await served.wake(1);
  await idle();
  t.deepEqual(heard(), ['open 1', 'attach 1', 'sleep 1', 'close 1']);
  await served.remove('a', [known(1), known(2)]);
  t.deepEqual(heard(), ['detach 1', 'let go 1', 'detach 2', 'let go 2']);
  await t.throwsAsync(async () => served.wake(1), { code: 'NOT_FOUND' });
});

test('what is being used, read or fetched stays awake', async (t) => {
  const { served, fuse, known, current, heard, idle } = scene();
  await served.bind(Promise.resolve(fuse));
  await served.add('a', [known(1)]);
  const working = new Gate();
  const work = served.using(1, () => working.promise);
  await new Promise(setImmediate);
  await idle();
  t.is(served.counts.awake, 1);
  working.resolve();
  await work;
  current.get(1)!.busy = true;
  await idle();
  t.is(served.counts.awake, 1);
  current.get(1)!.busy = false;
  await idle();
  t.is(served.counts.awake, 0);
  t.is(heard().at(-1), 'close 1');
});

test('who wakes a layer that is falling asleep waits for that, and gets a new one', async (t) => {
  const { served, fuse, known, before, heard } = scene();
  await served.bind(Promise.resolve(fuse));
  await served.add('a', [known(1)]);
  await served.wake(1);
  await served.sleepIdle();
  heard();
  const closing = new Gate();
  before.set('close 1', () => closing.promise);
  const asleep = served.sleepIdle();
  const totals = () => served.totals(1).fetchedBytes;
  t.is(totals(), 10, 'its numbers do not go back meanwhile');
  const woken = served.using(1, async ({ slot }) => slot);
  const gone = served.remove('a', [known(1)]);
  setImmediate(closing.resolve);
  await asleep;
  await t.throwsAsync(woken, { code: 'NOT_FOUND' }, 'removed before its turn came');
  await gone;
  t.deepEqual(heard(), ['sleep 1', 'close 1', 'detach 1', 'let go 1']);

  await served.add('a', [known(1)]);
  await served.wake(1);
  await served.sleepIdle();
  const again = served.sleepIdle();
  await served.using(1, async () => {});
  await again;
  t.deepEqual(heard().slice(2), ['open 1', 'attach 1', 'sleep 1', 'close 1', 'open 1', 'attach 1']);
});

test('a layer that cannot be opened or shown is tried again by the next who wants it', async (t) => {
  const { served, fuse, known, before, heard } = scene();
  await served.bind(Promise.resolve(fuse));
  await served.add('a', [known(1)]);
  const broken = async () => {
    throw new LazylayerError('DATA_LOSS', 'broken');
  };
  for (const what of ['open 1', 'attach 1']) {
    before.set(what, broken);
    await t.throwsAsync(served.wake(1), { code: 'DATA_LOSS' });
    t.is(served.counts.awake, 0);
    before.delete(what);
  }
  t.deepEqual(heard(), ['keep 1', 'sleep 1', 'open 1', 'close 1']);
  await served.wake(1);
  t.deepEqual(heard(), ['open 1', 'attach 1']);
});

test('a layer that the mount still reads stays open, and tries again', async (t) => {
  const { served, fuse, known, before, errors, heard, idle } = scene();
  await served.bind(Promise.resolve(fuse));
  await served.add('a', [known(1)]);
  await served.wake(1);
  before.set('sleep 1', async () => {
    throw new LazylayerError('INTERNAL', 'no');
  });
  await idle();
  t.is(errors.length, 1);
  t.is(served.counts.awake, 1);
  before.set('sleep 1', async () => {
    throw new LazylayerError('UNAVAILABLE', 'nothing is served any more');
  });
  heard();
  await idle();
  t.deepEqual(heard(), ['close 1']);
});

test('an opening that comes for a layer that sleeps wakes it; one too many is given back', async (t) => {
  const { served, fuse, known, opened, heard } = scene();
  await served.bind(Promise.resolve(fuse));
  await served.add('a', [known(1)]);
  await served.add('b', [known(1)], [opened(1)]);
  t.deepEqual(heard(), ['keep 1', 'sleep 1', 'attach 1']);
  await served.add('c', [known(1)], [opened(1)]);
  t.deepEqual(heard(), ['close 1']);
  t.deepEqual(served.counts, { shown: 1, awake: 1 });
});

test('counts only grow, however often layers fall asleep, and after they are gone', async (t) => {
  const { served, fuse, known, idle } = scene();
  await served.bind(Promise.resolve(fuse));
  await served.add('a', [known(1), known(2)]);
  for (let round = 1; round <= 3; round++) {
    await served.wake(1);
    t.is(served.badChunks, round);
    t.deepEqual(served.totals(1), {
      fetchedBytes: 10 * round,
      requests: round,
      badChunks: round,
      presentBytes: 5,
      totalBytes: 9,
    });
    await idle();
    t.is(served.badChunks, round);
  }
  await served.remove('a', [known(1), known(2)]);
  t.is(served.badChunks, 3);
});
