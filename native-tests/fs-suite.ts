import { execFile } from 'node:child_process';
import type { Dirent } from 'node:fs';
import { lstat, mkdir, mkdtemp, readdir, readFile, readlink, rm, stat, statfs, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import anyTest from 'ava';
import { unmount } from '../src/util/unmount.js';
import { fixtureContent } from '../src/testing/fs-fixture.js';
import { runCommand } from '../src/util/command.js';
import { startMount, type ServedMount } from './fs-client.js';
import { bigXattr, longName, longTarget, longUtf8Name, manyNames, odd, rawName, REFERENCE } from './fs-layers.js';
import { readingTests } from './fs-reading.js';
import type { ServerSetup } from './fs-server.js';

const run = promisify(execFile);

/** What a backend cannot do by its nature. */
export interface BackendLimits {
  /** Times are whole milliseconds from 1970 on. */
  readonly milliseconds?: boolean;
  /** Names that are no UTF-8 are left out. */
  readonly utf8Only?: boolean;
  /** Inode numbers do not tell the slot. */
  readonly shortInodes?: boolean;
  /** Lookups in one directory wait for each other. */
  readonly serialLookups?: boolean;
}

/** Names as a shell of the C locale sees them: bytes. */
const bytes = (...parts: string[]) => Buffer.from(parts.join('/'), 'latin1');

/** What every backend must do, over one mount; tests that end their mount have their own. */
export function fsSuite(backend: ServerSetup['backend'], limits: BackendLimits = {}): void {
  const { serial: test } = anyTest;
  const { before, after } = anyTest;
  let mount: ServedMount;
  const at = (...path: string[]) => join(mount.mountpoint, 'l/1', ...path);

  before(async () => {
    mount = await startMount(backend);
  });
  after.always(async () => {
    await mount[Symbol.asyncDispose]();
  });

  readingTests(backend, () => mount);

  test('the tree above the layers: slots, the references with their diff, the pool', async (t) => {
    const name = Buffer.from(REFERENCE).toString('base64');
    t.deepEqual((await readdir(mount.mountpoint)).sort(), [name, 'l', 'pool'].sort());
    t.deepEqual((await readdir(join(mount.mountpoint, 'l'))).sort(), ['1', '2']);
    t.is(await readlink(join(mount.mountpoint, name, 'sha256:lower/diff')), '../../l/1');
    t.is((await stat(join(mount.mountpoint, name, 'sha256:lower/diff/hello'))).size, 12);
    t.is(await readlink(join(mount.mountpoint, 'pool')), '/pool/of/test');
    await t.throwsAsync(readdir(join(mount.mountpoint, 'bm90IGtub3du')), { code: 'ENOENT' });
  });

  test('a reference that nobody knows is resolved while its lookup waits', async (t) => {
    const { server } = mount;
    const path = (reference: string) => join(mount.mountpoint, Buffer.from(reference).toString('base64'));
    await server.call('stall', 'registry.test/slow:1');
    const slow = stat(join(path('registry.test/slow:1'), 'sha256:any/diff/merged/above'));
    if (limits.serialLookups) await server.call('release', 'registry.test/slow:1');
    t.is((await stat(join(path('registry.test/new:1'), 'sha256:any/diff/merged/above'))).size, 20);
    if (!limits.serialLookups) await server.call('release', 'registry.test/slow:1');
    t.is((await slow).size, 20);
    await t.throwsAsync(stat(path('registry.test/broken:1')), { code: 'EIO' });
    await t.throwsAsync(stat(path('elsewhere.test/a:1')), { code: 'ENOENT' });
  });

  test('a layer that is attached is there at once, one that is detached is gone', async (t) => {
    await t.throwsAsync(readdir(join(mount.mountpoint, 'l/7')), { code: 'ENOENT' });
    await mount.server.call('attach', '8');
    t.is((await stat(join(mount.mountpoint, 'l/8/hello'))).size, 12);
    t.deepEqual((await readdir(join(mount.mountpoint, 'l'))).sort(), ['1', '2', '8']);
    await mount.server.call('detach', '8');
    t.deepEqual((await readdir(join(mount.mountpoint, 'l'))).sort(), ['1', '2']);
    const error = await t.throwsAsync<NodeJS.ErrnoException>(readFile(join(mount.mountpoint, 'l/8/odd-cached')));
    t.true(['ENOENT', 'ESTALE'].includes(String(error?.code)), error?.message);
    await t.throwsAsync(mount.server.call('attach', '1'), { message: /slot 1 already has a layer/ });
  });

  test('stat: every field', async (t) => {
    const s = await lstat(at('hello'), { bigint: true });
    t.is(s.mode, 0o100640n);
    t.deepEqual([s.uid, s.gid, s.nlink, s.size, s.blocks, s.rdev], [1000n, 2000n, 1n, 12n, 1n, 0n]);
    t.deepEqual([s.atimeNs, s.ctimeNs], [s.mtimeNs, s.mtimeNs]);
    t.is(s.mtimeNs, 1_700_000_000n * 1_000_000_000n);
    if (!limits.shortInodes) t.is(s.ino >> 32n, 1n);
    t.is((await lstat(at('odd'))).blocks, Math.ceil(odd / 512));
    t.is((await lstat(at('empty'))).blocks, 0);
    const directory = await lstat(at('.'));
    t.true(directory.isDirectory());
    t.is(directory.mtimeMs, 1_600_000_000_000);
  });

  test('ids up to the largest that is none of -1', async (t) => {
    const { uid, gid } = await lstat(at('ids'));
    t.deepEqual([uid, gid], [2 ** 32 - 2, 2 ** 32 - 2]);
  });

  test('times: to the nanosecond, and before 1970', async (t) => {
    const { mtimeNs } = await lstat(at('time'), { bigint: true });
    t.is(mtimeNs, limits.milliseconds ? 1_234_567_890_123_000_000n : 1_234_567_890_123_456_789n);
    const ancient = (await lstat(at('ancient'), { bigint: true })).mtimeNs;
    t.is(ancient, limits.milliseconds ? 0n : -86_400n * 1_000_000_000n + 5n);
  });

  test('setuid, setgid and sticky bits, and the mount honours them', async (t) => {
    t.is((await lstat(at('setuid'))).mode & 0o7777, 0o4755);
    t.is((await lstat(at('setgid'))).mode & 0o7777, 0o2755);
    t.is((await lstat(at('sticky'))).mode & 0o7777, 0o1777);
    const line = (await readFile('/proc/self/mountinfo', 'utf8'))
      .split('\n')
      .find((l) => l.includes(mount.mountpoint))!;
    t.notRegex(line, /nosuid|nodev|noexec/);
    t.regex(line, / - fuse\.lazylayer lazylayer ro/);
  });

  test('hardlinks share an inode and its count', async (t) => {
    const links = await Promise.all(['hard', 'hard-two', 'dir/hard-three'].map((n) => lstat(at(n), { bigint: true })));
    t.is(new Set(links.map((l) => l.ino)).size, 1);
    t.not((await lstat(at('hello'), { bigint: true })).ino, links[0].ino);
    t.deepEqual(
      links.map((l) => l.nlink),
      [3n, 3n, 3n],
    );
    t.true((await readFile(at('dir/hard-three'))).equals(fixtureContent('hard', 0, 5000)));
  });

  test('symlinks: target, size, following', async (t) => {
    t.is(await readlink(at('link')), 'hello');
    t.is((await lstat(at('link'))).size, 5);
    t.true((await lstat(at('link'))).isSymbolicLink());
    t.is((await stat(at('link'))).size, 12);
    t.is(await readlink(at('dangling')), '/no/where');
    t.is(await readlink(at('long-link')), longTarget);
    await t.throwsAsync(stat(at('dangling')), { code: 'ENOENT' });
    await t.throwsAsync(readlink(at('hello')), { code: 'EINVAL' });
  });

  test('devices and fifos', async (t) => {
    const device = async (name: string) => {
      const s = await lstat(at('dev', name));
      return [s.isCharacterDevice(), s.isBlockDevice(), s.isFIFO(), s.rdev, s.mode & 0o7777];
    };
    // dev_t as glibc has it: minor in bits 0-7 and 20-43, major in bits 8-19 and 44-63
    const dev = (major: number, minor: number) => (minor & 0xff) + major * 0x100 + Math.floor(minor / 0x100) * 0x100000;
    t.deepEqual(await device('null'), [true, false, false, dev(1, 3), 0o666]);
    t.deepEqual(await device('block'), [false, true, false, dev(8, 17), 0o660]);
    t.deepEqual(await device('large'), [true, false, false, dev(4095, 1_000_000), 0o644]);
    t.deepEqual(await device('fifo'), [false, false, true, 0, 0o600]);
    t.is((await readFile(at('dev/null'))).length, 0);
  });

  test('readdir tells types, by itself', async (t) => {
    const types = (entries: Dirent[]) => new Map(entries.map((e) => [e.name, e]));
    const root = types(await readdir(at(), { withFileTypes: true }));
    t.true(root.get('dir')?.isDirectory());
    t.true(root.get('hello')?.isFile());
    t.true(root.get('link')?.isSymbolicLink());
    const dev = types(await readdir(at('dev'), { withFileTypes: true }));
    t.true(dev.get('null')?.isCharacterDevice());
    t.true(dev.get('block')?.isBlockDevice());
    t.true(dev.get('fifo')?.isFIFO());
    const above = types(await readdir(join(mount.mountpoint, 'l/2'), { withFileTypes: true }));
    t.true(above.get('removed')?.isCharacterDevice(), 'a whiteout');
  });

  test('. and .. are listed, with their inodes', async (t) => {
    const { stdout } = await run('ls', ['-ai', at('dir')]);
    const inodes = new Map(
      stdout
        .trim()
        .split('\n')
        .map((l) => l.trim().split(' ').reverse() as [string, string]),
    );
    const ino = async (path: string) => String((await lstat(path, { bigint: true })).ino);
    t.deepEqual([...inodes.keys()], ['.', '..', 'hard-three']);
    t.is(inodes.get('.'), await ino(at('dir')));
    t.is(inodes.get('..'), await ino(at()));
  });

  test('a directory of 5000 names: all, once, however the listing is cut', async (t) => {
    t.deepEqual((await readdir(at('many'))).sort(), manyNames);
    const { stdout } = await run('find', [at('many'), '-type', 'f', '-size', '-1'], { maxBuffer: 1 << 20 });
    t.is(stdout.trim().split('\n').length, manyNames.filter((_, i) => i % 100 === 0).length);
    // seekdir: positions that telldir gave mean the same afterwards
    const script = `opendir(my $d, $ARGV[0]) or die; my @all; my @at;
      while (1) { my $p = telldir $d; my $n = readdir $d; last unless defined $n; push @all, $n; push @at, $p; }
      for my $i (4999, 17, 2500, 0) { seekdir $d, $at[$i]; print readdir($d) eq $all[$i] ? "same\\n" : "other\\n"; }`;
    t.is((await run('perl', ['-e', script, at('many')])).stdout, 'same\n'.repeat(4));
  });

  test('names of 255 bytes, of any characters, and of more', async (t) => {
    t.is((await lstat(at(longName))).size, 10);
    t.is((await lstat(bytes(at(), longUtf8Name))).size, 10);
    await t.throwsAsync(lstat(at('n'.repeat(256))), { code: 'ENAMETOOLONG' });
    const listed = (await readdir(at(), { encoding: 'buffer' })).map((n) => n.toString('latin1'));
    t.true(listed.includes(longUtf8Name));
    t.is(listed.includes(rawName), !limits.utf8Only);
    if (!limits.utf8Only) t.true((await readFile(bytes(at(), rawName))).equals(fixtureContent(rawName, 0, 10)));
  });

  test('xattrs: values, lists, an empty one, none, ERANGE', async (t) => {
    const get = async (name: string, file: string) =>
      (await run('getfattr', ['--absolute-names', '--only-values', '-n', name, at(file)], { encoding: 'latin1' }))
        .stdout;
    t.is(await get('user.small', 'xattrs'), 'value');
    t.is(await get('user.none', 'xattrs'), '');
    t.is(await get('user.big', 'xattrs'), bigXattr);
    t.is(await get('trusted.only', 'xattrs'), '\x00\x01');
    const { stdout } = await run('getfattr', ['--absolute-names', '-m', '-', at('xattrs')]);
    t.deepEqual(stdout.trim().split('\n').slice(1), ['trusted.only', 'user.big', 'user.none', 'user.small']);
    t.is((await run('getfattr', ['-m', '-', at('hello')])).stdout, '');
    t.regex(String(await t.throwsAsync(get('user.missing', 'xattrs'))), /No such attribute/);
    t.regex(String(await t.throwsAsync(get('user.missing', 'hello'))), /No such attribute/);
    const number = process.arch === 'arm64' ? 8 : 191;
    const script = `my ($n, $b) = ("user.small", "x" x 4); my $r = syscall(${number}, $ARGV[0], $n, $b, 4); print $r, " ", $! + 0;`;
    t.is((await run('perl', ['-e', script, at('xattrs')])).stdout, '-1 34');
  });

  test('errors: ENOENT, ENOTDIR, EISDIR, EROFS', async (t) => {
    for (const name of ['missing', 'missing', 'dir/missing', 'missing/below'])
      await t.throwsAsync(lstat(at(name)), { code: 'ENOENT' });
    await t.throwsAsync(lstat(at('hello/below')), { code: 'ENOTDIR' });
    await t.throwsAsync(readdir(at('hello')), { code: 'ENOTDIR' });
    await t.throwsAsync(readFile(at('dir')), { code: 'EISDIR' });
    await t.throwsAsync(writeFile(at('new'), 'x'), { code: 'EROFS' });
    await t.throwsAsync(writeFile(at('hello'), 'x'), { code: 'EROFS' });
    await t.throwsAsync(mkdir(at('new')), { code: 'EROFS' });
    await t.throwsAsync(rm(at('hello')), { code: 'EROFS' });
  });

  test('statfs: the layers together, no room, names of 255 bytes', async (t) => {
    const s = await statfs(at());
    t.true(s.blocks * s.bsize >= 2 * 8 * 2 ** 20);
    t.true(s.files > manyNames.length);
    t.deepEqual([s.bfree, s.bavail, s.ffree], [0, 0, 0]);
    t.is((await run('stat', ['-f', '-c', '%l', at()])).stdout.trim(), '255');
  });

  test('permissions are the kernel’s business', async (t) => {
    // What lies above the layers is root's alone; root shows one elsewhere, as an overlay does.
    const target = await mkdtemp(join(tmpdir(), 'lazylayer-bound-'));
    t.teardown(async () => {
      await unmount(target, { lazy: true });
      await rm(target, { recursive: true });
    });
    await runCommand('mount', ['--bind', at(), target]);
    const read = (file: string) => {
      const path = join(target, file);
      return run('setpriv', ['--reuid=65534', '--regid=65534', '--clear-groups', 'cmp', path, path]);
    };
    await t.notThrowsAsync(read('big'));
    t.regex(String(await t.throwsAsync(read('hello'))), /Permission denied/);
  });

  test('overlayfs over two layers shows them merged', async (t) => {
    const target = await mkdtemp(join(tmpdir(), 'lazylayer-overlay-'));
    t.teardown(async () => {
      await unmount(target, { lazy: true });
      await rm(target, { recursive: true });
    });
    const lowers = `lowerdir=${join(mount.mountpoint, 'l/2')}:${at()}`;
    await runCommand('mount', ['-t', 'overlay', 'overlay', '-o', lowers, target]);
    t.true((await readFile(join(target, 'hello'))).equals(fixtureContent('hello', 0, 30)), 'the upper layer wins');
    await t.throwsAsync(lstat(join(target, 'removed')), { code: 'ENOENT' });
    t.false((await readdir(target)).includes('removed'), 'a whiteout hides');
    t.deepEqual(await readdir(join(target, 'replaced')), ['above'], 'an opaque directory hides all below');
    t.deepEqual((await readdir(join(target, 'merged'))).sort(), ['above', 'below']);
    t.true((await readFile(join(target, 'odd'))).equals(fixtureContent('odd', 0, odd)));
    t.is((await readdir(join(target, 'many'))).length, manyNames.length);
    t.is(
      (await run('getfattr', ['--only-values', '--absolute-names', '-n', 'user.small', join(target, 'xattrs')])).stdout,
      'value',
    );
  });
}
