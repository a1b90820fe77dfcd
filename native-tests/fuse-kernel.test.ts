import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { fstatSync } from 'node:fs';
import { lstat, mkdtemp, open, readdir, readFile, readlink, rmdir } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import test, { type ExecutionContext } from 'ava';
import type { Negotiated } from '../src/fuse/codec.js';
import { watchDevice } from '../src/fuse/device.js';
import { openConnection } from '../src/fuse/mount.js';
import { unmount } from '../src/util/unmount.js';
import { fixtureContent } from '../src/testing/fs-fixture.js';
import { eventually } from './support/tools.js';
import { FsServer, startMount, type ServedMount } from './fs-client.js';
import { manyNames, odd } from './fs-layers.js';
import { fsSuite } from './fs-suite.js';

const run = promisify(execFile);

fsSuite('kernel');

async function started(t: ExecutionContext): Promise<ServedMount & { at: (...path: string[]) => string }> {
  const mount = await startMount('kernel');
  t.teardown(() => mount[Symbol.asyncDispose]());
  return Object.assign(mount, { at: (...path: string[]) => join(mount.mountpoint, 'l/1', ...path) });
}

test.serial('a new server goes on where a killed one left readers waiting', async (t) => {
  const mount = await started(t);
  const { at } = mount;
  const before = await lstat(at('odd'), { bigint: true });
  await using held = await open(at('dir/hard-three'));
  await mount.server.call('stall', 'lazy/j');
  const reader = run('cat', [at('lazy/j')], { encoding: 'buffer' });
  await mount.server.untilWaiting('lazy/j');
  const resume = (await mount.server.call('negotiated')) as Negotiated;
  await mount.server.kill();

  t.deepEqual(await lstat(at('odd'), { bigint: true }), before, 'what the kernel knows holds without a server');
  const lookup = run('stat', ['-c', '%s', at('many', manyNames[42])]);
  const cached = readFile(at('odd-cached'));
  mount.server = await FsServer.start(
    { backend: 'kernel', mountpoint: mount.mountpoint, resume },
    mount.connection!.fd,
  );
  t.true((await reader).stdout.equals(fixtureContent('lazy/j', 0, 100_000)));
  t.is((await lookup).stdout, '42\n');
  t.true((await cached).equals(fixtureContent('odd-cached', 0, odd)));
  t.deepEqual(await lstat(at('odd'), { bigint: true }), before);
  t.true((await held.readFile()).equals(fixtureContent('hard', 0, 5000)), 'files that were open stay open');
  t.is((await readdir(at('many'))).length, manyNames.length);
  t.deepEqual((await readdir(join(mount.mountpoint, 'l'))).sort(), ['1', '2']);
});

test.serial('a main thread that stands still slows neither metadata nor cached reads', async (t) => {
  t.timeout(120_000);
  const { server, at } = await started(t);
  const release = await server.block();
  const waiting = run('cat', [at('lazy/k')], { encoding: 'buffer' });
  t.is((await readdir(at('many'))).length, manyNames.length);
  for (const name of manyNames.slice(0, 300)) t.is((await lstat(at('many', name))).nlink, 1);
  for (const name of manyNames.slice(0, 100)) await readFile(at('many', name));
  t.true((await readFile(at('odd-cached'))).equals(fixtureContent('odd-cached', 0, odd)));
  t.is((await readFile(at('big'))).length, 8 * 2 ** 20);
  // Everything above was answered before the main thread hears of anything.
  release();
  t.true((await waiting).stdout.equals(fixtureContent('lazy/k', 0, 100_000)));
  t.is((await server.stats()).deferredReads, 1);
});

/** A reader that waits in one request of its own, with no read-ahead between; counts the SIGUSR1 that it gets. */
const directReader = `use Fcntl; $| = 1; $SIG{USR1} = sub { $signals++ };
  sysopen(my $f, $ARGV[0], O_RDONLY | O_DIRECT) or die; my $r = sysread($f, my $b, 1000);
  print defined $r ? "read $r, signals $signals" : "error " . ($! + 0);`;

test.serial(
  'an ordinary signal does not break a read; SIGKILL ends the reader, also after another signal',
  async (t) => {
    const { server, at } = await started(t);
    for (const then of ['release', 'kill'] as const) {
      await server.call('stall', 'lazy/j');
      const reader = spawn('perl', ['-e', directReader, at('lazy/j')], { stdio: ['ignore', 'pipe', 'inherit'] });
      let said = '';
      reader.stdout.setEncoding('utf8').on('data', (text: string) => (said += text));
      const exit = once(reader, 'close');
      await server.untilWaiting('lazy/j');
      reader.kill('SIGUSR1');
      await sleep(100);
      t.is(reader.exitCode, null);
      t.is((await server.stats()).waitingReads, 1);
      if (then === 'kill') reader.kill('SIGKILL');
      else await server.call('release', 'lazy/j');
      t.deepEqual(await exit, then === 'kill' ? [null, 'SIGKILL'] : [0, null]);
      t.is(said, then === 'kill' ? '' : 'read 1000, signals 1');
      t.is((await server.stats()).waitingReads, 0, 'the host is told that nobody waits');
      await server.call('release', 'lazy/j');
    }
  },
);

test.serial('programs that the server starts do not inherit the connection', async (t) => {
  const { server } = await started(t);
  const { stdout } = await run('ls', ['-l', `/proc/${server.process.pid}/fd`]);
  t.regex(stdout, /\/dev\/fuse/);
  t.notRegex(String(await server.call('children')), /\/dev\/fuse/);
});

test.serial('the thread that answers the kernel is more urgent than all others of its process', async (t) => {
  const { server } = await started(t);
  const tasks = await readdir(`/proc/${server.process.pid}/task`);
  const nice = async (task: string) => {
    const stat = await readFile(`/proc/${server.process.pid}/task/${task}/stat`, 'latin1');
    return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[16]);
  };
  const values = await Promise.all(tasks.map(nice));
  const own = await nice(String(server.process.pid));
  t.is(values.filter((value) => value < own).length, 1);
});

test.serial('forgotten nodes are the same nodes afterwards', async (t) => {
  const { at } = await started(t);
  const before = await lstat(at('hard'), { bigint: true });
  await using directory = await open(at('many'));
  await run('sh', ['-c', 'echo 2 > /proc/sys/vm/drop_caches']);
  t.deepEqual(await lstat(at('hard'), { bigint: true }), before);
  t.true((await directory.stat()).isDirectory());
  t.true((await readFile(at('hard'))).equals(fixtureContent('hard', 0, 5000)));
});

test.serial('a warm file costs no request at all: neither lookup nor open nor read', async (t) => {
  const { server, at } = await started(t);
  // Through an open directory, since what lies above the layers is asked again once a second.
  await using root = await open(at());
  const path = `/proc/self/fd/${root.fd}/odd-cached`;
  await readFile(path);
  const { requests } = await server.stats();
  for (let i = 0; i < 50; i++) await readFile(path);
  t.is((await server.stats()).requests, requests);
});

test.serial('the kernel drops the name of a layer that is gone, though nobody asks for it', async (t) => {
  const { server, mountpoint } = await started(t);
  await using held = await open(join(mountpoint, 'l', '2'));
  const name = () => readlink(`/proc/self/fd/${held.fd}`);
  t.is(await name(), join(mountpoint, 'l', '2'));
  await server.call('detach', '2');
  await eventually('the name is dropped', async () => ((await name()).endsWith(' (deleted)') ? true : undefined));
  await t.throwsAsync(lstat(join(mountpoint, 'l', '2')), { code: 'ENOENT' });
});

test.serial("the device gives INIT, then the end, and the descriptor is its owner's until closed", async (t) => {
  const mountpoint = await mkdtemp(join(tmpdir(), 'lazylayer-device-'));
  t.teardown(() => rmdir(mountpoint));
  const { fd } = await openConnection(mountpoint, { source: 'a source' });
  const buffer = Buffer.alloc(16 * 1024);
  const opcodes: number[] = [];
  const ended = new Promise<NodeJS.ErrnoException>((resolve, reject) => {
    const device = watchDevice(fd, buffer, {
      message: () => {
        opcodes.push(buffer.readUInt32LE(4));
        unmount(mountpoint).catch(reject);
      },
      end: (error) => {
        t.notThrows(() => fstatSync(fd), 'other threads may still write to it');
        device.close();
        t.throws(() => fstatSync(fd), { code: 'EBADF' });
        resolve(error);
      },
    });
  });
  t.is((await ended).code, 'ENODEV');
  t.deepEqual(opcodes, [26]);
});
