import { open, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { temporaryDirectory } from '../testing/temporary.js';
import { until } from '../testing/until.js';
import { EntryInvalidations } from './entry-invalidations.js';

/** A file in place of the device: it shows what was written, in order. */
async function scene(t: ExecutionContext, flags = 'w') {
  const directory = await temporaryDirectory(t, 'invalidations');
  const path = join(directory, 'device');
  await (await open(path, 'w')).close();
  const file = await open(path, flags);
  t.teardown(() => file.close());
  const locked = new Set<number>();
  const errors: unknown[] = [];
  const invalidations = new EntryInvalidations({
    fd: file.fd,
    locked: (parent) => locked.has(parent),
    onError: (error) => errors.push(error.code),
  });
  const add = (parent: number, text: string) => invalidations.add(parent, Buffer.from(text));
  const written = async () => readFile(path, 'utf8');
  return { invalidations, add, locked, errors, written };
}

test('names are told of one by one, those of a locked directory once it is free', async (t) => {
  const { invalidations, add, locked, written } = await scene(t);
  locked.add(1);
  add(1, 'a');
  add(2, 'b');
  add(1, 'c');
  add(3, 'd');
  while ((await written()) !== 'bd') await new Promise(setImmediate);
  invalidations.next();
  locked.clear();
  invalidations.next();
  while ((await written()) !== 'bdac') await new Promise(setImmediate);
  await invalidations.close();
  t.is(await written(), 'bdac');
});

test('the end waits for what is being written, and leaves the rest', async (t) => {
  const { invalidations, add, written } = await scene(t);
  add(1, 'a');
  add(1, 'b');
  await invalidations.close();
  t.is(await written(), 'a');
});

test('a device that fails is told of, and the next name is tried', async (t) => {
  const { invalidations, add, errors } = await scene(t, 'r');
  add(1, 'a');
  add(1, 'b');
  await until(() => errors.length >= 2);
  t.deepEqual(errors, ['EBADF', 'EBADF']);
  await invalidations.close();
});
