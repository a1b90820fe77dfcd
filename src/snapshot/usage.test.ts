import { link, mkdir, open, rmdir, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { temporaryDirectory } from '../testing/temporary.js';
import { runCommand } from '../util/command.js';
import { diskUsage } from './usage.js';

test('usage is what du counts, with sparse files, hardlinks and names of any bytes', async (t) => {
  const directory = await temporaryDirectory(t, 'usage');
  for (let i = 0; i < 150; i++) {
    const sub = join(directory, `d${i % 7}`, `e${i % 5}`);
    await mkdir(sub, { recursive: true });
    await writeFile(join(sub, `f${i}`), Buffer.alloc(i * 97, 1));
    if (i % 3 === 0) await link(join(sub, `f${i}`), join(directory, `link${i}`));
  }
  const sparse = await open(join(directory, 'sparse'), 'w');
  await sparse.write('x', 10_000_000);
  await sparse.close();
  await symlink('nowhere', join(directory, 'dangling'));
  await writeFile(Buffer.concat([Buffer.from(`${directory}/`), Buffer.of(0xff, 0x80)]), 'any bytes');
  const count = async (...how: string[]) => parseInt(await runCommand('du', ['-s', ...how, directory]), 10);
  t.deepEqual(await diskUsage(directory), { size: await count('--block-size=1'), inodes: await count('--inodes') });
});

test('files that go while they are counted do no harm', async (t) => {
  const directory = await temporaryDirectory(t, 'usage');
  const busy = join(directory, 'busy');
  await mkdir(busy);
  for (let i = 0; i < 500; i++) await writeFile(join(busy, `stays${i}`), '');
  const counting = Array.from({ length: 20 }, async () => (await diskUsage(directory)).inodes);
  for (let i = 0; i < 300; i++) {
    await mkdir(join(busy, `goes${i}`));
    await rmdir(join(busy, `goes${i}`));
  }
  for (const inodes of await Promise.all(counting)) t.true(inodes >= 502, `${inodes}`);
  await t.throwsAsync(diskUsage(join(directory, 'none')), { code: 'ENOENT' });
});
