import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import type { Dirent } from 'node:fs';
import {
  lstat,
  mkdir,
  mkdtemp,
  open,
  readdir,
  readFile,
  readlink,
  rm,
  stat,
  statfs,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import anyTest, { type ExecutionContext } from 'ava';
import { unmount } from '../src/util/unmount.js';
import { FIXTURE_CHUNK, fixtureContent } from '../src/testing/fs-fixture.js';
import { runCommand } from '../src/util/command.js';
import { startMount, type ServedMount } from './fs-client.js';
import {
  bigXattr,
  halfSize,
  longName,
  longTarget,
  longUtf8Name,
  manyNames,
  odd,
  rawName,
  REFERENCE,
} from './fs-layers.js';
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

  /** The bytes of a file at an offset, and what they must be. */
  async function same(t: ExecutionContext, name: string, offset: number, length: number, size: number): Promise<void> {
    await using file = await open(at(name));
    const into = Buffer.alloc(length, 0xee);
    const { bytesRead } = await file.read(into, 0, length, offset);
    const expected = Math.max(0, Math.min(length, size - offset));
    t.is(bytesRead, expected, `${name}: ${length} bytes at ${offset}`);
    t.true(into.subarray(0, expected).equals(fixtureContent(name, offset, expected)), `${name}: bytes at ${offset}`);
  }

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

  test('reads at every class of offset, cached or not', async (t) => {
    const offsets = [0, 1, 511, 4095, 4096, 4097, FIXTURE_CHUNK - 1, FIXTURE_CHUNK, FIXTURE_CHUNK + 1];
    offsets.push(2 * FIXTURE_CHUNK - 4096, odd - 4097, odd - 1, odd, odd + 1, odd + 100_000);
    for (const name of ['odd', 'odd-cached'])
      for (const offset of offsets)
        for (const length of [1, 4096, 5000, FIXTURE_CHUNK + 2, odd + 9]) await same(t, name, offset, length, odd);
    await same(t, 'half', 0, halfSize, halfSize);
    await same(t, 'half', FIXTURE_CHUNK + 5, 2 * FIXTURE_CHUNK - 10, halfSize);
    await same(t, 'empty', 0, 10, 0);
    await same(t, 'empty', 10, 10, 0);
  });

  test('big reads, and what the cache answers costs the host nothing', async (t) => {
    const size = 8 * 2 ** 20;
    t.true((await readFile(at('big-lazy'))).equals(fixtureContent('big-lazy', 0, size)));
    const before = await mount.server.stats();
    t.true((await readFile(at('big'))).equals(fixtureContent('big', 0, size)));
    const after = await mount.server.stats();
    t.is(after.deferredReads, before.deferredReads);
    t.true(after.cachedReads > before.cachedReads);
    await readFile(at('big'));
    t.is((await mount.server.stats()).cachedReads, after.cachedReads, 'the kernel keeps what it has read');
  });

  test('direct reads pass the page cache by', async (t) => {
    const { stdout } = await run('dd', [`if=${at('odd')}`, 'iflag=direct', 'bs=4096', 'status=none'], {
      encoding: 'buffer',
      maxBuffer: 1 << 20,
    });
    t.true(stdout.equals(fixtureContent('odd', 0, odd)));
    for (const name of ['odd', 'odd-cached']) {
      const flags = ['iflag=direct,skip_bytes,count_bytes', 'bs=5000', 'skip=65533', 'count=70001', 'status=none'];
      const part = await run('dd', [`if=${at(name)}`, ...flags], { encoding: 'buffer', maxBuffer: 1 << 20 });
      t.true(part.stdout.equals(fixtureContent(name, 65_533, 70_001)), 'at offsets that no page cache would ask for');
    }
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
    const read = (file: string) =>
      run('setpriv', ['--reuid=65534', '--regid=65534', '--clear-groups', 'cmp', at(file), at(file)]);
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

  test('readers side by side all get the right bytes', async (t) => {
    const { server } = mount;
    await server.call('stall', 'lazy/a');
    const readers = Array.from({ length: 8 }, () => run('sha256sum', [at('lazy/a')]));
    await server.untilWaiting('lazy/a');
    await server.call('release', 'lazy/a');
    const sums = (await Promise.all(readers)).map((r) => r.stdout.split(' ')[0]);
    t.is(new Set(sums).size, 1);
    t.true((await readFile(at('lazy/a'))).equals(fixtureContent('lazy/a', 0, 100_000)));
  });

  test('slow reads block nothing else', async (t) => {
    const { server } = mount;
    const stalled = ['lazy/b', 'lazy/c', 'lazy/d', 'lazy/e', 'lazy/f'];
    for (const name of stalled) await server.call('stall', name);
    const readers = stalled.map((name) => run('cat', [at(name)], { encoding: 'buffer' }));
    for (const name of stalled) await server.untilWaiting(name);
    t.is((await lstat(at('dev/block'))).mode & 0o777, 0o660);
    t.true((await readFile(at('odd-cached'))).equals(fixtureContent('odd-cached', 0, odd)));
    t.true((await readFile(at('lazy/g'))).equals(fixtureContent('lazy/g', 0, 100_000)), 'another that is not cached');
    t.is((await readdir(at('many'))).length, manyNames.length);
    for (const name of stalled) await server.call('release', name);
    for (const [i, { stdout }] of (await Promise.all(readers)).entries())
      t.true(stdout.equals(fixtureContent(stalled[i], 0, 100_000)), stalled[i]);
  });

  test('a reader that is killed goes at once, and the file can be read afterwards', async (t) => {
    const { server } = mount;
    await server.call('stall', 'lazy/h');
    const reader = spawn('cat', [at('lazy/h')], { stdio: 'ignore' });
    const exit = once(reader, 'exit');
    await server.untilWaiting('lazy/h');
    reader.kill('SIGKILL');
    t.deepEqual(await exit, [null, 'SIGKILL'], 'while the read is still stalled');
    await server.call('release', 'lazy/h');
    t.true((await readFile(at('lazy/h'))).equals(fixtureContent('lazy/h', 0, 100_000)));
  });

  test('a read that failed is EIO, and nothing of it is kept', async (t) => {
    await mount.server.call('fail', 'lazy/i');
    const read = () =>
      run('dd', [`if=${at('lazy/i')}`, 'iflag=direct', 'bs=100000', 'status=none'], { encoding: 'buffer' });
    t.regex(String(await t.throwsAsync(read())), /Input\/output error/);
    t.true((await read()).stdout.equals(fixtureContent('lazy/i', 0, 100_000)));
  });

  test('unmounting while busy is refused, then lazy; the server hears of the end', async (t) => {
    await using own = await startMount(backend);
    const file = await open(join(own.mountpoint, 'l/1/odd'));
    await t.throwsAsync(unmount(own.mountpoint), { code: 'BUSY' });
    await unmount(own.mountpoint, { lazy: true });
    t.false((await readFile('/proc/self/mountinfo', 'utf8')).includes(own.mountpoint));
    const { buffer } = await file.read(Buffer.alloc(100), 0, 100, 5);
    t.true(buffer.equals(fixtureContent('odd', 5, 100)), 'who has it open goes on');
    await file.close();
    await own.server.ended.promise;
  });

  test('a forced unmount frees who waits, and the server hears of the end', async (t) => {
    await using own = await startMount(backend);
    await own.server.call('stall', 'lazy/a');
    const reader = run('cat', [join(own.mountpoint, 'l/1/lazy/a')]);
    await own.server.untilWaiting('lazy/a');
    await unmount(own.mountpoint, { lazy: true, force: true });
    await t.throwsAsync(reader, { code: 1 });
    await own.server.ended.promise;
  });

  test('a disposed server ends', async (t) => {
    await using own = await startMount(backend);
    await own.server.call('dispose');
    await t.notThrowsAsync(own.server.ended.promise);
  });
}
