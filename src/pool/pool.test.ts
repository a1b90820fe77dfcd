import { mkdir, readdir, readFile, rmdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import type { Digest } from '../digest/digest.js';
import { digestOf } from '../digest/digester.js';
import { LazylayerError } from '../errors.js';
import { temporaryDirectory } from '../testing/temporary.js';
import { until } from '../testing/until.js';
import { directoryName } from './entry.js';
import { RefPool, type PoolContent, type PoolManifest, type RefPoolOptions } from './pool.js';

const configs = new Map<Digest, Uint8Array>();

function content(text: string): Required<PoolContent> {
  const configBytes = Buffer.from(JSON.stringify(text));
  const manifestBytes = Buffer.from(
    JSON.stringify({ config: { digest: digestOf(configBytes), size: configBytes.length } }),
  );
  const digest = digestOf(manifestBytes);
  configs.set(digest, configBytes);
  return { descriptor: { mediaType: 'm', digest, size: manifestBytes.length }, manifestBytes, configBytes };
}

/** The config of a manifest that `content` made. */
function configOf({ manifestBytes }: PoolManifest): Uint8Array {
  return configs.get(digestOf(manifestBytes))!;
}

async function setup(t: ExecutionContext, options: Partial<RefPoolOptions> = {}) {
  const dir = await temporaryDirectory(t, 'pool');
  const world = {
    loads: [] as string[],
    configs: 0,
    now: 1_700_000_000_000,
    down: undefined as Error | undefined,
    evicted: [] as string[],
  };
  const open = async () => {
    const pool = await RefPool.open({
      dir,
      now: () => world.now,
      load: async (reference, { platform }) => {
        world.loads.push(reference);
        if (world.down !== undefined) throw world.down;
        return content(`${reference} ${platform ?? 'here'} ${world.loads.length}`);
      },
      loadConfig: async (_, manifest) => {
        world.configs++;
        if (world.down !== undefined) throw world.down;
        return configOf(manifest);
      },
      onEvict: (name) => world.evicted.push(name.reference),
      ...options,
    });
    t.teardown(() => pool[Symbol.asyncDispose]());
    return pool;
  };
  return { dir, world, open, pool: await open() };
}

const text = (bytes: Uint8Array) => JSON.parse(Buffer.from(bytes).toString()) as string;

test('the directory is named by the digest of the reference and holds what the registry sent', async (t) => {
  const { dir, pool } = await setup(t);
  const entry = await pool.get('docker.io/library/debian:12');
  const hex = digestOf('docker.io/library/debian:12').slice('sha256:'.length);
  t.is(entry.directory, join(dir, `metadata--sha256-${hex}`));
  t.deepEqual((await readdir(entry.directory)).sort(), ['config', 'manifest', 'reference']);
  t.deepEqual(await readFile(join(entry.directory, 'manifest')), Buffer.from(entry.manifestBytes));
  t.deepEqual(await readFile(join(entry.directory, 'config')), Buffer.from(entry.configBytes));
});

test('a restart answers tags and digests without the registry', async (t) => {
  const { world, pool, open } = await setup(t);
  await pool.get('a:1');
  await pool.get(`a@${digestOf('an index')}`);
  await pool[Symbol.asyncDispose]();
  world.down = new LazylayerError('UNAVAILABLE', 'no route');
  const again = await open();
  t.is(text((await again.get('a:1')).configBytes), 'a:1 here 1');
  t.is(text((await again.get(`a@${digestOf('an index')}`, { revalidate: true })).configBytes).slice(0, 9), 'a@sha256:');
  t.is(world.loads.length, 2);
});

test('revalidation asks again, falls back to what is known where the registry is away, and to nothing else', async (t) => {
  const { world, pool } = await setup(t);
  await pool.get('a:1');
  const moved = await pool.get('a:1', { revalidate: true });
  t.is(text(moved.configBytes), 'a:1 here 2');
  t.is(moved.stale, undefined);
  world.down = new LazylayerError('UNAVAILABLE', 'no route');
  const stale = await pool.get('a:1', { revalidate: true });
  t.is(text(stale.configBytes), 'a:1 here 2');
  t.is(stale.stale, world.down);
  await t.throwsAsync(pool.get('b:1', { revalidate: true }), { is: world.down });
  world.down = new LazylayerError('UNAUTHENTICATED', 'who are you');
  await t.throwsAsync(pool.get('a:1', { revalidate: true }), { is: world.down });
});

test('a load that revalidates is told what is known, after a restart too; nothing is known of what is damaged', async (t) => {
  const told: (string | undefined)[] = [];
  const { pool, open } = await setup(t, {
    load: async (reference, { known }) => {
      told.push(known && text(configOf(known)));
      return known ?? content(reference);
    },
    loadConfig: async (_, manifest, { known }) => {
      told.push(known && text(known));
      return configOf(manifest);
    },
  });
  const first = await pool.get('a:1');
  const again = await pool.get('a:1', { revalidate: true });
  await pool[Symbol.asyncDispose]();
  const next = await open();
  t.deepEqual((await next.get('a:1', { revalidate: true })).manifestBytes, again.manifestBytes);
  await writeFile(join(first.directory, 'config'), 'x');
  await next.get('a:1', { revalidate: true });
  const none = [undefined, undefined];
  t.deepEqual(told, [...none, 'a:1', 'a:1', 'a:1', 'a:1', ...none]);
});

test('concurrent gets are one load, also with one that revalidates; one that gives up disturbs no other', async (t) => {
  let loads = 0;
  let finish!: () => void;
  const gate = new Promise<void>((resolve) => (finish = resolve));
  const { pool } = await setup(t, {
    load: async (reference) => {
      loads++;
      await gate;
      return content(reference);
    },
  });
  const controller = new AbortController();
  const all = [pool.get('a:1'), pool.get('a:1', { revalidate: true }), pool.get('a:1')];
  const leaver = pool.get('a:1', { signal: controller.signal });
  controller.abort(new Error('enough'));
  await t.throwsAsync(leaver, { message: 'enough' });
  finish();
  for (const entry of await Promise.all(all)) t.is(text(entry.configBytes), 'a:1');
  t.is(loads, 1);
});

test('the config is asked for when somebody wants it, once', async (t) => {
  const { pool, world, open } = await setup(t);
  const { directory, configBytes } = await pool.manifest('a:1');
  t.is(configBytes, undefined);
  t.deepEqual((await readdir(directory)).sort(), ['manifest', 'reference']);
  t.is(world.configs, 0);
  await Promise.all([pool.get('a:1'), pool.get('a:1')]);
  await pool.get('a:1');
  t.deepEqual((await readdir(directory)).sort(), ['config', 'manifest', 'reference']);
  t.deepEqual([world.loads, world.configs], [['a:1'], 1]);
  t.is(text((await pool.manifest('a:1')).configBytes!), 'a:1 here 1');
  await pool[Symbol.asyncDispose]();
  world.down = new LazylayerError('UNAVAILABLE', 'no route');
  t.is(text((await (await open()).get('a:1')).configBytes), 'a:1 here 1');
});

test('a manifest is told as soon as it is known, which may be before its config is', async (t) => {
  let give = () => {};
  const held = new Promise<void>((resolve) => (give = resolve));
  const { pool, world } = await setup(t, { loadConfig: (_, manifest) => held.then(() => configOf(manifest)) });
  const told: string[] = [];
  const onManifest = (manifest: PoolManifest) => void told.push(text(configOf(manifest)));
  const getting = pool.get('a:1', { onManifest });
  await until(() => told.length > 0);
  give();
  await getting;
  await pool.get('a:1', { onManifest });
  world.down = new LazylayerError('UNAVAILABLE', 'no route');
  t.is((await pool.get('a:1', { onManifest, revalidate: true })).stale, world.down);
  t.deepEqual(told, Array(3).fill('a:1 here 1'));
  await Promise.all([pool.get('a:1', { onManifest }), pool.get('a:1', { onManifest })]);
  t.is(told.length, 5, 'each who asks, also where another had asked before');
});

test('what is said of a manifest that nobody can use is thrown, and it is not kept', async (t) => {
  const { pool } = await setup(t);
  const refusal = new LazylayerError('UNSUPPORTED', 'not for me');
  const onManifest = () => {
    throw refusal;
  };
  await t.throwsAsync(pool.get('a:1', { onManifest }), { is: refusal });
  t.false(pool.has('a:1'));
});

test('a tag that has moved leaves its old config behind, one that has not keeps it', async (t) => {
  let tag = 'old';
  const { pool } = await setup(t, { load: async () => content(tag) });
  await pool.get('a:1');
  t.is(text((await pool.manifest('a:1', { revalidate: true })).configBytes!), 'old');
  tag = 'new';
  t.is((await pool.manifest('a:1', { revalidate: true })).configBytes, undefined);
  t.is(text((await pool.get('a:1')).configBytes), 'new');
});

test('a manifest that comes late does not undo the config that came meanwhile', async (t) => {
  let gate = Promise.resolve();
  const { pool, world } = await setup(t, { load: async (reference) => gate.then(() => content(reference)) });
  await pool.manifest('a:1');
  let give = () => {};
  gate = new Promise<void>((resolve) => (give = resolve));
  const late = pool.manifest('a:1', { revalidate: true });
  await pool.get('a:1');
  give();
  await late;
  await pool.get('a:1');
  t.is(world.configs, 1);
});

test('a manifest is no answer where all was wanted and the registry is away', async (t) => {
  const { pool, world } = await setup(t);
  await pool.manifest('a:1');
  world.down = new LazylayerError('UNAVAILABLE', 'no route');
  await t.throwsAsync(pool.get('a:1', { revalidate: true }), { is: world.down });
  await t.throwsAsync(pool.get('a:1'), { is: world.down });
  t.is((await pool.manifest('a:1', { revalidate: true })).stale, world.down);
});

test('platforms are apart', async (t) => {
  const { pool, world } = await setup(t);
  const arm = await pool.get('a:1', { platform: 'linux/arm64' });
  const here = await pool.get('a:1');
  t.not(arm.directory, here.directory);
  t.is(text((await pool.get('a:1', { platform: 'linux/arm64' })).configBytes), 'a:1 linux/arm64 1');
  t.is(world.loads.length, 2);
  t.is(pool.use('a:1', 'x', 'linux/arm64'), 1);
  t.is(pool.release('a:1', 'x'), 0);
  t.is(pool.use('a:1', 'y', 'linux/arm64'), 2);
});

test('what is in use stays, however many; the last release lets it go', async (t) => {
  const { pool, world, dir } = await setup(t, { max: 2, holdMs: 100 });
  for (const n of [1, 2, 3, 4]) {
    await pool.get(`a:${n}`);
    pool.use(`a:${n}`);
    pool.use(`a:${n}`, 'other');
  }
  world.now += 1000;
  await pool.flushed();
  t.is([...pool.entries()].length, 4);
  for (const n of [1, 2, 3, 4]) t.is(pool.release(`a:${n}`), 1);
  await pool.flushed();
  t.is([...pool.entries()].length, 4);
  for (const n of [1, 2, 3, 4]) t.is(pool.release(`a:${n}`, 'other'), 0);
  await pool.flushed();
  t.deepEqual(world.evicted, ['a:1', 'a:2']);
  t.deepEqual(
    (await readdir(dir)).filter((n) => n !== 'uses').sort(),
    ['a:3', 'a:4'].map((reference) => directoryName({ reference })).sort(),
  );
});

/** A pool of two idle entries, a:1 the older, whose load of a:3 has just ended when `then` runs: a:3 is being written. */
async function aboutToEvict(t: ExecutionContext, then: (pool: RefPool) => void) {
  const evicted: string[] = [];
  const { pool, world } = await setup(t, {
    max: 2,
    holdMs: 0,
    onEvict: (name) => evicted.push(name.reference),
    load: async (reference) => {
      world.loads.push(reference);
      if (reference === 'a:3') setImmediate(() => then(pool));
      return content(reference);
    },
  });
  await pool.get('a:1');
  await pool.get('a:2');
  return { pool, world, evicted };
}

test('an entry that is asked for between the decision to evict it and its turn to go stays', async (t) => {
  let asked: Promise<unknown> | undefined;
  const { pool, world, evicted } = await aboutToEvict(t, (p) => void (asked = p.get('a:1')));
  await pool.get('a:3');
  await asked;
  await pool.flushed();
  t.deepEqual(evicted, ['a:2']);
  t.deepEqual([...pool.entries()].map((e) => e.reference).sort(), ['a:1', 'a:3']);
  t.deepEqual(world.loads, ['a:1', 'a:2', 'a:3']);
});

test('an entry that is used between the decision to evict it and its turn to go stays', async (t) => {
  let asked: Promise<unknown> | undefined;
  // The read of another entry stands between, so that there is such a moment.
  const { pool, evicted } = await aboutToEvict(t, (p) => void (asked = p.get('a:2')));
  await pool.get('a:3');
  pool.use('a:1');
  await asked;
  await pool.flushed();
  t.deepEqual(evicted, []);
  t.is([...pool.entries()].length, 3);
  pool.release('a:1');
  await pool.flushed();
  t.deepEqual(evicted, ['a:3']);
});

test('gets that cross with evictions leave as many entries as fit, each with its directory', async (t) => {
  const { pool, dir } = await setup(t, { max: 2, holdMs: 0 });
  for (let round = 0; round < 40; round++) {
    await Promise.all([1, 2, 3, 4, 5].map((n) => pool.get(`a:${(n * (round + 1)) % 7}`)));
    await pool.flushed();
    const entries = [...pool.entries()].map((e) => e.directory).sort();
    t.is(entries.length, 2);
    t.deepEqual((await readdir(dir)).map((name) => join(dir, name)).sort(), entries);
  }
});

test('use counts by key survive a restart, and pin', async (t) => {
  const { pool, world, open } = await setup(t, { max: 1, holdMs: 0 });
  await pool.get('a:1');
  pool.use('a:1', 'layer');
  pool.use('a:1', 'layer');
  pool.use('a:1', 'mount');
  await pool[Symbol.asyncDispose]();
  const again = await open();
  await again.get('a:2');
  await again.get('a:3');
  await again.flushed();
  t.deepEqual(world.evicted, ['a:2']);
  const status = [...again.entries()].find((e) => e.reference === 'a:1');
  t.deepEqual(
    [...status!.uses],
    [
      ['layer', 2],
      ['mount', 1],
    ],
  );
  t.deepEqual([again.release('a:1', 'layer'), again.release('a:1', 'mount'), again.release('a:1', 'mount')], [2, 1, 1]);
});

test('use counts that cannot be written are told of, and written once they can be', async (t) => {
  const { pool, dir } = await setup(t);
  await mkdir(join(dir, 'uses'));
  pool.use('a:1', 'layer');
  await t.throwsAsync(pool.flushed());
  await rmdir(join(dir, 'uses'));
  await pool.flushed();
  t.deepEqual(JSON.parse(await readFile(join(dir, 'uses'), 'utf8')), [{ reference: 'a:1', keys: { layer: 1 } }]);
});

test('a counts file that cannot be understood counts as none', async (t) => {
  const { pool, dir, open } = await setup(t);
  await pool[Symbol.asyncDispose]();
  for (const bad of ['', '{"a":', 'null', '[{"reference":1}]', '[{"reference":"a","keys":{"x":-1,"y":"2"}}]']) {
    await writeFile(join(dir, 'uses'), bad);
    const again = await open();
    t.is(again.use('a'), 1, bad);
    await again[Symbol.asyncDispose]();
  }
});

test('a clock that was set back makes no hold longer', async (t) => {
  const { pool, world, open } = await setup(t, { holdMs: 1000 });
  await pool.get('a:1');
  await pool[Symbol.asyncDispose]();
  world.now -= 86_400_000;
  t.is([...(await open()).entries()][0].heldUntil, world.now + 1000);
});

test('an entry that is held again takes no place of those that may go', async (t) => {
  const { pool, world } = await setup(t, { max: 2, holdMs: 100 });
  for (const reference of ['a:1', 'a:2', 'a:3']) await pool.get(reference);
  pool.use('a:3');
  world.now += 1000;
  await pool.flushed();
  await pool.get('a:2', { revalidate: true });
  pool.release('a:3');
  await pool.flushed();
  t.deepEqual(world.evicted, []);
});

test('what load gives must fit together', async (t) => {
  const { pool, dir } = await setup(t, { loadConfig: async (_, m) => configOf(m).map((byte) => byte ^ 1) });
  await t.throwsAsync(pool.get('a:1'), { message: /^config: expected sha256:.*, found sha256:/ });
  t.deepEqual(await readdir(dir), []);
});

for (const [what, label] of [
  ['no JSON', '{'],
  ['another name', JSON.stringify({ version: 1, reference: 'b:1', loadedAt: 1, descriptor: content('x').descriptor })],
  ['null', 'null'],
])
  test(`an entry whose label is ${what} is removed at start and loaded again`, async (t) => {
    const { pool, open, world } = await setup(t);
    const { directory } = await pool.get('a:1');
    await pool[Symbol.asyncDispose]();
    await writeFile(join(directory, 'reference'), label);
    const again = await open();
    t.is([...again.entries()].length, 0);
    await again.get('a:1');
    t.is(world.loads.length, 2);
  });

test('leftovers of an interrupted write are removed at start; other files are left alone', async (t) => {
  const { pool, dir, open } = await setup(t);
  const { directory } = await pool.get('a:1');
  await pool[Symbol.asyncDispose]();
  await writeFile(`${directory}.0123.tmp`, 'x');
  await writeFile(join(dir, 'notes'), 'mine');
  await open();
  t.deepEqual((await readdir(dir)).sort(), [directoryName({ reference: 'a:1' }), 'notes']);
});
