import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { CommandLines } from '../src/ahead/command-lines.js';
import { Launchers } from '../src/ahead/launchers.js';
import { eventually, outcomeOf, requirePrograms, run } from './support/tools.js';

test('what a container is going to run is known while runc makes it', async (t) => {
  requirePrograms('runc');
  const directory = await mkdtemp(join(tmpdir(), 'lazylayer-runc-'));
  t.teardown(() => rm(directory, { recursive: true, force: true }));
  // As where bundles lie, whatever this machine's root is: of an overlay nothing is opened.
  await run('mount', ['-t', 'tmpfs', 'tmpfs', directory]);
  t.teardown(() => run('umount', ['-l', directory]));
  const [bundle, state, told, go] = ['bundle', 'state', 'told', 'go'].map((name) => join(directory, name));
  await mkdir(join(bundle, 'rootfs', 'proc'), { recursive: true });
  await run('runc', ['spec', '--bundle', bundle]);
  const file = join(bundle, 'config.json');
  const config = JSON.parse(await readFile(file, 'utf8')) as { process: object; hooks?: object };
  config.process = {
    ...config.process,
    terminal: false,
    args: ['tool', '/srv/main.py'],
    cwd: '/srv',
    env: ['PATH=/opt/bin:/bin'],
  };
  // Tells which process becomes the container, and holds its runtime up.
  const wait = `cat >${told}.new; mv ${told}.new ${told}; while [ ! -e ${go} ]; do sleep 0.05; done`;
  config.hooks = { createRuntime: [{ path: '/bin/sh', args: ['sh', '-c', wait], env: ['PATH=/usr/bin:/bin'] }] };
  await writeFile(file, JSON.stringify(config));

  const runc = ['--root', state];
  t.teardown(() => outcomeOf('runc', [...runc, 'delete', '--force', 'made']));
  const creating = outcomeOf('runc', [...runc, 'create', '--bundle', bundle, 'made']);
  try {
    const json = await eventually('runc has made the first process', () =>
      readFile(told, 'utf8').catch(() => undefined),
    );
    const { pid } = JSON.parse(json) as { pid: number };
    t.deepEqual(await new Launchers(new CommandLines()).invocation(pid), {
      commands: [{ program: 'tool', words: ['tool', '/srv/main.py'] }],
      path: ['/opt/bin', '/bin'],
      directory: '/srv',
    });
  } finally {
    await writeFile(go, '');
    await creating; // there is no such program in it
  }
});
