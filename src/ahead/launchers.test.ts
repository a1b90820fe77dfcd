import { execFileSync } from 'node:child_process';
import { mkdir, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import fc from 'fast-check';
import { temporaryDirectory } from '../testing/temporary.js';
import { CommandLines } from './command-lines.js';
import { Launchers } from './launchers.js';

const USER = 4711;
const process_ = { args: ['python3', 'main.py'], cwd: '/srv', env: ['HOME=/', 'PATH=/opt/bin:/bin'] };
const invocation = {
  commands: [{ program: 'python3', words: ['python3', 'main.py'] }],
  path: ['/opt/bin', '/bin'],
  directory: '/srv',
};

interface Process {
  readonly words: readonly string[];
  readonly parent?: number;
  readonly users?: readonly number[];
  /** In each nested process namespace. */
  readonly inner?: readonly number[];
  readonly program?: string;
  readonly mounts?: string;
}

/** A made-up `/proc`, and a directory for bundles on a disk, or on what `mounted` says. */
async function start(t: ExecutionContext, mounted = 'ext4') {
  const root = await temporaryDirectory(t, 'launchers');
  const proc = join(root, 'proc');
  await mkdir(join(proc, 'self'), { recursive: true });
  const mount = (target: string, type: string) => `1 1 0:1 / ${target} rw - ${type} none rw\n`;
  const mounts = mount('/', 'overlay') + mount(root, mounted) + mount(join(root, 'other'), 'fuse.other');
  await writeFile(join(proc, 'self', 'mountinfo'), mounts);
  await mkdir(join(proc, 'self', 'ns'));
  await symlink('mnt:[1]', join(proc, 'self', 'ns', 'mnt'));
  const is = async (pid: number, made: Process) => {
    const {
      words,
      parent = 1,
      users = [0, 0, 0, 0],
      inner = [],
      program = '/usr/sbin/runc',
      mounts = 'mnt:[1]',
    } = made;
    const directory = join(proc, String(pid));
    await rm(directory, { recursive: true, force: true });
    await mkdir(join(directory, 'ns'), { recursive: true });
    await symlink(program, join(directory, 'exe'));
    await symlink(mounts, join(directory, 'ns', 'mnt'));
    const lines = [
      'Name:\tx',
      `PPid:\t${parent}`,
      `Uid:\t${users.join('\t')}`,
      `NStgid:\t${[pid, ...inner].join('\t')}`,
    ];
    await writeFile(join(directory, 'status'), `${lines.join('\n')}\nThreads:\t1\n`);
    await writeFile(join(directory, 'cmdline'), words.map((word) => `${word}\0`).join(''));
  };
  await is(1, { words: ['init'] });
  const bundle = async (name: string, config: unknown = { process: process_ }) => {
    const directory = join(root, name);
    await mkdir(directory, { recursive: true });
    await writeFile(join(directory, 'config.json'), typeof config === 'string' ? config : JSON.stringify(config));
    return directory;
  };
  return { proc, is, bundle, launchers: new Launchers(new CommandLines(proc), proc, USER) };
}

test('who becomes a container, and the runtime that makes it: what the bundle says', async (t) => {
  const { is, bundle, launchers } = await start(t);
  const directory = await bundle('bundle');
  const ways = [['--bundle', directory], [`--bundle=${directory}`], ['-b', `${directory}/`]];
  for (const [index, way] of ways.entries()) {
    const pid = 100 * (index + 1);
    await is(pid, { words: ['runc', '--root', '/run', 'create', ...way, 'id'] });
    await is(pid + 1, { words: ['runc', 'init'], parent: pid, inner: [1] });
    await is(pid + 2, { words: ['runc', 'init'], parent: pid });
    for (const one of [pid, pid + 1, pid + 2]) t.deepEqual(await launchers.invocation(one), invocation);
  }
  await is(2, { words: ['crun', 'create', '--bundle', directory], users: Array<number>(4).fill(USER) });
  t.deepEqual(await launchers.invocation(2), invocation, 'our own user’s');
});

test('what runs in a container launches nothing', async (t) => {
  const { is, bundle, launchers } = await start(t);
  await is(10, { words: ['containerd-shim'] });
  await is(11, { words: ['app', 'main.py'], parent: 10, inner: [1] });
  await is(12, { words: ['runc', 'create', '--bundle', await bundle('bundle')], parent: 11, inner: [2] });
  await is(13, { words: ['runc', 'init'], parent: 12, inner: [3, 1] });
  for (const pid of [11, 12, 13, 77, 0]) t.is(await launchers.invocation(pid), undefined);
});

test('a client was given the command, behind the image', async (t) => {
  const { is, launchers } = await start(t);
  const host = '127.0.0.1:5000/a/b:1';
  const command = ['sh', '-c', 'gcc a.c'];
  const clients = [
    ['ctr', '--address', '/run/x.sock', 'run', '--rm', '--mount', 'type=bind,src=/a/b', host, 'name', ...command],
    ['/usr/bin/podman', 'run', '-it', '-v', '/a/b:/c', '-v', 'a/b:/c', 'docker.io/library/gcc', ...command],
    ['nerdctl', 'create', `${host}@sha256:${'0'.repeat(64)}`, ...command],
  ];
  for (const words of clients) {
    await is(10, { words, program: '/usr/bin/client', users: [1, 1, 1, 1] });
    const found = await launchers.invocation(10);
    t.deepEqual(
      found?.commands.map(({ program }) => program),
      ['sh', 'gcc'],
    );
    t.is(found?.directory, '/');
  }
  // No command, no image, nothing run, by a name that may be anything.
  for (const words of [
    clients[0].slice(0, 9),
    ['podman', 'run', 'gcc', 'sh'],
    ['ctr', 'pull', host, 'a', 'sh'],
    ['run'],
  ]) {
    await is(10, { words, program: '/usr/bin/client' });
    t.is(await launchers.invocation(10), undefined, words.join(' '));
  }
});

test('a bundle that somebody else names is not opened', async (t) => {
  const { is, bundle, launchers } = await start(t);
  const words = ['runc', 'create', '--bundle', await bundle('bundle'), 'id'];
  // Also with the rights of another, as of a setuid program.
  for (const [index, users] of [
    [1, 1, 1, 1],
    [1, 0, 0, 0],
    [0, 1, 0, 0],
  ].entries()) {
    await is(10 + index, { words, users });
    await is(20 + index, { words: ['runc', 'init'], parent: 10 + index, inner: [1] });
    t.is(await launchers.invocation(20 + index), undefined);
    t.is(await launchers.invocation(10 + index), undefined);
  }
  // Others have such options too, and runtimes in a container of their own name files of that.
  const others = [{ program: '/usr/bin/du' }, { mounts: 'mnt:[2]' }, { words: ['runc', 'list', '--bundle', words[3]] }];
  for (const [index, other] of others.entries()) {
    await is(30 + index, { words, ...other });
    t.is(await launchers.invocation(30 + index), undefined);
  }
});

test('a bundle that may lie in what is served is not opened', async (t) => {
  for (const type of ['overlay', 'fuse.lazylayer', 'fuse']) {
    const { is, bundle, launchers } = await start(t, type);
    await is(10, { words: ['runc', 'create', '--bundle', await bundle('bundle')] });
    t.is(await launchers.invocation(10), undefined, type);
  }
  const { is, bundle, launchers } = await start(t);
  for (const [pid, name] of ['other', 'other/x', 'x/../other', 'others'].entries()) {
    const directory = await bundle(name);
    await is(10 + pid, {
      words: ['runc', 'create', '--bundle', name.includes('..') ? `${directory}/../other` : directory],
    });
    t.is((await launchers.invocation(10 + pid)) !== undefined, name === 'others', name);
  }
});

test('what is no bundle tells nothing, and holds nobody up', async (t) => {
  const { is, bundle, launchers } = await start(t);
  const wrong = ['', 'x', '[]', {}, { process: {} }, { process: { args: 'x', cwd: '/' } }, `"${'x'.repeat(1 << 20)}"`];
  const directories = await Promise.all(wrong.map((config, index) => bundle(`wrong${index}`, config)));
  const pipe = await bundle('pipe');
  const link = await bundle('link');
  for (const directory of [pipe, link]) await rm(join(directory, 'config.json'));
  execFileSync('mkfifo', [join(pipe, 'config.json')]);
  await symlink(join(await bundle('right'), 'config.json'), join(link, 'config.json'));
  for (const [index, directory] of [...directories, pipe, link, '/nowhere', 'relative', ''].entries()) {
    await is(10 + index, { words: ['runc', 'create', '--bundle', directory], inner: [] });
    await is(100 + index, { words: ['runc', 'init'], parent: 10 + index, inner: [1] });
    t.is(await launchers.invocation(100 + index), undefined, directory);
  }
});

test('nothing that a status may say makes it fail', async (t) => {
  const { proc, is, launchers } = await start(t);
  await is(10, { words: ['x'] });
  const word = fc.constantFrom('PPid:', 'Uid:', 'NStgid:', '\t', '\n', '0', '1', '10', '11', 'x', '-1');
  await fc.assert(
    fc.asyncProperty(fc.array(word), async (words) => {
      await writeFile(join(proc, '10', 'status'), words.join(''));
      const found = await launchers.invocation(10);
      t.is(found, undefined);
    }),
    { numRuns: 200 },
  );
});
