import { mkdir, open, readFile, readdir, readlink, stat, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import test from 'ava';
import { halts, WakeLatency } from '../src/fuse/wake-latency.js';
import { sha256File } from './support/compare.js';
import { program } from './support/scene.js';
import { stageFor } from './support/stage.js';
import { eventually, outcomeOf, run } from './support/tools.js';

const stage = stageFor(test);

const ofBackend = (backend: string) => `[fuse]\nbackend = "${backend}"\n`;
const digestOf = (root: string, name: string) => sha256File(join(root, 'srv/hard', name));

for (const backend of ['kernel', 'fuse-native'] as const)
  test.serial(`${backend}: SIGKILL of every process leaves a mount that the next command replaces`, async (t) => {
    const { scene, image, target, fixtures } = await stage(t, ofBackend(backend));
    await scene.mount(image('lazy'), target, '--no-background-fetch');
    await readFile(join(target, 'srv/hard/small'));
    await scene.killAll();
    t.not((await scene.mounted()).length, 0, 'the dead mount is still there');
    await scene.umount(target);
    t.deepEqual(await scene.mounted(), [], 'umount takes it away');

    await scene.mount(image('lazy'), target, '--no-background-fetch');
    await scene.killAll();
    await scene.mount(image('lazy'), target, '--no-background-fetch');
    t.is(await readFile(join(target, 'srv/hard/small'), 'utf8'), 'small\n');
    t.is(await digestOf(target, 'random'), await digestOf(fixtures.reference.lazy, 'random'));
    await scene.umount(target);
    await scene.daemonGone();
    t.deepEqual(await scene.mounted(), []);
  });

for (const stayAwake of [true, false])
  test.serial(
    `stay_awake = ${stayAwake}: who serves ${stayAwake ? 'may' : 'does not'} keep processors awake`,
    async (t) => {
      const { scene, image, target } = await stage(t, `[fuse]\nstay_awake = ${stayAwake}\n`);
      await scene.mount(image('lazy'), target, '--no-background-fetch');
      const { serving } = await scene.processes();
      const open = await readdir(`/proc/${serving}/fd`);
      const files = await Promise.all(open.map((fd) => readlink(`/proc/${serving}/fd/${fd}`).catch(() => '')));
      using possible = halts() ? WakeLatency.open() : undefined;
      t.is(files.includes('/dev/cpu_dma_latency'), stayAwake && possible !== undefined);
      await run('find', [target, '-xdev', '-newermt', '2200-01-01']);
      await scene.umount(target);
      await scene.daemonGone();
    },
  );

test.serial('--rw: writes go to the upper and leave the layers as they are', async (t) => {
  const { scene, image, target } = await stage(t);
  const plain = await scene.mountPoint('plain');
  await scene.mount(image('lazy'), plain, '--no-background-fetch');
  const refused = await t.throwsAsync(writeFile(join(plain, 'new'), 'x'), { instanceOf: Error });
  t.is((refused as NodeJS.ErrnoException).code, 'EROFS');

  await scene.mount(image('lazy'), target, '--no-background-fetch', '--rw');
  await writeFile(join(target, 'srv/hard/small'), 'changed');
  await run('rm', ['-r', join(target, 'srv/hard/many')]);
  await mkdir(join(target, 'srv/hard/many'));
  await writeFile(join(target, 'srv/hard/many/new'), 'new');
  await run('chown', ['7:8', join(target, 'srv/hard/no-mode')]);
  t.is(await readFile(join(target, 'srv/hard/small'), 'utf8'), 'changed');
  t.deepEqual(await readdir(join(target, 'srv/hard/many')), ['new']);
  t.is(await readFile(join(plain, 'srv/hard/small'), 'utf8'), 'small\n');
  t.is((await readdir(join(plain, 'srv/hard/many'))).length, 1499);
  const upper = (await scene.ps()).find((info) => info.target === target)?.upper;
  t.is(await readFile(join(upper!, 'upper/srv/hard/small'), 'utf8'), 'changed');
  await scene.umount(target);
  await t.throwsAsync(stat(upper!), { code: 'ENOENT' }, 'a temporary upper goes with its mount');

  const kept = join(scene.directory, 'kept');
  await mkdir(kept);
  await scene.mount(image('lazy'), target, '--no-background-fetch', '--rw', '--upper', kept);
  await writeFile(join(target, 'written'), 'kept');
  await scene.umount(target);
  await scene.mount(image('lazy'), target, '--no-background-fetch', '--rw', '--upper', kept);
  t.is(await readFile(join(target, 'written'), 'utf8'), 'kept');
  await scene.umount(target);
  await scene.umount(plain);
});

for (const signal of ['SIGINT', 'SIGHUP'] as const)
  test.serial(`in the foreground, mount stays until ${signal} and takes the mount away`, async (t) => {
    const { scene, image, target } = await stage(t);
    const args = [
      program,
      'mount',
      '--root',
      scene.root,
      '--config',
      scene.config,
      '--no-background-fetch',
      image('lazy'),
      target,
    ];
    const child = spawn(process.execPath, args, { stdio: ['ignore', 'ignore', 'pipe'] });
    t.teardown(() => void child.kill('SIGKILL'));
    let said = '';
    child.stderr.setEncoding('utf8').on('data', (text: string) => (said += text));
    await eventually('it says that it is mounted', async () => (said.includes(target) ? true : undefined));
    t.true((await readdir(target)).length > 0);
    t.is(child.exitCode, null);
    const ended = once(child, 'exit');
    child.kill(signal);
    await ended;
    await eventually('the mount is gone', async () => ((await readdir(target)).length === 0 ? true : undefined));
    await scene.daemonGone();
  });

test.serial(
  'what overlayfs cannot carry, and a mount over what the daemon keeps, is refused before a daemon starts',
  async (t) => {
    const { scene, image, target } = await stage(t);
    const pool = join(scene.root, 'pool');
    await mkdir(pool, { recursive: true });
    await symlink(pool, join(scene.directory, 'by-another-name'));
    for (const [args, said] of [
      [['--upper', join(scene.directory, 'a,b'), image('lazy'), target], /without ',', ':' and '.', found .*a,b/],
      [[image('lazy'), pool], /outside of lazylayer's own root/],
      [[image('lazy'), join(scene.directory, 'by-another-name')], /outside of lazylayer's own root/],
    ] as const) {
      const { status, stderr } = await scene.lazylayer('mount', ['--detach', ...args]);
      t.is(status, 2, stderr);
      t.regex(stderr, said);
    }
    t.deepEqual(await scene.processes(), {});
  },
);

test.serial('a mount in use is not unmounted, and says so; --lazy detaches it', async (t) => {
  const { scene, image, target } = await stage(t);
  await scene.mount(image('lazy'), target, '--no-background-fetch');
  const file = await open(join(target, 'srv/hard/small'));
  const refused = await scene.lazylayer('umount', [target]);
  t.is(refused.status, 1);
  t.regex(refused.stderr, /in use/);
  t.is((await scene.ps()).length, 1);
  t.is(await file.readFile('utf8'), 'small\n');
  await file.close();
  const directory = spawn('sleep', ['30'], { cwd: join(target, 'srv') });
  t.teardown(() => void directory.kill());
  await once(directory, 'spawn');
  await scene.succeed('umount', '--lazy', target);
  t.deepEqual(await readdir(target), []);
  t.deepEqual(await scene.ps(), []);
});

test.serial(
  'several directories are unmounted at once; one without a mount is told when the daemon has gone, too',
  async (t) => {
    const { scene, image, target } = await stage(t);
    await scene.mount(image('lazy'), target, '--no-background-fetch');
    const bare = await scene.mountPoint('bare');
    const { status, stderr } = await scene.lazylayer('umount', [bare, target, bare]);
    t.is(status, 1);
    t.is(stderr.match(/bare has no image mounted/g)?.length, 2, stderr);
    t.deepEqual(await scene.mounted(), []);
  },
);

test.serial('umount(8) is as good as lazylayer umount', async (t) => {
  const { scene, image, target } = await stage(t);
  await scene.mount(image('lazy'), target, '--no-background-fetch');
  await run('umount', [target]);
  await scene.daemonGone();
  t.deepEqual(await scene.mounted(), []);
});

test.serial('SIGKILL of the serving process while a reader waits: the reader gets its bytes', async (t) => {
  const { scene, image, target, proxy, fixtures } = await stage(t);
  await scene.mount(image('lazy'), target, '--no-background-fetch');
  const first = await scene.processes();
  t.is(first.serving, (await scene.ps())[0].pid);
  const held = proxy.hold();
  t.teardown(held.release);
  const reading = run('sha256sum', [join(target, 'srv/hard/random')]);
  await held.asked;
  process.kill(first.serving!, 'SIGKILL');
  held.release();
  t.is((await reading).slice(0, 64), await digestOf(fixtures.reference.lazy, 'random'));
  const second = await scene.processes();
  t.is(second.holder, first.holder);
  t.not(second.serving, first.serving);
  t.is(await readFile(join(target, 'srv/hard/small'), 'utf8'), 'small\n');
  t.is((await scene.ps()).length, 1, 'the new process knows the mount');
  await scene.umount(target);
  await scene.daemonGone();
});

test.serial('a cache that was damaged while nobody looked is verified again after a crash', async (t) => {
  const { scene, image, target } = await stage(t);
  await scene.mount(image('lazy'), target, '--no-background-fetch');
  const expected = await digestOf(target, 'random');
  await scene.killAll();
  t.true((await damageCaches(join(scene.root, 'layers'))) > 0);
  await run('sh', ['-c', 'echo 3 >/proc/sys/vm/drop_caches']);
  await scene.mount(image('lazy'), target, '--no-background-fetch');
  t.is(await digestOf(target, 'random'), expected);
  await scene.umount(target);
});

/** Turns bytes around in the middle of every extent of 1 MiB that the cache files hold. */
async function damageCaches(layers: string): Promise<number> {
  let damaged = 0;
  for (const name of await readdir(layers)) {
    const file = await open(join(layers, name, 'data'), 'r+').catch(() => undefined);
    if (file === undefined) continue;
    await using _ = { [Symbol.asyncDispose]: () => file.close() };
    const bytes = Buffer.alloc(16);
    for (let at = 1 << 19; at < (await file.stat()).size; at += 1 << 20) {
      await file.read(bytes, 0, 16, at);
      if (bytes.every((byte) => byte === 0)) continue;
      await file.write(
        bytes.map((byte) => byte ^ 0xff),
        0,
        16,
        at,
      );
      damaged++;
    }
  }
  return damaged;
}

test.serial('a full disk under the root gives right bytes or a clear error', async (t) => {
  const { scene, image, target, fixtures } = await stage(t);
  await mkdir(scene.root);
  await run('mount', ['-t', 'tmpfs', '-o', 'size=12m,mode=700', 'tmpfs', scene.root]);
  await scene.mount(image('lazy'), target, '--no-background-fetch');
  let failed = 0;
  for (const name of ['random', 'text', 'one-chunk', 'one-chunk-and-a-byte', 'small'])
    try {
      t.is(await digestOf(target, name), await digestOf(fixtures.reference.lazy, name), name);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      t.true(code === 'ENOSPC' || code === 'EIO', String(error));
      failed++;
    }
  t.log(`${failed} of 5 files could not be read`);
  t.is((await scene.ps()).length, 1, 'the daemon lives');
  t.is(await readFile(join(target, 'srv/hard/empty'), 'utf8'), '');
  await scene.umount(target);
  await scene.daemonGone();
});

test.serial('a program runs from a mounted image', async (t) => {
  const { scene, image, target, proxy } = await stage(t);
  await scene.mount(image('lazy'), target, '--no-background-fetch', '--rw');
  const { status, stdout } = await outcomeOf('chroot', [
    target,
    '/bin/sh',
    '-c',
    'echo hello >/tmp/x && cat /tmp/x && ls /srv/hard/many | wc -l',
  ]);
  t.is(status, 0);
  t.is(stdout.toString(), 'hello\n1499\n');
  t.true(proxy.bytes < (await scene.ps())[0].totalBytes / 2);
  await scene.umount(target);
});

test.serial('what cannot be mounted is refused with a reason and leaves nothing', async (t) => {
  const { scene, image, target } = await stage(t);
  const file = join(scene.directory, 'file');
  await writeFile(file, '');
  await symlink(target, join(scene.directory, 'link'));
  for (const [reference, at, reason] of [
    [image('no-such'), target, /no-such/],
    [image('lazy'), join(scene.directory, 'missing'), /missing/],
    [image('lazy'), file, /directory/],
    ['Not A Reference', target, /Not A Reference/],
  ] as const) {
    const { status, stderr } = await scene.lazylayer('mount', ['--detach', reference, at]);
    t.true(status === 1 || status === 2, `${reference}: ${status}`);
    t.regex(stderr, reason);
    t.notRegex(stderr, /^\s+at /m, 'no stack trace');
  }
  await scene.mount(image('prefetch'), join(scene.directory, 'link'), '--no-background-fetch');
  const twice = await scene.lazylayer('mount', ['--detach', image('prefetch'), target]);
  t.is(twice.status, 1);
  t.regex(twice.stderr, /mounted already/);
  await scene.umount(target);
  await scene.daemonGone();
  t.deepEqual(await scene.mounted(), []);
});

test.serial(
  'files that are open on a mount that was taken away lazily are read to their end; then the daemon ends',
  async (t) => {
    const { scene, image, target, fixtures } = await stage(t);
    await scene.mount(image('lazy'), target, '--no-background-fetch');
    const file = await open(join(target, 'srv/hard/small'));
    try {
      await scene.succeed('umount', '--lazy', target);
      t.deepEqual(await scene.ps(), []);
      t.deepEqual(await scene.mounted(), []);
      t.is(await file.readFile('utf8'), 'small\n', 'it had not been read before');
    } finally {
      await file.close();
    }
    await scene.daemonGone();
    await scene.mount(image('lazy'), target, '--no-background-fetch');
    t.is(await digestOf(target, 'random'), await digestOf(fixtures.reference.lazy, 'random'));
    await scene.umount(target);
  },
);
