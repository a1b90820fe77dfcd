import { chmod, chown, mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { program } from './support/scene.js';
import { stageFor } from './support/stage.js';
import { outcomeOf, projectRoot, requirePrograms, run, type Outcome } from './support/tools.js';

const stage = stageFor(test);

/** Runs a verb as nobody, with a home of its own and none of root's directories. */
async function asNobody(home: string, ...args: string[]): Promise<Outcome> {
  requirePrograms('setpriv');
  await mkdir(home, { recursive: true });
  await chown(home, 65534, 65534);
  const env = { PATH: process.env['PATH'], HOME: home, TMPDIR: home };
  const drop = ['--reuid', '65534', '--regid', '65534', '--clear-groups', process.execPath, program];
  return outcomeOf('setpriv', [...drop, ...args], { env, cwd: '/', timeout: 60_000 });
}

test.serial(
  'ls, cat, inspect and explain work for a user without rights, and agree with the unpacked tree',
  async (t) => {
    const { scene, image, proxy, fixtures } = await stage(t);
    await chmod(scene.directory, 0o755);
    const home = join(scene.directory, 'home');
    const succeed = async (...args: string[]) => {
      const { status, stdout, stderr } = await asNobody(home, ...args);
      t.is(status, 0, `${args.join(' ')}: ${stderr}`);
      return stdout;
    };
    const tree = fixtures.reference.lazy;

    const listed = JSON.parse((await succeed('ls', '--json', image('lazy'), '/srv/hard')).toString()) as {
      path: string;
      type: string;
      mode: string;
      uid: number;
      gid: number;
      size: number;
      target?: string;
      device?: { major: number; minor: number };
    }[];
    t.deepEqual(listed.map((file) => file.path).sort(), (await readdir(join(tree, 'srv/hard'))).sort());
    const facts = (path: string) => listed.find((file) => file.path === path);
    t.like(facts('setuid'), { type: 'file', mode: '4755' });
    t.like(facts('owner'), { uid: 4294967294, gid: 3000000000 });
    t.like(facts('absolute'), { type: 'symlink', target: '/etc/passwd' });
    t.like(facts('big-device'), { type: 'character device', device: { major: 511, minor: 1048575 } });
    t.like(facts('random'), { size: 12_000_000 });
    const long = (await succeed('ls', '-l', image('lazy'), '/srv/hard/sticky/..')).toString();
    t.regex(long, /^drwxrwxrwt .* sticky$/m);
    t.regex(long, /^lrwxrwxrwx .* relative -> \.\.\/\.\.\/etc\/group$/m);

    proxy.reset();
    t.deepEqual(await succeed('cat', image('lazy'), '/srv/hard/random'), await readFile(join(tree, 'srv/hard/random')));
    t.true(proxy.bytes < 12_000_000 * 1.3, `${proxy.bytes} bytes for a file of 12 MB`);
    t.deepEqual(
      await succeed('cat', image('lazy'), '/srv/hard/absolute', 'srv/hard/small'),
      Buffer.concat([await readFile(join(tree, 'etc/passwd')), Buffer.from('small\n')]),
    );

    const [inspected] = JSON.parse((await succeed('inspect', image('lazy'))).toString()) as {
      Digest: string;
      RootFS: { Layers: string[] };
    }[];
    const raw = await run('skopeo', ['inspect', '--tls-verify=false', `docker://${image('lazy')}`]);
    t.is(inspected.Digest, (JSON.parse(raw) as { Digest: string }).Digest);
    t.is(inspected.RootFS.Layers.length, 4);
  },
);

test.serial('explain says what a mount will do, and is right', async (t) => {
  const { scene, image, proxy, target } = await stage(t, 'prefetch = false\n');
  await chmod(scene.directory, 0o755);
  const { status, stdout, stderr } = await asNobody(join(scene.directory, 'home'), 'explain', '--json', image('mixed'));
  t.is(status, 0, stderr);
  const report = JSON.parse(stdout.toString()) as {
    digest: string;
    layers: { format: string; lazy: boolean; reason?: string; size: number; entries?: number }[];
    mount: { requests: number; bytes: number };
  };
  t.deepEqual(
    report.layers.map((layer) => layer.lazy),
    [true, false, false, false, false],
  );
  t.regex(report.layers[2].format, /zstd/);
  t.true(report.layers.slice(1).every((layer) => (layer.reason ?? '').length > 10));
  t.true((report.layers[0].entries ?? 0) > 3000);
  proxy.reset();
  await scene.mount(image('mixed'), target, '--no-background-fetch');
  t.is(proxy.requests.length, report.mount.requests);
  t.is(proxy.bytes, report.mount.bytes);
  t.is((await scene.ps())[0].digest, report.digest);
  await scene.umount(target);
});

test.serial('a user without rights cannot mount, and is told what works', async (t) => {
  const { scene, image } = await stage(t);
  await chmod(scene.directory, 0o755);
  const home = join(scene.directory, 'home');
  const { status, stderr } = await asNobody(home, 'mount', '--detach', image('lazy'), home);
  t.is(status, 1);
  t.regex(stderr, /root/);
});

test.serial('ps, cache du and cache prune tell the truth', async (t) => {
  const { scene, image, target } = await stage(t);
  t.deepEqual(await scene.ps(), []);
  await scene.mount(image('lazy'), target, '--no-background-fetch');
  await readFile(join(target, 'srv/hard/random'));
  const [info] = await scene.ps();
  t.like(info, { target, image: image('lazy'), readOnly: true, layers: 4, lazyLayers: 4 });
  t.true(info.presentBytes >= 12_000_000 && info.presentBytes < info.contentBytes);
  t.true(info.fetchedBytes >= 12_000_000 && info.fetchedBytes < info.totalBytes);
  t.regex(await scene.succeed('ps'), new RegExp(`^${target} .*4 `, 'm'));

  const usage = async () =>
    JSON.parse(await scene.succeed('cache', 'du', '--json')) as { bytes: number; layers: { inUse: boolean }[] };
  const used = await usage();
  t.true(used.bytes >= 12_000_000);
  t.is(used.layers.filter((layer) => layer.inUse).length, 4);
  await scene.succeed('cache', 'prune', '--all');
  t.is((await usage()).layers.length, 4, 'what is in use stays');
  await scene.umount(target);
  await scene.daemonGone();
  const freed = JSON.parse(await scene.succeed('cache', 'prune', '--all', '--json')) as { bytes: number };
  t.true(freed.bytes >= 12_000_000);
  t.deepEqual((await usage()).layers, []);
});

test.serial('config check names file, line and key, and every verb refuses such a file', async (t) => {
  const { scene, image } = await stage(t);
  t.is((await scene.lazylayer('config', ['check'])).status, 0);
  await writeFile(scene.config, '[fetch]\nmax_retires = 3\n');
  for (const args of [
    ['config', 'check'],
    ['ls', image('lazy')],
  ]) {
    const { status, stderr } = await scene.lazylayer(args[0], args.slice(1));
    t.is(status, 2, args[0]);
    t.true(stderr.includes(scene.config), stderr);
    t.regex(stderr, /2/);
    t.regex(stderr, /max_retires/);
  }
});

test.serial('the example of the README runs', async (t) => {
  const { image, fixtures } = await stage(t);
  const readme = await readFile(join(projectRoot, 'README.md'), 'utf8');
  const examples = [...readme.matchAll(/^```js\n(.*?)^```$/gms)].map((match) => match[1]);
  t.is(examples.length, 1);
  // Inside the package, so that it finds `lazylayer` by its name.
  const file = join(projectRoot, 'dist', `readme-example-${process.pid}.mjs`);
  t.teardown(() => rm(file, { force: true }));
  await writeFile(file, examples[0]);
  const output = await run(process.execPath, [file, image('lazy')]);
  const release = await readFile(join(fixtures.reference.lazy, 'usr/lib/os-release'), 'utf8');
  t.true(output.startsWith(`${release}\nroot\n`), output);
  t.regex(output, /\d+ requests, \d+ bytes\n$/);
});
