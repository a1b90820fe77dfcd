import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import test, { type ExecutionContext } from 'ava';
import { digestOf } from '../digest/digester.js';
import { seededBytes } from '../testing/image-files.js';
import { buildImage, type BuiltImage } from '../testing/image.js';
import { startTestRegistry } from '../testing/registry.js';
import { temporaryDirectory } from '../testing/temporary.js';

const main = new URL('main.js', import.meta.url).pathname;

interface Ran {
  readonly status: number | null;
  readonly out: Buffer;
  readonly text: string;
  readonly err: string;
}

async function scene(t: ExecutionContext) {
  const dir = await temporaryDirectory(t, 'cli');
  const env = {
    PATH: process.env.PATH,
    HOME: dir,
    TMPDIR: dir,
    LAZYLAYER_ROOT: join(dir, 'root'),
    LAZYLAYER_CONFIG: '/dev/null',
  };
  const start = (...args: string[]) => {
    const child = spawn(process.execPath, [main, ...args], { env, stdio: ['ignore', 'pipe', 'pipe'] });
    t.teardown(() => child.kill('SIGKILL'));
    return child;
  };
  const run = async (...args: string[]): Promise<Ran> => {
    const child = start(...args);
    const out: Buffer[] = [];
    const err: Buffer[] = [];
    child.stdout.on('data', (piece: Buffer) => out.push(piece));
    child.stderr.on('data', (piece: Buffer) => err.push(piece));
    const [status] = (await once(child, 'close')) as [number | null];
    const all = Buffer.concat(out);
    return { status, out: all, text: all.toString(), err: Buffer.concat(err).toString() };
  };
  return { dir, env, start, run };
}

const busybox = seededBytes(300_000, 7);

async function withImage(t: ExecutionContext) {
  const all = await scene(t);
  const registry = await startTestRegistry();
  t.teardown(() => registry[Symbol.asyncDispose]());
  const image = await buildImage({
    layers: [
      [
        { path: 'bin/' },
        { path: 'bin/busybox', content: busybox, mode: 0o4755 },
        { path: 'bin/sh', target: 'busybox' },
        { path: 'etc/' },
        { path: 'etc/gone', content: 'x' },
        { path: 'etc/os-release', content: 'NAME=Test\n' },
        { path: 'dev/' },
        { path: 'dev/null', type: 'char', devMajor: 1, devMinor: 3, mode: 0o666 },
      ],
      [{ path: 'etc/' }, { path: 'etc/.wh.gone' }, { path: 'etc/new', content: 'new\n', uid: 1000 }],
    ],
    config: { Env: ['A=b'] },
  });
  publish(registry, 'app', image);
  return { ...all, registry, image, name: `${registry.host}/app:1` };
}

function publish(registry: Awaited<ReturnType<typeof startTestRegistry>>, repository: string, image: BuiltImage): void {
  for (const { bytes, descriptor } of [...image.layers, image.config]) registry.putBlob(bytes, descriptor.mediaType);
  for (const { bytes, descriptor } of [image.manifest, image.index])
    registry.putManifest(repository, '1', bytes, descriptor.mediaType);
}

test('help and version go to stdout, and wrong usage is status 2', async (t) => {
  const { run } = await scene(t);
  const { version } = JSON.parse(await readFile('package.json', 'utf8')) as { version: string };
  t.like(await run('--version'), { status: 0, text: `${version}\n`, err: '' });
  const help = await run('mount', '--help');
  t.like(help, { status: 0, err: '' });
  t.regex(help.text, /^Usage: lazylayer mount /);
  const wrong = await run('moutn');
  t.like(wrong, { status: 2, text: '' });
  t.regex(wrong.err, /^lazylayer: unknown command 'moutn'\n\(Did you mean mount\?\)/);
});

test('config default writes what config check finds good', async (t) => {
  const { dir, run } = await scene(t);
  const { text } = await run('config', 'default');
  const path = join(dir, 'config.toml');
  await writeFile(path, text);
  t.like(await run('config', 'check', '--config', path), { status: 0, text: `${path} is good\n`, err: '' });
  const values = JSON.parse((await run('--config', path, 'config', 'check', '--json')).text) as {
    config: { root: string };
  };
  t.is(values.config.root, join(dir, 'root'));
  t.like(JSON.parse((await run('config', 'default', '--json')).text), { version: 2 });
});

test('config errors name the file, the line and the key', async (t) => {
  const { dir, run } = await scene(t);
  const path = join(dir, 'config.toml');
  await writeFile(path, 'version = 2\n[fetch]\nbackgroud = true\n');
  const message = `${path}:3: fetch.backgroud: unknown key; did you mean fetch.background?`;
  t.like(await run('config', 'check', '--config', path), { status: 2, text: '', err: `lazylayer: ${message}\n` });
  t.like(await run('ps', '--config', path), { status: 2, text: '', err: `lazylayer: ${message}\n` });
  const { status, text } = await run('config', 'check', '--json', '--config', path);
  t.is(status, 2);
  t.like(JSON.parse(text), { file: path, problems: [{ line: 3, key: 'fetch.backgroud' }] });
  t.like(await run('config', 'check', '--config', '/nowhere'), {
    status: 1,
    err: 'lazylayer: /nowhere: there is no such configuration file\n',
  });
  const absent = await run('config', 'check', '--json', '--config', '/nowhere');
  t.is(absent.status, 1);
  const problems = [{ message: '/nowhere: there is no such configuration file' }];
  t.deepEqual(JSON.parse(absent.text), { file: null, problems });
  t.like(await run('ps', '--config', dir), {
    status: 1,
    err: `lazylayer: ${dir}: expected a configuration file, found what cannot be read: EISDIR: illegal operation on a directory, read\n`,
  });
});

test('an empty argument, as of a variable that is unset, names no directory', async (t) => {
  const { run } = await scene(t);
  for (const args of [
    ['umount', '-l', ''],
    ['store', ''],
    ['config', 'podman', ''],
    ['mount', 'image', ''],
    ['mount', '--upper', '', 'image', '/mnt'],
  ])
    t.like(
      await run(...args),
      { status: 2, text: '', err: "lazylayer: expected a directory, found ''\n" },
      args.join(),
    );
});

test('a signal ends at once what does not know what to do at it', async (t) => {
  const { env } = await scene(t);
  // Waits for its standard input to end.
  const child = spawn(process.execPath, [main, 'store-credential'], { env, stdio: ['pipe', 'ignore', 'ignore'] });
  t.teardown(() => child.kill('SIGKILL'));
  const caught = async () => {
    const status = await readFile(`/proc/${child.pid}/status`, 'utf8');
    return (BigInt(`0x${/^SigCgt:\t(\w+)$/m.exec(status)![1]}`) & (1n << 14n)) !== 0n; // SIGTERM is 15, counted from 1
  };
  while (!(await caught())) await setTimeout(10);
  await setTimeout(300); // it reads by now
  child.kill('SIGTERM');
  const [status] = (await once(child, 'exit')) as [number | null];
  t.is(status, 130);
});

test('without a daemon: nothing is mounted, the cache is empty, and no root is made', async (t) => {
  const { env, run } = await scene(t);
  t.like(await run('ps', '--json'), { status: 0, text: '[]\n' });
  t.like(await run('cache', 'prune'), { status: 0, text: '0 layers dropped, 0 B freed\n' });
  t.like(JSON.parse((await run('cache', 'du', '--json')).text), { bytes: 0, layers: [] });
  const { status, err } = await run('umount', '/nowhere', '/nor/here');
  t.is(status, 1);
  t.is(err.match(/^lazylayer: \/(nowhere|nor\/here) has no image mounted/gm)?.length, 2);
  t.false(existsSync(env.LAZYLAYER_ROOT));
});

test('mount finds what is wrong with its arguments before it starts a daemon', async (t) => {
  const { dir, env, run } = await scene(t);
  if (process.geteuid!() !== 0)
    return void t.regex((await run('mount', 'x', dir)).err, /^lazylayer: only root can mount/);
  t.like(await run('mount', 'x', join(dir, 'none')), {
    status: 1,
    err: `lazylayer: ${join(dir, 'none')}: expected a directory, found nothing: make it first\n`,
  });
  t.is((await run('mount', 'a//b', dir)).status, 2);
  t.false(existsSync(env.LAZYLAYER_ROOT));
});

test('ls lists names, everything by path, and what is known of each file', async (t) => {
  const { run, name } = await withImage(t);
  t.like(await run('ls', name), { status: 0, text: 'bin\ndev\netc\n', err: '' });
  t.is((await run('ls', name, '/etc')).text, 'new\nos-release\n');
  t.is((await run('ls', '-R', name)).text.split('\n').length, 9);
  const long = await run('ls', '-l', name, 'bin');
  t.is(
    long.text,
    '-rwsr-xr-x  1  0  0  300000  2024-01-02 03:04 busybox\nlrwxrwxrwx  1  0  0       7  2024-01-02 03:04 sh -> busybox\n',
  );
  t.regex((await run('ls', '-l', name, '/dev/null')).text, /^crw-rw-rw- .* 1, 3 .* \/dev\/null\n$/);
  t.deepEqual(JSON.parse((await run('ls', '--json', name, 'etc/new')).text), [
    {
      path: 'etc/new',
      type: 'file',
      mode: '0644',
      uid: 1000,
      gid: 0,
      links: 1,
      size: 4,
      modified: '2024-01-02T03:04:05Z',
      layer: 1,
    },
  ]);
  t.like(await run('ls', name, '/etc/gone'), {
    status: 1,
    text: '',
    err: 'lazylayer: /etc/gone: no such file or directory\n',
  });
});

test('cat writes bytes as they are, follows symlinks, and goes on behind a path that is not there', async (t) => {
  const { run, name, registry, image } = await withImage(t);
  const { status, out, err } = await run('cat', name, '/bin/sh', '/etc/gone', '/etc', 'etc/os-release');
  t.is(status, 1);
  t.is(digestOf(out), digestOf(Buffer.concat([busybox, Buffer.from('NAME=Test\n')])));
  t.is(err, 'lazylayer: /etc/gone: no such file or directory\nlazylayer: /etc: is a directory\n');
  registry.reset();
  const again = await run('cat', name, '/bin/busybox');
  t.is(digestOf(again.out), digestOf(busybox));
  const layers = image.layers.map((layer) => layer.descriptor.digest);
  t.is(registry.requests.filter((r) => layers.some((l) => r.path.includes(l))).length, 0, 'it is in the cache');
});

test('a reader that is slow gets all, and nobody is warned', async (t) => {
  const { start, run, name } = await withImage(t);
  await run('ls', name);
  const child = start('cat', name, ...Array.from({ length: 30 }, () => '/bin/busybox'));
  let [bytes, err] = [0, ''];
  child.stderr.on('data', (piece: Buffer) => (err += piece.toString()));
  child.stdout.on('data', (piece: Buffer) => {
    bytes += piece.byteLength;
    child.stdout.pause();
    setImmediate(() => child.stdout.resume());
  });
  const [status] = (await once(child, 'close')) as [number | null];
  t.deepEqual({ status, bytes, err }, { status: 0, bytes: 30 * busybox.byteLength, err: '' });
});

test('cat ends quietly when its reader has gone', async (t) => {
  const { start, run, name } = await withImage(t);
  await run('ls', name);
  const child = start('cat', name, ...Array.from({ length: 40 }, () => '/bin/busybox'));
  let err = '';
  child.stderr.on('data', (piece: Buffer) => (err += piece.toString()));
  await once(child.stdout, 'data');
  child.stdout.destroy();
  const [status] = (await once(child, 'close')) as [number | null];
  t.deepEqual({ status, err }, { status: 0, err: '' });
});

test('inspect shows the documents as the registry has them', async (t) => {
  const { run, name, image, registry } = await withImage(t);
  const [shown] = JSON.parse((await run('inspect', name)).text) as Record<string, unknown>[];
  t.like(shown, {
    Id: image.config.descriptor.digest,
    Digest: image.manifest.descriptor.digest,
    RepoTags: [name],
    Os: 'linux',
    Architecture: 'amd64',
  });
  t.deepEqual(shown.RepoDigests, [`${registry.host}/app@${image.manifest.descriptor.digest}`]);
  t.deepEqual(shown.Config, { Env: ['A=b'] });
  t.deepEqual(
    (shown.RootFS as { Layers: string[] }).Layers,
    image.layers.map((l) => l.diffId),
  );
  t.deepEqual((await run('inspect', '--raw', 'manifest', name)).out, image.manifest.bytes);
  t.deepEqual((await run('inspect', '--raw', 'config', name)).out, image.config.bytes);
  t.is(registry.requests.filter((r) => image.layers.some((l) => r.path.includes(l.descriptor.digest))).length, 0);
});

test('explain tells what mounting takes, layer by layer, downloads nothing whole, and leaves nothing', async (t) => {
  const { dir, env, run, registry } = await withImage(t);
  const mixed = await buildImage({
    layers: [
      { files: [{ path: 'a', size: 3_000_000 }] },
      { format: 'gzip', files: [{ path: 'b', size: 3_000_000, seed: 2 }] },
      { format: 'zstd', files: [{ path: 'c', content: 'c' }] },
    ],
  });
  publish(registry, 'mixed', mixed);
  // Slower than the command is, or loopback's buffers would take the whole layer before it can hang up.
  registry.faults.add({ path: mixed.layers[1].descriptor.digest, action: { kind: 'slow', bytesPerMs: 300 } });
  const { status, text, err } = await run('explain', '--json', `${registry.host}/mixed:1`);
  t.is(status, 0, err);
  interface Cost {
    requests: number;
    bytes: number;
  }
  const report = JSON.parse(text) as { resolve: Cost; mount: Cost; size: number; layers: Record<string, unknown>[] };
  const [estargz, gzip, zstd] = report.layers;
  const sizes = mixed.layers.map((l) => l.descriptor.size);
  t.is(report.resolve.requests, 3);
  t.like(estargz, {
    lazy: true,
    format: 'eStargz',
    size: sizes[0],
    entries: 1,
    contentBytes: 3_000_000,
    prefetchBytes: undefined,
  });
  t.is((estargz.mount as Cost).requests, 1);
  t.true((estargz.mount as Cost).bytes < sizes[0]);
  t.like(gzip, { lazy: false, format: 'tar, gzip', size: sizes[1], mount: { requests: 1, bytes: sizes[1] } });
  t.like(zstd, { lazy: false, format: 'tar, zstd', mount: { requests: 1, bytes: sizes[2] } });
  t.is(typeof gzip.reason, 'string');
  t.is(report.mount.requests, 6);
  const sent = registry.requests.filter((r) => r.path.includes(mixed.layers[1].descriptor.digest));
  t.true(
    sent.every((r) => r.bytes < sizes[1]),
    'a layer was downloaded to be explained',
  );
  const table = await run('explain', `${registry.host}/mixed:1`);
  t.regex(table.text, /^LAYER +FORMAT +SIZE +CONTENT +ENTRIES +LAZY +REQUESTS +BYTES +PREFETCH$/m);
  t.regex(table.text, /^1 of 3 layers can be served lazily\.$/m);
  t.regex(table.text, /in 6 requests \(3 for manifest and config\)\.$/m);
  t.false(existsSync(env.LAZYLAYER_ROOT));
  t.deepEqual(
    (await readdir(dir)).filter((f) => f.startsWith('lazylayer-')),
    [],
  );
});

test('errors of the registry say what to do, and hold no secrets', async (t) => {
  const { run, registry } = await withImage(t);
  const { status, err } = await run('ls', `${registry.host}/nothing:1`);
  t.is(status, 1);
  t.regex(err, /^lazylayer: GET http:\/\/127\.0\.0\.1:\d+\/v2\/nothing\/manifests\/1: status 404/);
  const wrong = await run('ls', 'a//b');
  t.is(wrong.status, 2);
  t.regex(wrong.err, /^lazylayer: reference "a\/\/b": expected /);
  const closed = await run('ls', '127.0.0.1:1/x');
  t.is(closed.status, 1);
  t.regex(closed.err, /^lazylayer: .*ECONNREFUSED/);
});

test('an interruption ends a command with status 130', async (t) => {
  const { start, registry } = await withImage(t);
  registry.faults.add({ path: '/manifests/', action: { kind: 'hang' } });
  const child = start('ls', `${registry.host}/app:1`);
  let err = '';
  child.stderr.on('data', (piece: Buffer) => (err += piece.toString()));
  const waiting = setInterval(() => {
    if (registry.requests.length === 0) return;
    clearInterval(waiting);
    child.kill('SIGINT');
  }, 20);
  t.teardown(() => clearInterval(waiting));
  const [status] = (await once(child, 'close')) as [number | null];
  t.deepEqual({ status, err }, { status: 130, err: 'lazylayer: interrupted\n' });
});
