import { chmod, mkdir, readdir, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { temporaryDirectory } from '../testing/temporary.js';
import { runCommand } from '../util/command.js';
import { Removal } from './removal.js';

test('what is thrown away is out of sight at once, and gone in the end', async (t) => {
  const directory = await temporaryDirectory(t, 'removal');
  const trash = join(directory, 'trash');
  await mkdir(join(trash, 'left/by/an/earlier/life'), { recursive: true });
  const failures: unknown[] = [];
  const removal = await Removal.open(trash, (error) => failures.push(error));
  for (let i = 0; i < 250; i++) {
    await mkdir(join(directory, `${i}`, 'work', 'work'), { recursive: true });
    await writeFile(join(directory, `${i}`, '-rf'), '');
    await chmod(join(directory, `${i}`, 'work', 'work'), 0);
    await removal.throwAway(join(directory, `${i}`), `${i}`);
    await t.throwsAsync(stat(join(directory, `${i}`)), { code: 'ENOENT' });
  }
  await removal.throwAway(join(directory, 'never was'), 'never was');
  await removal.idle();
  t.deepEqual(await readdir(trash), []);
  t.deepEqual(failures, []);
});

test('a mount that was left in a directory keeps its files; what is stuck is told and stops no other', async (t) => {
  const directory = await temporaryDirectory(t, 'removal');
  const trash = join(directory, 'trash');
  await mkdir(join(directory, 'precious'));
  await runCommand('mount', ['-t', 'tmpfs', 'tmpfs', join(directory, 'precious')]);
  t.teardown(async () => void (await runCommand('umount', ['-l', join(directory, 'precious')])));
  await writeFile(join(directory, 'precious', 'file'), '');
  const failures: unknown[] = [];
  const removal = await Removal.open(trash, (error) => failures.push(error));
  const stuck = join(trash, '1', 'fs');
  await mkdir(stuck, { recursive: true });
  await runCommand('mount', ['--bind', join(directory, 'precious'), stuck]);
  let mounted = true;
  t.teardown(async () => void (mounted && (await runCommand('umount', ['-l', stuck]))));
  // More than one run of rm takes.
  for (let i = 2; i < 450; i++) {
    await mkdir(join(directory, `${i}`));
    await removal.throwAway(join(directory, `${i}`), `${i}`);
  }
  await removal.idle();
  t.deepEqual(await readdir(trash), ['1']);
  t.true(failures.length > 0);
  t.deepEqual(await readdir(join(directory, 'precious')), ['file']);
  await runCommand('umount', [stuck]);
  mounted = false;
  await removal.idle();
  t.deepEqual(await readdir(trash), []);
});
