import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { fsParts, type FsRuns } from '../src/bench/fs/fs.js';
import { processesWith } from '../src/bench/processes.js';
import type { StartReport } from '../src/bench/start/report.js';
import { listMounts } from '../src/util/mountinfo.js';
import { startDockerRegistry } from './support/docker-registry.js';
import { fixtureImages } from './support/fixtures.js';
import { program } from './support/scene.js';
import { eventually, outcomeOf, requirePrograms, Teardown } from './support/tools.js';

const shared = new Teardown();
let host = '';

test.before('a registry', async (t) => {
  t.timeout(600_000);
  const { storage } = await fixtureImages();
  host = (await startDockerRegistry(shared, storage, { readOnly: true })).host;
});
test.after.always('the registry ends', () => shared[Symbol.asyncDispose]());

/** A directory for temporary files, so that what is left of a run can be told. */
async function scratch(t: ExecutionContext): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'lazylayer-test-'));
  t.teardown(() => rm(directory, { recursive: true, force: true }));
  return directory;
}

async function bench(directory: string, ...args: string[]): Promise<string> {
  const env = { ...process.env, TMPDIR: directory };
  const { status, stdout, stderr } = await outcomeOf(process.execPath, [program, 'bench', ...args], {
    env,
    timeout: 240_000,
  });
  if (status !== 0) throw new Error(`bench ${args.join(' ')} ended with ${status}: ${stderr}`);
  return stdout.toString();
}

async function nothingLeft(t: ExecutionContext, directory: string, ...kept: string[]): Promise<void> {
  t.deepEqual((await readdir(directory)).sort(), kept.sort());
  t.deepEqual(
    (await listMounts()).filter(({ target }) => target.startsWith(directory)),
    [],
  );
  for (const name of await readdir('/proc')) {
    const args = /^\d+$/.test(name) ? await readFile(`/proc/${name}/cmdline`, 'utf8').catch(() => '') : '';
    t.false(args.includes(`${directory}/lazylayer-bench-`), args.replaceAll('\0', ' '));
  }
}

test.serial('bench start: a full pull, lazily, and another image, through containerd', async (t) => {
  t.timeout(300_000);
  const directory = await scratch(t);
  const files = ['--svg', join(directory, 'a.svg'), '--html', join(directory, 'a.html')];
  const images = ['--full', `${host}/plain:1`, '--optimized', `${host}/sibling:1`, `${host}/lazy:1`];
  const text = await bench(
    directory,
    'start',
    '--json',
    '-n',
    '1',
    '--network',
    '4ms',
    ...files,
    ...images,
    '--',
    'cat',
    '/etc/hostname',
    '/etc/debian_version',
  );
  const { columns, network, engine } = JSON.parse(text) as StartReport;
  t.deepEqual([network, engine], ['4ms', 'containerd']);
  t.deepEqual(
    columns.map(({ image }) => image),
    ['plain', 'lazy', 'sibling'].map((name) => `${host}/${name}:1`),
  );
  const [full, lazy, sibling] = columns.map(({ runs }) => runs[0]);
  for (const { phases, totalMs, output, requests, connections } of [full, lazy, sibling]) {
    t.regex(output, /^12\./m);
    t.true(connections > 0);
    const sum = Object.values(phases).reduce((all, ms) => all + ms, 0);
    t.true(Math.abs(sum - totalMs) < 1e-3, `${sum} of ${totalMs}`);
    for (const { startMs, firstByteMs } of requests)
      t.true(startMs >= 0 && (firstByteMs === undefined || firstByteMs - startMs >= 3.5), 'a round trip each');
  }
  t.is(full.memory, undefined);
  t.true(lazy.memory! > 10e6);
  t.deepEqual(lazy.notes, []);
  t.true(lazy.requests.some(({ agent, range }) => agent === 'lazylayer' && range !== undefined));
  t.false(full.requests.some(({ agent }) => agent === 'lazylayer'));
  t.true(full.bytes > 20e6, `${full.bytes}`);
  t.regex(await readFile(join(directory, 'a.svg'), 'utf8'), /^<svg .*<\/svg>\n$/s);
  t.regex(await readFile(join(directory, 'a.html'), 'utf8'), /^<!doctype html>/);
  await nothingLeft(t, directory, 'a.svg', 'a.html');
});

test.serial('bench start: ready with a line, by a bare mount; a failure tells what was said', async (t) => {
  t.timeout(300_000);
  const directory = await scratch(t);
  const start = ['start', '--json', '-n', '1', '--engine', 'mount', '--ready-line', '^listen', `${host}/lazy:1`, '--'];
  const { columns } = JSON.parse(
    await bench(directory, ...start, 'sh', '-c', 'echo listening; sleep 1000'),
  ) as StartReport;
  t.is(columns.length, 1);
  t.is(columns[0].runs[0].output, 'listening\n');
  t.true(columns[0].runs[0].memory! > 10e6);
  await nothingLeft(t, directory);
  const failure = await t.throwsAsync(bench(directory, ...start, 'sh', '-c', 'echo no such thing >&2; exit 3'));
  t.regex(failure.message, /the workload ended with 3: no such thing/);
  await nothingLeft(t, directory);
});

test.serial('bench start: a full pull and lazily, through Podman', async (t) => {
  t.timeout(300_000);
  const directory = await scratch(t);
  const args = ['start', '--json', '-n', '1', '--engine', 'podman', '--full', `${host}/plain:1`, `${host}/lazy:1`];
  const { columns } = JSON.parse(await bench(directory, ...args, '--', 'cat', '/etc/debian_version')) as StartReport;
  const [full, lazy] = columns.map(({ runs }) => runs[0]);
  for (const { phases, totalMs, output } of [full, lazy]) {
    t.regex(output, /^12\./);
    const sum = Object.values(phases).reduce((all, ms) => all + ms, 0);
    t.true(Math.abs(sum - totalMs) < 1e-3, `${sum} of ${totalMs}`);
  }
  t.is(full.memory, undefined);
  t.true(lazy.memory! > 10e6);
  t.deepEqual(lazy.notes, []);
  t.true(full.bytes > 20e6 && lazy.bytes < full.bytes / 2, `${full.bytes}, ${lazy.bytes}`);
  t.true(lazy.requests.some(({ agent, range }) => agent === 'lazylayer' && range !== undefined));
  await nothingLeft(t, directory);
});

test.serial('bench start: through Podman, what cannot be lazy is told; a server is ended', async (t) => {
  t.timeout(300_000);
  const directory = await scratch(t);
  const args = ['start', '--json', '-n', '1', '--engine', 'podman', '--full', `${host}/sibling:1`];
  const ready = ['--ready-line', '^listen', `${host}/mixed:1`, '--', 'sh', '-c', 'echo listening; sleep 1112'];
  const { columns } = JSON.parse(await bench(directory, ...args, ...ready)) as StartReport;
  const [full, mixed] = columns.map(({ runs }) => runs[0]);
  t.is(full.output, 'listening\n');
  t.deepEqual(full.notes, []);
  t.true(mixed.notes.length > 0 && mixed.notes.every((note) => note.startsWith('a layer is not lazy: ')));
  t.deepEqual(await processesWith('sleep', '1112'), []);
  await nothingLeft(t, directory);
});

test.serial('bench start: after an interruption nothing runs and nothing is mounted', async (t) => {
  t.timeout(300_000);
  const directory = await scratch(t);
  const args = [
    'bench',
    'start',
    '--ready-line',
    'never',
    `${host}/lazy:1`,
    '--full',
    `${host}/sibling:1`,
    '--',
    'sleep',
    '1111',
  ];
  const child = spawn(process.execPath, [program, ...args], {
    env: { ...process.env, TMPDIR: directory },
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  t.teardown(() => void child.kill('SIGKILL'));
  let said = '';
  child.stderr.on('data', (bytes: Buffer) => (said += bytes.toString()));
  // Its words are among the arguments of this program and of `ctr`, and then of the container's own process.
  await eventually(
    'the container runs',
    async () => ((await processesWith('sleep', '1111')).length > 2 ? true : undefined),
    60_000,
  );
  const ended = once(child, 'exit');
  child.kill('SIGINT');
  t.deepEqual(await ended, [130, null], said);
  t.deepEqual(await processesWith('sleep', '1111'), []);
  await nothingLeft(t, directory);
});

test.serial('bench fs: two trees side by side', async (t) => {
  t.timeout(300_000);
  const directory = await scratch(t);
  const trees = ['docs', 'scripts'];
  const text = await bench(directory, 'fs', '--json', '--drop-caches', '-n', '1', ...trees);
  const { trees: found } = JSON.parse(text) as { trees: FsRuns[] };
  t.deepEqual(
    found.map(({ directory }) => directory),
    trees,
  );
  for (const { figures } of found)
    t.deepEqual(
      figures.map(({ part, state }) => `${part} ${state}`),
      Object.keys(fsParts).flatMap((part) => [`${part} cold`, `${part} warm`]),
    );
  t.regex(
    await bench(directory, 'fs', '-n', '1', ...trees),
    /^PART +docs +FROM +TO +P50\/P99 +scripts +FROM +TO +P50\/P99 +RATIO\nfind +warm /,
  );
});

test.serial('bench fs: as a user without rights', async (t) => {
  requirePrograms('setpriv');
  const directory = await scratch(t);
  await chmod(directory, 0o755);
  const tree = join(directory, 'tree');
  for (const name of ['open', 'closed [x]', 'listed']) {
    await mkdir(join(tree, name), { recursive: true });
    await writeFile(join(tree, name, 'file'), 'x');
  }
  await writeFile(join(tree, 'open', 'secret'), 'x', { mode: 0o600 });
  await chmod(join(tree, 'closed [x]'), 0o700);
  await chmod(join(tree, 'listed'), 0o744);
  const asNobody = async (...args: string[]) => {
    const drop = ['--reuid', '65534', '--regid', '65534', '--clear-groups', process.execPath, program];
    const { status, stdout, stderr } = await outcomeOf('setpriv', [...drop, 'bench', 'fs', '-n', '1', ...args]);
    return { status, stdout: stdout.toString(), stderr };
  };

  const measured = await asNobody('--json', tree);
  t.is(measured.status, 0, measured.stderr);
  const { trees } = JSON.parse(measured.stdout) as { trees: FsRuns[] };
  t.deepEqual([trees[0].entries, trees[0].leftOut], [3, 3], 'the tree, what is open and its file');
  t.regex(measured.stderr, /cold figures take --drop-caches, and root\n/);
  t.true(measured.stderr.includes(`${tree}: 3 files and directories left out that this user may not read`));

  const closed = await asNobody(join(tree, 'closed [x]'));
  t.is(closed.status, 1);
  t.regex(closed.stderr, /EACCES: permission denied, .*closed \[x\]/);

  const cold = await asNobody('--drop-caches', tree);
  t.is(cold.status, 1);
  t.regex(
    cold.stderr,
    /^lazylayer: the page cache cannot be dropped: \/proc\/sys\/vm\/drop_caches: EACCES; that takes root/,
  );

  const none = await asNobody(join(tree, 'none'));
  t.is(none.status, 2);
  t.regex(none.stderr, /none: expected a directory, found nothing/);
});
