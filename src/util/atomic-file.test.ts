import { readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { temporaryDirectory } from '../testing/temporary.js';
import { replaceFile, writeFileAtomic } from './atomic-file.js';

test('replaces a file, sets its mode, and leaves nothing beside it, also when it fails', async (t) => {
  const dir = await temporaryDirectory(t, 'atomic');
  const path = join(dir, 'file');
  await writeFile(path, 'old');
  await writeFileAtomic(path, 'new', { mode: 0o600 });
  t.is(await readFile(path, 'utf8'), 'new');
  t.is((await stat(path)).mode & 0o777, 0o600);
  await t.throwsAsync(writeFileAtomic(join(dir, 'missing', 'file'), 'x'), { code: 'ENOENT' });
  await t.throwsAsync(writeFileAtomic(dir, 'x'));
  t.deepEqual(await readdir(dir), ['file']);
});

test('replaces a file at once, and tells when the disk has it', async (t) => {
  const dir = await temporaryDirectory(t, 'atomic');
  const path = join(dir, 'file');
  await writeFile(path, 'something longer than the new bytes');
  const { durable } = await replaceFile(path, [Buffer.from('ne'), Buffer.from('w')]);
  t.is(await readFile(path, 'utf8'), 'new');
  await durable;
  await t.throwsAsync(replaceFile(join(dir, 'missing', 'file'), []), { code: 'ENOENT' });
  await t.throwsAsync(replaceFile(dir, []));
  t.deepEqual(await readdir(dir), ['file']);
});
