import { mkdir, rename, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { Scene } from '../../native-tests/support/scene.js';
import { run } from '../../native-tests/support/tools.js';
import { dropCaches } from '../../src/bench/caches.js';
import { readWhole } from '../../src/bench/fs/whole.js';
import { runPipeline } from '../../src/bench/processes.js';
import { serveImage, type BenchPart } from './bench-part.js';
import { convertTar, type ConvertedLayer } from './convert.js';
import { memoryOf, milliseconds, type Verdict } from './measure.js';

const home = '/var/tmp/lazylayer-fixtures';
/** Compilers and an interpreter: about 500 MB in many files of every size. */
const packages = 'python3,gcc,g++,git,perl';
const memoryLimit = 200e6;
const timeoutMs = 300_000;

/** A Debian tree, made once on a machine. */
async function debianTar(say: (text: string) => void): Promise<string> {
  const path = join(home, 'bench-debian.tar');
  const there = await stat(path).then(
    () => true,
    () => false,
  );
  if (there) return path;
  say(`installing ${packages} into a tree (once on this machine)`);
  await mkdir(home, { recursive: true });
  const unfinished = join(home, `unfinished-${process.pid}.tar`);
  await run('mmdebstrap', ['--quiet', '--variant=minbase', `--include=${packages}`, 'bookworm', unfinished], {
    timeout: 600_000,
  });
  await rename(unfinished, path);
  return path;
}

/** That tree as an image of three eStargz layers, in a registry of its own. */
export async function serveDebian(part: BenchPart): Promise<{ host: string; layers: readonly ConvertedLayer[] }> {
  const { directory, say } = part;
  const tar = await debianTar(say);
  say('converting it to three eStargz layers');
  const places = ['usr/lib/', 'usr/share/'];
  const paths = [0, 1, 2].map((i) => join(directory, `layer${i}.esgz`));
  const layerOf = (name: string) => places.findIndex((place) => name.startsWith(place)) + 1;
  const layers = await convertTar(['cat', tar], paths, { level: 6, layerOf });
  const { host } = await serveImage(part, layers);
  return { host, layers };
}

/** The whole of an image that nobody has read before, against a plain download of its blobs; and what it costs in memory. */
export async function benchImage(part: BenchPart): Promise<Verdict[]> {
  const { runs, measurements, say } = part;
  const { host, layers } = await serveDebian(part);
  const content = layers.reduce((sum, layer) => sum + layer.result.uncompressedSize, 0);
  const blobs = layers.map((layer) => `http://${host}/v2/bench/blobs/${layer.result.digest}`);
  for (let i = 1; i <= runs; i++) {
    say(`run ${i} of ${runs}: ${Math.round(content / 1e6)} MB`);
    await dropCaches(3);
    const pull = await milliseconds(async () => {
      for (const url of blobs)
        await runPipeline('curl -sSf "$0" | gunzip -q | sha256sum', [url], { signal: AbortSignal.timeout(timeoutMs) });
    });
    measurements.add('whole image, never read before', 'curl | gunzip | sha256sum', 'ms', pull);
    for (const backend of ['kernel', 'fuse-native']) await readThroughMount(part, `${host}/bench:1`, backend);
  }
  const value =
    measurements.median('whole image, never read before', 'kernel') /
    measurements.median('whole image, never read before', 'curl | gunzip | sha256sum');
  const memory = Math.max(
    ...measurements.all
      .filter((s) => s.measure.startsWith('memory') && s.candidate === 'kernel')
      .flatMap((s) => s.values),
  );
  return [
    { claim: 'whole image, kernel / curl | gunzip | sha256sum', value, bound: 'at most 1.5', holds: value <= 1.5 },
    {
      claim: 'memory of the serving process in MB',
      value: memory,
      bound: `under ${memoryLimit / 1e6}`,
      holds: memory < memoryLimit / 1e6,
    },
  ];
}

async function readThroughMount(part: BenchPart, reference: string, backend: string): Promise<void> {
  const { cleanup, measurements } = part;
  const scene = await Scene.open(cleanup, `[fuse]\nbackend = "${backend}"\n`);
  const target = await scene.mountPoint();
  await dropCaches(3);
  // Mounting is part of it: the download has no such step.
  const ms = await milliseconds(async () => {
    await scene.mount(reference, target);
    await readWhole(target, ['--xattrs'], { signal: AbortSignal.timeout(timeoutMs) });
  });
  measurements.add('whole image, never read before', backend, 'ms', ms);
  const [{ pid }] = await scene.ps();
  const memory = await memoryOf(pid);
  measurements.add('memory of the serving process, highest', backend, 'MB', memory.highest / 1e6);
  measurements.add('memory of the serving process, afterwards', backend, 'MB', memory.present / 1e6);
  await scene.umount(target);
  await scene.daemonGone();
}
