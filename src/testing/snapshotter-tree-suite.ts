import {
  chmod,
  chown,
  link,
  lstat,
  mkdir,
  readdir,
  readFile,
  readlink,
  rename,
  rm,
  stat,
  symlink,
  unlink,
  writeFile,
} from 'node:fs/promises';
import { join } from 'node:path';
import type { ExecutionContext } from 'ava';
import type { Snapshotter } from '../snapshot/snapshotter.js';
import { runCommand } from '../util/command.js';
import { mountSnapshot, upperDirectory } from './snapshot-mounts.js';
import { committed, type Check, type Subject } from './snapshotter-suite.js';

type Change = (directory: string) => Promise<void>;

/** What the trees behind snapshots must do: overlayfs's semantics, through real mounts. */
export function treeSuite(check: Check): void {
  check('each layer changes what those below left', async (t, subject) => {
    const top = await layers(t, subject, [
      async (d) => {
        await writeFile(join(d, 'foo'), 'foo\n', { mode: 0o644 });
        await mkdir(join(d, 'a/b/c'), { recursive: true });
        await writeFile(join(d, 'gone'), 'gone\n');
        await symlink('foo', join(d, 'link'));
      },
      async (d) => {
        await writeFile(join(d, 'bar'), 'bar\n');
        await writeFile(join(d, 'foo'), 'changed\n');
        await rm(join(d, 'a/b'), { recursive: true });
        await unlink(join(d, 'gone'));
      },
      async (d) => {
        t.deepEqual(await tree(d), ['a/', 'bar=bar\n', 'foo=changed\n', 'link->foo']);
        await mkdir(join(d, 'a/b'));
        await writeFile(join(d, 'a/b/new'), '');
        await writeFile(join(d, 'gone'), 'back\n');
      },
    ]);
    const expected = ['a/', 'a/b/', 'a/b/new=', 'bar=bar\n', 'foo=changed\n', 'gone=back\n', 'link->foo'];
    t.deepEqual(await seen(t, subject, top), expected);
  });

  check('a directory made anew hides what it had', async (t, subject) => {
    const top = await layers(t, subject, [
      async (d) => {
        await mkdir(join(d, 'dir'));
        await writeFile(join(d, 'dir/old'), 'old');
      },
      async (d) => {
        await rm(join(d, 'dir'), { recursive: true });
        await mkdir(join(d, 'dir'));
        await writeFile(join(d, 'dir/new'), 'new');
      },
    ]);
    t.deepEqual(await seen(t, subject, top), ['dir/', 'dir/new=new']);
  });

  check('files of lower layers are renamed, linked, and change owner and mode', async (t, subject) => {
    const top = await layers(t, subject, [
      async (d) => {
        await mkdir(join(d, 'dir1'), { mode: 0o700 });
        await mkdir(join(d, 'dir2'), { mode: 0o700 });
        await writeFile(join(d, 'dir1/f1'), 'Hello');
        await writeFile(join(d, 'dir2/f2'), '...');
        await writeFile(join(d, 'setuid'), 'x');
        await chmod(join(d, 'setuid'), 0o4755);
      },
      async (d) => {
        await rename(join(d, 'dir1/f1'), join(d, 'dir2/f1'));
        await rm(join(d, 'dir1'), { recursive: true });
        await link(join(d, 'dir2/f2'), join(d, 'f3'));
        await unlink(join(d, 'dir2/f2'));
        await chown(join(d, 'dir2'), 1234, 4321);
        await chown(join(d, 'f3'), 99, 98);
        await chmod(join(d, 'dir2'), 0o1777);
      },
    ]);
    await viewed(t, subject, top, async (d) => {
      t.deepEqual(await tree(d), ['dir2/', 'dir2/f1=Hello', 'f3=...', 'setuid=x']);
      const dir2 = await stat(join(d, 'dir2'));
      t.deepEqual([dir2.uid, dir2.gid, dir2.mode & 0o7777], [1234, 4321, 0o1777]);
      const f3 = await stat(join(d, 'f3'));
      t.deepEqual([f3.uid, f3.gid], [99, 98]);
      t.is((await stat(join(d, 'setuid'))).mode & 0o7777, 0o4755);
    });
  });

  check('devices, fifos and links stay what they are', async (t, subject) => {
    const top = await layers(t, subject, [
      async (d) => {
        await runCommand('mknod', [join(d, 'null'), 'c', '1', '3']);
        await runCommand('mknod', [join(d, 'pipe'), 'p']);
        await writeFile(join(d, 'one'), 'linked');
        await link(join(d, 'one'), join(d, 'two'));
      },
      async (d) => writeFile(join(d, 'other'), ''),
    ]);
    await viewed(t, subject, top, async (d) => {
      const device = await lstat(join(d, 'null'));
      t.true(device.isCharacterDevice());
      t.is(device.rdev, 0x103);
      t.true((await lstat(join(d, 'pipe'))).isFIFO());
      t.is((await stat(join(d, 'one'))).ino, (await stat(join(d, 'two'))).ino);
    });
  });

  check('a view cannot be written to', async (t, subject) => {
    const base = await layers(t, subject, [async (d) => writeFile(join(d, 'file'), 'as it was')]);
    const second = await layers(t, subject, [async (d) => writeFile(join(d, 'second'), '')], base);
    for (const parent of ['', base, second])
      await viewed(t, subject, parent, async (d) => {
        for (const name of ['file', 'new']) {
          const error = await t.throwsAsync(writeFile(join(d, name), 'changed'));
          t.is((error as NodeJS.ErrnoException).code, 'EROFS', `${name} over '${parent}'`);
        }
      });
    await viewed(t, subject, base, async (d) => void t.is(await readFile(join(d, 'file'), 'utf8'), 'as it was'));
  });

  check('the root directory: 0755 at first, then what its parent has', async (t, subject) => {
    const { snapshotter, work } = subject;
    const umask = process.umask(0o077);
    t.teardown(() => void process.umask(umask));
    const plain = await layers(t, subject, [
      async (d) => {
        const { mode, uid, gid } = await stat(d);
        t.deepEqual([mode & 0o7777, uid, gid], [0o755, 0, 0]);
      },
    ]);
    await viewed(t, subject, plain, async (d) => void t.is((await stat(d)).mode & 0o7777, 0o755));
    const changed = await layers(
      t,
      subject,
      [
        async (d) => {
          await chown(d, 7, 8);
          await chmod(d, 0o2750);
        },
      ],
      plain,
    );
    const unmount = await mountSnapshot(t, await snapshotter.prepare('child', changed), join(work, 'child'));
    const { mode, uid, gid } = await stat(join(work, 'child'));
    t.deepEqual([mode & 0o7777, uid, gid], [0o2750, 7, 8]);
    await unmount();
  });

  check('usage counts blocks and inodes, hardlinks once, of the own layer only', async (t, subject) => {
    const { snapshotter } = subject;
    const upper = upperDirectory(await snapshotter.prepare('key', ''));
    const empty = await snapshotter.usage('key');
    t.is(empty.inodes, 1);
    await writeFile(join(upper, 'file'), Buffer.alloc(100_000, 1));
    await link(join(upper, 'file'), join(upper, 'again'));
    await mkdir(join(upper, 'dir'));
    const filled = await snapshotter.usage('key');
    t.is(filled.inodes, 3);
    t.true(filled.size >= 100_000 && filled.size < 150_000, String(filled.size));
    await snapshotter.commit('name', 'key');
    t.deepEqual(await snapshotter.usage('name'), filled);
    await snapshotter.prepare('child', 'name');
    t.is((await snapshotter.usage('child')).inodes, 1);
    await snapshotter.view('view', 'name');
    t.deepEqual(await snapshotter.usage('view'), { size: 0, inodes: 0 });
  });

  check('a snapshot that started empty takes a parent at its commit', async (t, subject) => {
    const { snapshotter } = subject;
    const base = await layers(t, subject, [async (d) => writeFile(join(d, 'below'), '1')]);
    await writeFile(join(upperDirectory(await snapshotter.prepare('alone', '')), 'above'), '2');
    await snapshotter.commit('rebased', 'alone', { parent: base });
    t.is((await snapshotter.stat('rebased')).parent, base);
    t.deepEqual(await seen(t, subject, 'rebased'), ['above=2', 'below=1']);
    const refused = await t.throwsAsync(snapshotter.remove(base));
    t.regex(refused.message, /remove/);
    await snapshotter.prepare('over', 'rebased');
    await t.throwsAsync(snapshotter.commit('name', 'over', { parent: base }), { message: /parent|rebased/ });
    await snapshotter.commit('name', 'over', { parent: 'rebased' });
  });

  check('128 layers mount', async (t, subject) => {
    const { snapshotter, work } = subject;
    let parent = '';
    for (let i = 0; i < 128; i++) {
      const upper = upperDirectory(await snapshotter.prepare(`layer ${i} is prepared`, parent));
      await writeFile(join(upper, 'last'), `${i}`);
      await writeFile(join(upper, `file-${i}`), '');
      await snapshotter.commit(`layer ${i}`, `layer ${i} is prepared`);
      parent = `layer ${i}`;
    }
    await viewed(t, subject, parent, async (d) => {
      t.is(await readFile(join(d, 'last'), 'utf8'), '127');
      t.is((await readdir(d)).length, 129);
    });
    const unmount = await mountSnapshot(t, await snapshotter.prepare('container', parent), join(work, 'container'));
    await unlink(join(work, 'container', 'file-0'));
    t.is((await readdir(join(work, 'container'))).length, 128);
    await unmount();
  });

  check('a removed snapshot that is mounted stays readable', async (t, { snapshotter, work }) => {
    await committed(snapshotter, 'base', '');
    const unmount = await mountSnapshot(t, await snapshotter.prepare('key', 'base'), join(work, 'key'));
    await writeFile(join(work, 'key', 'file'), 'still here');
    const upper = upperDirectory(await snapshotter.mounts('key'));
    await snapshotter.remove('key');
    await t.throwsAsync(stat(upper), { code: 'ENOENT' });
    await unmount();
    await snapshotter.cleanup();
  });
}

let serial = 0;

/** Commits a snapshot for each change, one over the other, and gives the topmost name. */
async function layers(
  t: ExecutionContext,
  { snapshotter, work }: Subject,
  changes: readonly Change[],
  parent = '',
): Promise<string> {
  for (const change of changes) {
    const name = `layer-${++serial}`;
    const target = join(work, name);
    const unmount = await mountSnapshot(t, await snapshotter.prepare(`${name}-active`, parent), target);
    await change(target);
    await unmount();
    await snapshotter.commit(name, `${name}-active`);
    parent = name;
  }
  return parent;
}

async function viewed(
  t: ExecutionContext,
  { snapshotter, work }: { snapshotter: Snapshotter; work: string },
  parent: string,
  look: Change,
): Promise<void> {
  const name = `view-${++serial}`;
  const unmount = await mountSnapshot(t, await snapshotter.view(name, parent), join(work, name));
  await look(join(work, name));
  await unmount();
}

async function seen(t: ExecutionContext, subject: Subject, parent: string): Promise<string[]> {
  let found: string[] = [];
  await viewed(t, subject, parent, async (directory) => {
    found = await tree(directory);
  });
  return found;
}

/** Every path below a directory with what it is, sorted. */
async function tree(directory: string, prefix = ''): Promise<string[]> {
  const lines: string[] = [];
  for (const entry of await readdir(directory, { withFileTypes: true })) {
    const path = join(directory, entry.name);
    const name = `${prefix}${entry.name}`;
    if (entry.isDirectory()) lines.push(`${name}/`, ...(await tree(path, `${name}/`)));
    else if (entry.isSymbolicLink()) lines.push(`${name}->${await readlink(path)}`);
    else lines.push(`${name}=${await readFile(path, 'utf8')}`);
  }
  return lines.sort();
}
