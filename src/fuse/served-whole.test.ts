import test from 'ava';
import type { Digest } from '../digest/digest.js';
import type { WholeMounts } from '../erofs/whole-mounts.js';
import type { ReferenceLayer } from '../fs/served-tree.js';
import type { KnownLayer } from '../layer/known.js';
import type { Layer } from '../layer/layer.js';
import { Serial } from '../util/serial.js';
import type { ReadRing } from './read-ring.js';
import { ServedLayers } from './served.js';
import type { FuseServer } from './server.js';

/** Mounts that are none, in a line as the real ones are, which can be held up and can fail. */
class FakeWhole {
  readonly mounted = new Set<number>();
  readonly failing = new Set<number>();
  readonly line = new Serial();

  path(slot: number): string | undefined {
    return this.mounted.has(slot) ? `/whole/${slot}/l` : undefined;
  }

  mount({ slot }: { slot: number }): Promise<string | undefined> {
    return this.line.run(() => {
      this.mounted.add(slot);
      return this.path(slot);
    });
  }

  unmount(slot: number, options: Parameters<WholeMounts['unmount']>[1] = {}): Promise<void> {
    return this.line.run(async () => {
      if (options.wanted?.() === true || !this.mounted.delete(slot)) return;
      await options.hidden?.();
      if (this.failing.has(slot)) throw new Error(`${slot} cannot be unmounted`);
    });
  }
}

async function scene() {
  const whole = new FakeWhole();
  const present = new Set<number>();
  const references = new Map<string, readonly ReferenceLayer[]>();
  const ended: number[] = [];
  const known = (slot: number): KnownLayer => ({
    digest: `sha256:${slot}` as Digest,
    slot,
    statistics: { bytes: 100, files: 3 },
    treeBytes: 50,
    looksWhole: async () => present.has(slot),
    open: async () =>
      ({
        slot,
        view: { slot },
        busy: false,
        stats: {},
        get isPresent() {
          return present.has(slot);
        },
        background: async () => void present.add(slot),
        [Symbol.asyncDispose]: async () => void ended.push(slot),
      }) as unknown as Layer,
    keep: () => () => {},
  });
  const nothing = async () => {};
  const fuse = {
    ...{ attach: nothing, sleep: nothing, detach: nothing, trace: nothing },
    setReference: async (reference: string, layers: readonly ReferenceLayer[] | undefined) => {
      if (layers === undefined) references.delete(reference);
      else references.set(reference, layers);
    },
  } as unknown as FuseServer;
  const errors: string[] = [];
  const served = new ServedLayers({
    whole: whole as unknown as WholeMounts,
    onError: (what, error) => errors.push(`${what}: ${(error as Error).message}`),
  });
  await served.bind(Promise.resolve(fuse));
  /** Where the layers of a reference are, to whoever follows its links. */
  const paths = (reference: string) => references.get(reference)?.map(({ path }) => path);
  return { served, whole, present, known, paths, errors, ended };
}

test('a layer is read by the kernel once all of it is there, and links then lead there', async (t) => {
  const { served, present, known, paths, whole } = await scene();
  await served.add('a', [known(1), known(2)]);
  t.is(await served.lower(1), undefined);
  t.deepEqual(paths('a'), [undefined, undefined]);
  present.add(1);
  t.is(await served.lower(1), '/whole/1/l');
  t.deepEqual(paths('a'), ['/whole/1/l', undefined]);
  await served.ahead(2).background();
  t.deepEqual(paths('a'), ['/whole/1/l', '/whole/2/l'], 'also when nobody asks');
  t.is(await served.lower(7), undefined, 'of a layer that is not shown, nothing');
  await served.remove('a', [known(1), known(2)]);
  t.deepEqual([...whole.mounted], []);
});

test('while reads are traced all is read through FUSE, by links too', async (t) => {
  const { served, present, known, paths } = await scene();
  present.add(1);
  await served.add('a', [known(1)]);
  await served.lower(1);
  await served.trace({ buffer: undefined } as unknown as ReadRing);
  t.is(await served.lower(1), undefined);
  t.deepEqual(paths('a'), [undefined]);
  await served.trace(undefined);
  t.is(await served.lower(1), '/whole/1/l');
  t.deepEqual(paths('a'), ['/whole/1/l']);
});

test('content that goes is not linked to any more when its mount goes', async (t) => {
  const { served, present, known, paths, whole } = await scene();
  present.add(1);
  await served.add('a', [known(1)]);
  await served.lower(1);
  present.clear();
  whole.failing.add(1);
  await served.forgotten(1);
  t.deepEqual(paths('a'), [undefined]);
  t.is(await served.lower(1), undefined);
});

test('a layer that is let go and comes back before its mount went keeps it', async (t) => {
  const { served, present, known, paths, whole } = await scene();
  present.add(1);
  await served.add('a', [known(1)]);
  const path = await served.lower(1);
  let free!: () => void;
  void whole.line.run(() => new Promise<void>((resolve) => (free = resolve)));
  const removing = served.remove('a', [known(1)]);
  await served.add('b', [known(1)]);
  t.deepEqual(paths('b'), [path]);
  free();
  await removing;
  t.is(whole.path(1), path);
  t.is(await served.lower(1), path);
});

test('a layer that is let go while it is being mounted is not left mounted', async (t) => {
  const { served, present, known, whole } = await scene();
  present.add(1);
  await served.add('a', [known(1)]);
  let free!: () => void;
  void whole.line.run(() => new Promise<void>((resolve) => (free = resolve)));
  const mounting = served.lower(1);
  await new Promise(setImmediate);
  const removing = served.remove('a', [known(1)]);
  free();
  await removing;
  t.is(await mounting, undefined);
  t.deepEqual([...whole.mounted], []);
});

test('a mount that cannot be taken away is told of, and keeps nothing else back', async (t) => {
  const { served, present, known, whole, errors, ended } = await scene();
  for (const slot of [1, 2]) present.add(slot);
  await served.add('a', [known(1), known(2)]);
  for (const slot of [1, 2]) await served.lower(slot);
  whole.failing.add(1);
  await served.remove('a', [known(1), known(2)]);
  t.deepEqual(ended, [1, 2]);
  t.deepEqual(errors, ['take away the mount of the layer in slot 1: 1 cannot be unmounted']);
  t.deepEqual([...whole.mounted], []);
});
