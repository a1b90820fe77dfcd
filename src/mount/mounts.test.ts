import { pbkdf2 } from 'node:crypto';
import { mkdir, readdir, readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import test, { type ExecutionContext } from 'ava';
import { digestOf } from '../digest/digester.js';
import { Gate } from '../testing/gate.js';
import { buildImage } from '../testing/image.js';
import { writeProgram } from '../testing/program.js';
import { temporaryDirectory } from '../testing/temporary.js';
import { until } from '../testing/until.js';
import { TreeBuilder } from '../toc/builder.js';
import { runCommand } from '../util/command.js';
import { listMounts } from '../util/mountinfo.js';
import { imageOf } from '../workspace/image.js';
import { Mounts, type MountsOptions } from './mounts.js';
import type { MountRequest } from './request.js';
import { releaseStale } from './stale.js';

/** Mounts whose layers are directories on disk: what becomes of overlays is as ever. */
async function scene(t: ExecutionContext) {
  const root = await temporaryDirectory(t, 'mounts');
  const target = join(root, 'target');
  const at = async () => (await listMounts()).filter((mount) => mount.target === target).map(({ source }) => source);
  t.teardown(async () => {
    for (const _ of await at()) await runCommand('umount', ['-l', target]);
  });
  for (const name of ['base/l/1', 'base/l/2', 'records', 'uppers', 'empty', 'target'])
    await mkdir(join(root, name), { recursive: true });
  const { manifest, config } = await buildImage({ layers: [[{ path: 'a' }], [{ path: 'b' }]] });
  const image = imageOf('docker.io/library/r:1', manifest.bytes, config.bytes, manifest.descriptor);
  const tree = new TreeBuilder().build({ source: digestOf('toc'), contentEnd: 0 });
  const layers = [1, 2].map((slot) => ({ slot, tree, lazy: { lazy: true }, size: 1, digest: `sha256:${slot}` }));
  let shown = 0;
  /** Awaited by the steps of these names. */
  const slow = { openLayers: Promise.resolve(), remove: Promise.resolve() };
  let removed = 0;
  const used = new Set<string>();
  const pulling: { failure?: Error } = {};
  const open = (options: Pick<MountsOptions, 'watchMs'> = {}) => {
    shown = 0; // another process
    return new Mounts({
      ...options,
      workspace: {
        image: async () => {
          if (pulling.failure !== undefined) throw pulling.failure;
          return image;
        },
        openLayers: async () => {
          await slow.openLayers;
          return layers;
        },
        known: (_source: unknown, layer: unknown) => layer,
        pool: {
          use: (_reference: string, key: string) => void used.add(key),
          release: (_reference: string, key: string) => void used.delete(key),
          entries: () => [{ reference: image.reference, uses: new Map([...used].map((key) => [key, 1])) }],
        },
        layers: { fetchAhead: async () => {} },
      } as unknown as MountsOptions['workspace'],
      served: {
        add: async () => void shown++,
        remove: async () => {
          removed++;
          await slow.remove;
          shown--;
        },
        ahead: () => ({}),
        lower: async () => undefined,
        totals: () => ({ fetchedBytes: 0, requests: 0, badChunks: 0, presentBytes: 0, totalBytes: 0 }),
      } as unknown as MountsOptions['served'],
      base: join(root, 'base'),
      prefetch: false,
      records: join(root, 'records'),
      uppers: join(root, 'uppers'),
      empty: join(root, 'empty'),
      onError: () => {},
      onEmpty: () => {},
    });
  };
  const request: MountRequest = { image: 'r', target, backgroundFetch: false, allowNoVerification: false };
  const mount = (mounts: Mounts, signal = new AbortController().signal, more: Partial<MountRequest> = {}) =>
    mounts.mount({ ...request, ...more }, () => {}, signal);
  const nothingLeft = async (what: string) => {
    t.deepEqual(await at(), [], what);
    t.deepEqual(await readdir(join(root, 'records')), [], what);
    t.is(shown, 0, what);
    t.deepEqual([...used], [], what);
  };
  return {
    root,
    target,
    at,
    open,
    mount,
    nothingLeft,
    slow,
    pulling,
    used,
    shown: () => shown,
    removed: () => removed,
  };
}

test.serial('whoever leaves while the overlay is being made leaves none, at any moment', async (t) => {
  const { target, open, mount, nothingLeft } = await scene(t);
  await using mounts = open();
  for (let ms = 0; ms < 20; ms += 0.5) {
    const leaving = new AbortController();
    const outcome = mount(mounts, leaving.signal).then(
      () => 'mounted',
      () => 'not mounted',
    );
    await sleep(ms);
    leaving.abort(new Error('I leave'));
    if ((await outcome) === 'mounted') await mounts.umount(target);
    await nothingLeft(`after ${ms} ms`);
  }
});

test.serial('a daemon that ends while an overlay is being made leaves none, at any moment', async (t) => {
  const { open, mount, nothingLeft } = await scene(t);
  for (let ms = 0; ms < 20; ms += 0.5) {
    const mounts = open();
    const outcome = mount(mounts).catch(() => {});
    await sleep(ms);
    await mounts[Symbol.asyncDispose]();
    await nothingLeft(`after ${ms} ms`);
    await outcome;
  }
});

test.serial('what was mounted before a takeover cannot be mounted over, nor is it unmounted half made', async (t) => {
  const { target, at, open, mount, nothingLeft } = await scene(t);
  await mount(open());
  await using second = open();
  await second.restore();
  await t.throwsAsync(mount(second), { code: 'ALREADY_EXISTS' });
  t.is((await at()).length, 1);
  await second.umount(target);
  const making = mount(second);
  while (second.list().length === 0) await sleep(0);
  await t.throwsAsync(second.umount(target), { code: 'BUSY', message: /is being mounted/ });
  await making;
  await Promise.all([second.umount(target), second.umount(target)]);
  await nothingLeft('unmounted twice at once');
});

test.serial('only what is ours is unmounted, and only where nothing covers it', async (t) => {
  const { target, at, open, mount, shown } = await scene(t);
  const tmpfs = (source: string) => runCommand('mount', ['-t', 'tmpfs', source, target]);
  await tmpfs('below');
  const mounts = open();
  await mount(mounts);
  await tmpfs('above');
  await t.throwsAsync(mounts.umount(target), { code: 'BUSY', message: /covered by another mount \(above\)/ });
  t.deepEqual(await at(), ['below', 'lazylayer', 'above']);
  t.is(shown(), 1);
  await runCommand('umount', [target]);
  await Promise.all([mounts.umount(target), mounts.umount(target).catch(() => {})]);
  t.deepEqual(await at(), ['below']);

  await mount(mounts);
  await runCommand('umount', [target]); // by somebody else
  await mounts[Symbol.asyncDispose]();
  t.deepEqual(await at(), ['below']);
});

test.serial(
  'a daemon that ends leaves what another one mounted, and what lay below, whoever unmounts meanwhile',
  async (t) => {
    const { target, at, open, mount } = await scene(t);
    const [first, second] = [open(), open()];
    await mount(first);
    await mount(second);
    await second[Symbol.asyncDispose]();
    t.is((await at()).length, 1);
    await first[Symbol.asyncDispose]();

    await runCommand('mount', ['-t', 'tmpfs', 'below', target]);
    const third = open();
    await mount(third);
    await Promise.all([third.umount(target), third[Symbol.asyncDispose]()]);
    t.deepEqual(await at(), ['below']);
  },
);

test.serial('whoever reads on after a lazy umount keeps the layers, whatever the table says meanwhile', async (t) => {
  const { target, open, mount, nothingLeft, removed } = await scene(t);
  const mounts = open({ watchMs: 1 });
  for (let round = 0; round < 20; round++) {
    await mount(mounts);
    await mounts.umount(target, { lazy: true });
  }
  t.is(removed(), 0);
  await mounts[Symbol.asyncDispose]();
  t.is(removed(), 20);
  await nothingLeft('at the end');
});

test.serial('a mount that fails gives up its own claim on the target, not that of the next one', async (t) => {
  const { root, at, open, mount, slow } = await scene(t);
  await using mounts = open();
  const [removing, opening] = [new Gate(), new Gate()];
  slow.remove = removing.promise;
  await rename(join(root, 'base'), join(root, 'away'));
  const first = t.throwsAsync(mount(mounts));
  while (mounts.list().length === 0) await sleep(0);
  while (mounts.list().length > 0) await sleep(0);
  await rename(join(root, 'away'), join(root, 'base'));
  slow.openLayers = opening.promise;
  const second = mount(mounts);
  await sleep(30);
  removing.resolve();
  await first;
  await t.throwsAsync(mount(mounts), { code: 'ALREADY_EXISTS' });
  opening.resolve();
  await second;
  t.is((await at()).length, 1);
});

test.serial('the end waits for no program that looks at a directory', async (t) => {
  const { root, open, mount, nothingLeft } = await scene(t);
  const { PATH } = process.env;
  writeProgram(join(root, 'sh'), 'exec /bin/sleep 5');
  process.env.PATH = root;
  try {
    const mounts = open();
    const mounting = t.throwsAsync(mount(mounts), { message: /daemon is ending/ });
    const begun = performance.now();
    await mounts[Symbol.asyncDispose]();
    t.true(performance.now() - begun < 3000);
    await mounting;
  } finally {
    process.env.PATH = PATH;
  }
  await nothingLeft('at the end');
});

test.serial('a mount that is made while the mount table is looked at is not taken for one that has gone', async (t) => {
  const { target, at, open, mount, nothingLeft } = await scene(t);
  await using mounts = open({ watchMs: 1 });
  // The table is read by a thread of the pool, which is busy.
  let busy = true;
  t.teardown(() => (busy = false));
  const loads = Array.from({ length: 4 }, async () => {
    while (busy) await promisify(pbkdf2)('x', 'y', 10_000, 32, 'sha256');
  });
  for (let round = 0; round < 20; round++) {
    await mount(mounts);
    await sleep(30);
    t.is(mounts.list().length, 1);
    t.is((await at()).length, 1);
    await mounts.umount(target);
  }
  busy = false;
  await Promise.all(loads);
  await nothingLeft('at the end');
});

test.serial('an image that is not to be had does not keep the next one from its mount point', async (t) => {
  const { target, open, mount, nothingLeft, pulling } = await scene(t);
  await using mounts = open();
  pulling.failure = new Error('the registry is away');
  await t.throwsAsync(mount(mounts), { is: pulling.failure });
  pulling.failure = undefined;
  await mount(mounts);
  await mounts.umount(target);
  await nothingLeft('unmounted');
});

test.serial('a directory for changes that was given stays with what is in it; one of our own goes', async (t) => {
  const { root, target, open, mount, nothingLeft } = await scene(t);
  await using mounts = open();
  const upper = join(root, 'mine');
  for (const more of [{ upper, rw: true }, { rw: true }]) {
    await mount(mounts, undefined, more);
    await writeFile(join(target, 'kept'), 'bytes');
    await mounts.umount(target);
    await nothingLeft('unmounted');
  }
  t.is(await readFile(join(upper, 'upper/kept'), 'utf8'), 'bytes');
  t.deepEqual(await readdir(join(root, 'uppers')), []);
});

test.serial('what was unmounted lazily is served until the daemon ends', async (t) => {
  const { target, at, open, mount, shown } = await scene(t);
  const mounts = open();
  await mount(mounts);
  await mounts.umount(target, { lazy: true });
  t.deepEqual(await at(), []);
  t.is(shown(), 1);
  await mounts[Symbol.asyncDispose]();
  t.is(shown(), 0);
});

test.serial('the overlay of another daemon below ours stays, whoever fails or comes twice', async (t) => {
  const { root, target, at, open, mount, nothingLeft } = await scene(t);
  const lower = ['base/l/1', 'base/l/2'].map((name) => join(root, name)).join(':');
  await runCommand('mount', ['-t', 'overlay', '-o', `ro,lowerdir=${lower}`, 'lazylayer', target]);
  await using mounts = open();
  await rename(join(root, 'base'), join(root, 'away'));
  await t.throwsAsync(mount(mounts), { message: /^sh ended with/ });
  await rename(join(root, 'away'), join(root, 'base'));
  t.is((await at()).length, 1);
  await mount(mounts);
  await Promise.all([mounts.umount(target), mounts.umount(target)]);
  t.is((await at()).length, 1);
  await runCommand('umount', [target]);
  await nothingLeft('at the end');
});

test.serial('who waits for a mount to go hears of it, however it goes, or leaves', async (t) => {
  const { target, open, mount } = await scene(t);
  await using mounts = open({ watchMs: 5 });
  const { signal } = new AbortController();
  await mounts.gone(target, signal);
  for (const go of [() => mounts.umount(target), () => runCommand('umount', [target])]) {
    await mount(mounts);
    const waiting = mounts.gone(target, signal);
    const leaving = new AbortController();
    setTimeout(() => leaving.abort(new Error('I leave')), 1);
    await t.throwsAsync(mounts.gone(target, leaving.signal), { message: 'I leave' });
    await go();
    let gone = false;
    void waiting.then(() => (gone = true));
    await until(() => gone);
  }
});

test.serial('uses of mounts that a daemon left without records are taken back, and no others', async (t) => {
  const { root, open, used } = await scene(t);
  await using mounts = open();
  for (const key of ['mount gone', 'mount there', 'sha256:1', 'layer 2']) used.add(key);
  await writeFile(join(root, 'records', 'there'), '{}');
  await mounts.releaseLeftovers();
  t.deepEqual([...used], ['mount there', 'sha256:1', 'layer 2']);
  used.clear();
});

test.serial('what a dead daemon left is taken away; what somebody else has mounted there since stays', async (t) => {
  const { root, target, at, open, mount } = await scene(t);
  const [fuse, records, whole] = ['fuse', 'records', 'whole'].map((name) => join(root, name));
  await mount(open()); // nobody unmounts it
  t.deepEqual(await releaseStale({ fuse, mounts: records, whole }), [target]);
  t.deepEqual([await at(), await readdir(records)], [[], []]);
  await runCommand('mount', ['-t', 'tmpfs', 'theirs', target]);
  await writeFile(join(records, 'x'), JSON.stringify({ request: { target } }));
  t.deepEqual(await releaseStale({ fuse, mounts: records, whole }), []);
  t.deepEqual([await at(), await readdir(records)], [['theirs'], []]);
});
