import { chmod, mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { getPriority } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { Scene } from './support/scene.js';
import { ServedScene } from './support/serve.js';
import { eventually } from './support/tools.js';

async function open(t: ExecutionContext, config = ''): Promise<{ scene: Scene; served: ServedScene }> {
  t.timeout(180_000);
  const scene = await Scene.open(t, config);
  return { scene, served: new ServedScene(t, scene) };
}

test.serial('a service manager is told when it serves and when it ends', async (t) => {
  const { scene, served } = await open(t);
  // In place of systemd's program, one that writes down what it is told.
  const programs = join(scene.directory, 'programs');
  const told = join(scene.directory, 'told');
  await mkdir(programs);
  await writeFile(join(programs, 'systemd-notify'), `#!/bin/sh\necho "$@" >>${told}\n`);
  await chmod(join(programs, 'systemd-notify'), 0o755);
  await served.start({ PATH: `${programs}:${process.env.PATH}`, NOTIFY_SOCKET: '/run/none' });
  const { holder } = await scene.processes();
  const lines = async () => (await readFile(told, 'utf8')).trim().split('\n');
  await eventually('it is told', async () => ((await readFile(told, 'utf8')).endsWith('\n') ? true : undefined));
  t.deepEqual(await lines(), [`--pid=${holder} --ready`]);
  t.is(await served.stop(), 0);
  t.deepEqual(await lines(), [`--pid=${holder} --ready`, `--pid=${holder} STOPPING=1`]);
});

test.serial('killed alone, the holder takes the serving process along, and the root is free again', async (t) => {
  const { scene, served } = await open(t);
  await served.start();
  process.kill((await scene.processes()).holder!, 'SIGKILL');
  await scene.daemonGone();
  t.deepEqual(await scene.mounted(), []);
  await served.start();
  t.is(await served.stop(), 0);
});

test.serial(
  'what answers the kernel comes first with the processor, then the main thread, and what works for long after both',
  async (t) => {
    const { scene, served } = await open(t);
    await served.start();
    const { serving } = await scene.processes();
    const own = getPriority(serving);
    const all = (await readdir(`/proc/${serving}/task`)).map((task) => getPriority(Number(task)));
    t.is(own, getPriority() - 5);
    t.is(all.filter((nice) => nice < own).length, 1);
    t.is(all.filter((nice) => nice === own).length, 1);
    t.is(await served.stop(), 0);
  },
);

test.serial('an end that is asked for twice, and while it starts, is in order', async (t) => {
  const { scene, served } = await open(t);
  served.launch();
  const holder = await eventually('the root is taken', async () => (await scene.processes()).holder);
  process.kill(holder, 'SIGINT');
  t.is(await served.stop(), 0);
  t.deepEqual(await scene.mounted(), []);
  await scene.daemonGone();
});

test.serial('without a socket there are no snapshots; a socket that somebody serves is not taken', async (t) => {
  const one = await open(t);
  await one.served.start();
  const two = await open(t);
  const refused = await two.scene.lazylayer('serve', ['--address', one.served.address]);
  t.is(refused.status, 1);
  t.regex(refused.stderr, /another process serves/);
  t.deepEqual(await two.scene.mounted(), []);

  const off = await open(t, '[snapshotter]\naddress = ""\n');
  const relative = await off.scene.lazylayer('serve', ['--address', 'x.sock']);
  t.is(relative.status, 2);
  t.regex(relative.stderr, /--address: expected the absolute path of a socket/);
});
