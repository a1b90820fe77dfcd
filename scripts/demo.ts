import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Scene } from '../native-tests/support/scene.js';
import { requirePrograms, run, Teardown } from '../native-tests/support/tools.js';
import { startTestRegistry, type TestRegistry } from '../src/testing/registry.js';
import { convertTar } from './lib/convert.js';
import { publish, type PublishedImage } from './lib/publish.js';

/*
 * The main job, start to end: an image made from this machine's own files, in a registry behind a network of ordinary speed, is
 * mounted lazily and used; beside it the same image is pulled whole. Everything is in one temporary directory, gone at the end.
 */

/** What is imitated on loopback: a round trip, and the speed of one connection. */
const network = { latencyMs: 20, bytesPerMs: 12_500 };

const megabytes = (bytes: number) => `${(bytes / 1e6).toFixed(1)} MB`;
const say = (text = '') => process.stdout.write(`${text}\n`);

/** The container's work. Its first line is the first useful output. */
const job = `#!/bin/sh
. /etc/os-release
set -e
echo "running in: $PRETTY_NAME"
echo "files in the image: $(find /etc /usr /srv -xdev | wc -l)"
sha256sum /srv/app/job
seq 1000 | sort -rn | head -n 1
`;

/** Three lists of files for tar, relative to /: what the job runs, a lot that it does not need, and the job. */
const listFiles = `
set -eu
cd /
programs='sh find wc sha256sum seq sort head'
for link in bin sbin lib lib64; do [ ! -L "$link" ] || echo "$link"; done >"$1/base"
for program in $programs; do
  path=$(command -v "$program")
  echo "$path"
  realpath "$path"
  ldd "$path" | grep -o '/[^ ]*' | while read -r library; do echo "$library"; realpath "$library"; done
done | while read -r path; do
  # Merged /usr: by its real directory.
  echo "$(realpath "$(dirname "$path")")/$(basename "$path")"
done | sort -u | sed 's,^/,,' >>"$1/base"
echo etc/os-release >>"$1/base"
realpath /etc/os-release | sed 's,^/,,' >>"$1/base"
find usr/lib usr/share -xdev -type f -size -1048576c -printf '%s %p\\n' 2>/dev/null | LC_ALL=C sort -k 2 |
  awk -v keep=120000000 '{ total += $1; if (total > keep) exit; sub(/^[0-9]+ /, ""); print }' >"$1/bulk"
`;

async function makeImage(directory: string, registry: TestRegistry): Promise<PublishedImage> {
  await run('sh', ['-c', listFiles, 'sh', directory]);
  const app = join(directory, 'app');
  await mkdir(join(app, 'srv/app'), { recursive: true });
  await run('sh', ['-c', 'cat >"$0" && chmod 755 "$0"', join(app, 'srv/app/job')], { input: job });
  const ofList = (name: string) => ['tar', '-C', '/', '--no-recursion', '-T', join(directory, name), '-cf', '-'];
  const layers = [];
  for (const [name, args] of [
    ['base', ofList('base')],
    ['bulk', ofList('bulk')],
    ['app', ['tar', '-C', app, '-cf', '-', 'srv']],
  ] as const)
    layers.push(...(await convertTar(args, [join(directory, `${name}.esgz`)], { level: 3 })));
  return publish(registry, 'demo', layers);
}

interface Figures {
  readonly requests: number;
  readonly bytes: number;
  readonly firstMs: number;
  readonly allMs: number;
  readonly output: string;
}

const sentBy = (registry: TestRegistry) => registry.requests.reduce((sum, request) => sum + request.bytes, 0);

/** Runs the job in a tree and tells when its first line and its end came, in milliseconds since `started`. */
async function runJob(tree: string, started: number): Promise<Pick<Figures, 'firstMs' | 'allMs' | 'output'>> {
  const child = spawn('chroot', [tree, '/bin/sh', '/srv/app/job'], { stdio: ['ignore', 'pipe', 'inherit'] });
  let output = '';
  let firstMs = NaN;
  child.stdout.on('data', (bytes: Buffer) => {
    if (output === '') firstMs = performance.now() - started;
    output += bytes.toString();
  });
  const [status] = (await once(child, 'close')) as [number | null];
  if (status !== 0) throw new Error(`the job in ${tree} ended with ${status}`);
  return { firstMs, allMs: performance.now() - started, output };
}

async function lazily(scene: Scene, registry: TestRegistry, image: PublishedImage): Promise<Figures> {
  const target = await scene.mountPoint('image');
  registry.reset();
  const started = performance.now();
  await scene.mount(image.reference, target, '--no-background-fetch');
  say(`mounted after ${Math.round(performance.now() - started)} ms and ${registry.requests.length} requests:`);
  const figures = await runJob(target, started);
  say(figures.output.replace(/^/gm, '    ').trimEnd());
  const [info] = await scene.ps();
  say(`lazylayer ps: ${info.image}: ${megabytes(info.fetchedBytes)} of ${megabytes(info.totalBytes)} fetched`);
  const result = { ...figures, requests: registry.requests.length, bytes: sentBy(registry) };
  await scene.umount(target);
  return result;
}

async function pulled(directory: string, registry: TestRegistry, image: PublishedImage): Promise<Figures> {
  const tree = join(directory, 'pulled');
  await mkdir(tree);
  registry.reset();
  const started = performance.now();
  for (const url of image.blobUrls) await run('sh', ['-c', 'curl -sSf "$0" | gunzip -q | tar -x -C "$1"', url, tree]);
  const figures = await runJob(tree, started);
  return { ...figures, requests: registry.requests.length, bytes: sentBy(registry) };
}

function table(lazy: Figures, pull: Figures, image: PublishedImage): void {
  const row = (name: string, a: string, b: string) => say(`  ${name.padEnd(32)}${a.padStart(16)}${b.padStart(16)}`);
  const ms = (value: number) => `${Math.round(value)} ms`;
  say();
  row('', 'lazy mount', 'full pull');
  row('requests (blobs of the pull)', `${lazy.requests}`, `${pull.requests}`);
  row(`bytes, of ${megabytes(image.bytes)}`, megabytes(lazy.bytes), megabytes(pull.bytes));
  row('first useful output', ms(lazy.firstMs), ms(pull.firstMs));
  row('job done', ms(lazy.allMs), ms(pull.allMs));
  say();
}

async function main(): Promise<void> {
  requirePrograms('curl', 'gzip', 'mount', 'tar');
  if (process.getuid?.() !== 0) throw new Error('mounting needs root: run scripts/demo as root');
  await using cleanup = new Teardown();
  const directory = await mkdtemp(join(tmpdir(), 'lazylayer-demo-'));
  cleanup.teardown(() => rm(directory, { recursive: true, force: true }));
  const registry = await startTestRegistry({ latencyMs: network.latencyMs });
  cleanup.teardown(() => registry.stop());
  say("making an eStargz image of three layers from this machine's files ...");
  const image = await makeImage(directory, registry);
  registry.faults.add({ action: { kind: 'slow', bytesPerMs: network.bytesPerMs } });
  say(
    `${image.reference}: ${megabytes(image.bytes)} compressed, behind ${network.latencyMs} ms of latency and ` +
      `${network.bytesPerMs / 1000} MB/s a connection`,
  );
  say();
  const scene = await Scene.open(cleanup);
  const lazy = await lazily(scene, registry, image);
  await scene.daemonGone();
  const pull = await pulled(directory, registry, image);
  table(lazy, pull, image);
  if (lazy.output !== pull.output) throw new Error(`the trees differ:\n${lazy.output}\n${pull.output}`);
  const left = await scene.mounted();
  if (left.length > 0) throw new Error(`mounts left behind: ${left.join(', ')}`);
  say('both trees gave the same output; unmounted, nothing left behind');
}

main().catch((error: unknown) => {
  // What failed first, where the cleanup after it failed too.
  const cause = error instanceof Error && 'suppressed' in error ? error.suppressed : error;
  process.stderr.write(`demo: ${cause instanceof Error ? cause.message : String(cause)}\n`);
  process.exitCode = 1;
});
