import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, rm, symlink, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setImmediate as turn, setTimeout as sleep } from 'node:timers/promises';
import test, { type ExecutionContext } from 'ava';
import { temporaryDirectory } from '../testing/temporary.js';
import { until } from '../testing/until.js';
import { CommandLines, type CommandLine } from './command-lines.js';

/** A made-up `/proc`: `is` gives a process a command line. */
async function start(t: ExecutionContext) {
  const proc = await temporaryDirectory(t, 'proc');
  const is = async (pid: number, commandLine: string, links: Record<string, string> = {}) => {
    await mkdir(join(proc, String(pid)), { recursive: true });
    await writeFile(join(proc, String(pid), 'cmdline'), commandLine);
    for (const [name, target] of Object.entries(links)) {
      await mkdir(dirname(join(proc, String(pid), name)), { recursive: true });
      await symlink(target, join(proc, String(pid), name));
    }
  };
  return { lines: new CommandLines(proc), is, proc };
}

test('a process of this machine: its arguments, and where it is', async (t) => {
  const directory = await temporaryDirectory(t, 'cwd');
  const child = spawn('/bin/sh', ['-c', 'echo; read x', '', 'a b', ''], {
    cwd: directory,
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  t.teardown(() => child.kill('SIGKILL'));
  await once(child.stdout, 'data');
  const lines = new CommandLines();
  t.deepEqual(await lines.look(child.pid!), {
    arguments: ['/bin/sh', '-c', 'echo; read x', '', 'a b', ''],
    directory,
    isOutside: true,
  });
});

test('directories count from the root that the process has', async (t) => {
  const { lines, is } = await start(t);
  const directories = [
    ['/mnt/image', '/mnt/image/srv/app', '/srv/app'],
    ['/mnt/image', '/mnt/image', '/'],
    ['/mnt/image', '/mnt/image2', '/'],
    ['/mnt/image', '/elsewhere', '/'],
    ['/', '/srv/app', '/srv/app'],
    ['/', '/..data', '/..data'],
  ];
  for (const [index, [root, cwd, directory]] of directories.entries()) {
    await is(index + 1, 'a\0', { root, cwd });
    t.is((await lines.look(index + 1))?.directory, directory);
  }
});

test('outside is who has our mounts, and our root', async (t) => {
  const { lines, is, proc } = await start(t);
  await is(0, '', { 'ns/mnt': 'mnt:[1]' });
  await symlink('0', join(proc, 'self'));
  for (const [pid, mounts, root, isOutside] of [
    [1, 'mnt:[1]', '/', true],
    [2, 'mnt:[2]', '/', false],
    [3, 'mnt:[1]', '/mnt/image', false],
  ] as const) {
    await is(pid, 'a\0', { root, 'ns/mnt': mounts });
    t.is((await lines.look(pid))?.isOutside, isOutside);
  }
});

test('what cannot be seen is nothing: nobody, who is gone, who is being loaded; without links the root', async (t) => {
  const { lines, is } = await start(t);
  await is(0, 'a\0');
  await is(1, '');
  await is(2, 'a\0');
  for (const pid of [0, 1, 77]) t.is(await lines.look(pid), undefined);
  t.deepEqual(await lines.look(2), { arguments: ['a'], directory: '/', isOutside: false });
});

test('a look that hangs is given up, and nobody is looked at until it ends', async (t) => {
  const { lines, is, proc } = await start(t);
  await is(1, '');
  await is(2, 'a\0');
  const hanging = join(proc, '1', 'cmdline');
  await rm(hanging);
  execFileSync('mkfifo', [hanging]);
  const looks = [1, 2, 1].map((pid) => lines.look(pid));
  t.deepEqual(await Promise.all(looks), [undefined, undefined, undefined]);
  t.is(await lines.look(2), undefined);
  await writeFile(hanging, '');
  for (let i = 0; i < 1000 && (await lines.look(2)) === undefined; i++) await sleep(2);
  t.deepEqual((await lines.look(2))?.arguments, ['a']);
});

test('a long command line ends with the last whole argument of 4 KiB; a title has no end', async (t) => {
  const { lines, is } = await start(t);
  await is(1, `${'a'.repeat(3000)}\0${'b'.repeat(2000)}\0`);
  await is(2, 'a'.repeat(100_000));
  await is(3, 'nginx: master process');
  t.deepEqual((await lines.look(1))?.arguments, ['a'.repeat(3000)]);
  t.deepEqual((await lines.look(2))?.arguments, []);
  t.deepEqual((await lines.look(3))?.arguments, ['nginx: master process']);
});

test('looks of one moment are one; of very many processes some are left out', async (t) => {
  const { lines, is } = await start(t);
  await is(1, 'a\0');
  const looks = Array.from({ length: 3 }, () => lines.look(1));
  t.is(new Set(looks).size, 1);
  t.is((await looks[0])?.arguments[0], 'a');
  t.not(lines.look(1), looks[0]);
  await is(1000, 'b\0');
  for (let pid = 2; pid < 400; pid++) void lines.look(pid);
  t.is(await lines.look(1000), undefined);
  while ((await lines.look(1000)) === undefined) await turn();
});

test('who waits for a read is looked at, and again once it has become what it was loading', async (t) => {
  const { lines, is } = await start(t);
  await is(1, 'runc\0init\0');
  const told: string[] = [];
  let answer!: () => void;
  const answered = new Promise<void>((_, reject) => (answer = () => reject(new Error('read failed'))));
  const followed = lines.follow(1, answered, async (line: CommandLine) => void told.push(line.arguments.join(' ')));
  await until(() => told.length > 0);
  await is(1, 'python3\0main.py\0');
  answer();
  await followed;
  t.deepEqual(told, ['runc init', 'python3 main.py']);
});
