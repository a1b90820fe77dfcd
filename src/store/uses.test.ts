import { execFile } from 'node:child_process';
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import test, { type ExecutionContext } from 'ava';
import { publishImage } from '../testing/published-image.js';
import { base64, openStore, storeLayers } from '../testing/store-fixture.js';

const run = promisify(execFile);

/** The directory of uses as a disk of its own, which can be made to take nothing. */
async function diskFor(t: ExecutionContext, root: string) {
  const path = join(root, 'store');
  await mkdir(path);
  await run('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', path]);
  t.teardown(() => run('umount', ['-l', path]));
  return { path, allow: (flag: 'ro' | 'rw') => run('mount', ['-o', `remount,${flag}`, path]) };
}

test('what the disk does not take is not counted, and counted when it is asked for again', async (t) => {
  const { root, reference, digests } = await publishImage(t, storeLayers.slice(0, 1));
  const disk = await diskFor(t, root);
  const { store, workspace, close } = await openStore(root);
  t.teardown(close);
  const layer = [base64(reference()), digests[0]];
  const count = () => [store.layersInUse, workspace.pool.uses(reference(), `store:${digests[0]}`)];
  const saved = async () => {
    const [name] = await readdir(disk.path);
    return (JSON.parse(await readFile(join(disk.path, name), 'utf8')) as { count: number; requests: number[] }) ?? {};
  };

  await disk.allow('ro');
  await t.throwsAsync(store.use(layer, { id: 2, again: false }), { code: 'EROFS' });
  t.deepEqual(count(), [0, 0]);
  await disk.allow('rw');
  await store.use(layer, { id: 2, again: true });
  t.deepEqual(count(), [1, 1]);

  await store.use(layer, { id: 4, again: false });
  await disk.allow('ro');
  await t.throwsAsync(store.use(layer, { id: 6, again: false }), { code: 'EROFS' });
  await t.throwsAsync(store.release(layer, { id: 8, again: false }), { code: 'EROFS' });
  t.deepEqual(count(), [1, 2]);
  t.like(await saved(), { count: 2, requests: [2, 4] });
  await disk.allow('rw');
  await store.release(layer, { id: 8, again: true });
  t.deepEqual(count(), [1, 1]);
  t.like(await saved(), { count: 1, requests: [2, 4, 8] });

  await disk.allow('ro');
  await t.throwsAsync(store.release(layer, { id: 10, again: false }), { code: 'EROFS' });
  t.deepEqual(count(), [1, 1], 'the last one too');
  await disk.allow('rw');
  await store.release(layer, { id: 10, again: true });
  t.deepEqual(count(), [0, 0]);
  t.deepEqual(await readdir(disk.path), []);
});

test('a pool that cannot be written: nothing is counted, here or on disk', async (t) => {
  const { root, reference, digests } = await publishImage(t, storeLayers.slice(0, 1));
  const { store, workspace, close } = await openStore(root);
  t.teardown(close);
  const layer = [base64(reference()), digests[0]];
  const { pool } = workspace;
  const count = () => [store.layersInUse, pool.uses(reference(), `store:${digests[0]}`)];
  const flushed = pool.flushed.bind(pool);
  const fail = () => (pool.flushed = () => Promise.reject(new Error('full')));

  fail();
  await t.throwsAsync(store.use(layer, { id: 2, again: false }), { message: 'full' });
  t.deepEqual(count(), [0, 0]);
  t.deepEqual(await readdir(join(root, 'store')), []);
  pool.flushed = flushed;
  await store.use(layer, { id: 2, again: true });
  t.deepEqual(count(), [1, 1]);
  fail();
  await t.throwsAsync(store.release(layer, { id: 4, again: false }), { message: 'full' });
  t.deepEqual(count(), [1, 1]);
  t.is((await readdir(join(root, 'store'))).length, 1);
  pool.flushed = flushed;
  await store.release(layer, { id: 4, again: true });
  t.deepEqual(count(), [0, 0]);
});

test('a use that cannot be renewed stays; only what is none is removed', async (t) => {
  const { root, reference, digests } = await publishImage(t, storeLayers.slice(0, 1));
  const disk = await diskFor(t, root);
  const first = await openStore(root);
  await first.store.use([base64(reference()), digests[0]], { id: 2, again: false });
  await first.close();
  const [name] = await readdir(disk.path);
  const before = await readFile(join(disk.path, name), 'utf8');
  await disk.allow('ro');
  // Of another connection, so that the requests in the file mean nothing any more.
  const second = await openStore(root);
  t.is(second.errors.length, 1);
  t.is(second.store.layersInUse, 1);
  t.deepEqual(second.shown(), [reference()]);
  await second.close();
  t.is(await readFile(join(disk.path, name), 'utf8'), before);

  await disk.allow('rw');
  const other = `${name.slice(0, -1)}${name.endsWith('0') ? '1' : '0'}`;
  await writeFile(join(disk.path, other), before);
  await writeFile(join(disk.path, 'broken'), before.slice(0, -1));
  await writeFile(join(disk.path, 'null'), 'null');
  await mkdir(join(disk.path, 'directory', 'in it'), { recursive: true });
  const third = await openStore(root);
  t.teardown(third.close);
  t.deepEqual(await readdir(disk.path), [name]);
  t.deepEqual(third.errors, []);
  t.is(third.store.layersInUse, 1);
});
