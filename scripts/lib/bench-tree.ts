import { randomBytes } from 'node:crypto';
import { mkdir, open, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Scene } from '../../native-tests/support/scene.js';
import { eventually, run } from '../../native-tests/support/tools.js';
import { dropCaches } from '../../src/bench/caches.js';
import { serveImage, type BenchPart } from './bench-part.js';
import { convertTar } from './convert.js';
import { milliseconds, type Verdict } from './measure.js';

const fileCount = 20_000;
const directories = 200;
const bigBytes = 512 * 1024 * 1024;

/**
 * Opens, reads and closes the first 2,000 files again and again; prints microseconds for one. By bare system calls: Perl, as many
 * programs do, asks each file whether it is a terminal, which costs a request of a FUSE filesystem and nothing of an overlay.
 */
const openReadClose = `
const { closeSync, openSync, readSync } = require('node:fs');
const [root, passes] = process.argv.slice(1);
const pad = (n, width) => String(n).padStart(width, '0');
const names = Array.from({ length: 2000 }, (_, i) => root + '/d' + pad(i % ${directories}, 3) + '/f' + pad(i, 5));
const bytes = Buffer.alloc(8192);
const pass = () => {
  for (const name of names) {
    const fd = openSync(name);
    readSync(fd, bytes);
    closeSync(fd);
  }
};
pass();
const start = performance.now();
for (let i = 0; i < passes; i++) pass();
console.log(((performance.now() - start) * 1000) / passes / names.length);
`;

async function makeTree(directory: string): Promise<string> {
  const root = join(directory, 'plain');
  for (let d = 0; d < directories; d++) {
    const path = join(root, `d${String(d).padStart(3, '0')}`);
    await mkdir(path, { recursive: true });
    for (let f = d; f < fileCount; f += directories)
      await writeFile(join(path, `f${String(f).padStart(5, '0')}`), randomBytes(1024).toString('hex'));
  }
  // Half random, half not, as programs are.
  const text = Buffer.alloc(bigBytes / 1024, 'a line of text\n');
  await using big = await open(join(root, 'big'), 'w');
  for (let written = 0; written < bigBytes; written += 2 * text.length) {
    await big.write(randomBytes(text.length));
    await big.write(text);
  }
  return root;
}

/**
 * Backends and a plain directory, over the same files, with every chunk in the cache. Backends are held against each other in the
 * FUSE mount itself, where nothing but them makes the difference, and against the plain directory as an image is used: by its overlay.
 */
export async function benchTree(part: BenchPart): Promise<Verdict[]> {
  const { cleanup, directory, runs, measurements, say } = part;
  say(`making ${fileCount} files and one of 512 MiB`);
  const plain = await makeTree(directory);
  const layers = await convertTar(
    ['tar', '-C', plain, '--sort=name', '-cf', '-', '.'],
    [join(directory, 'tree.esgz')],
    { level: 1 },
  );
  const registry = await serveImage(part, layers);
  const candidates = new Map<string, { tree: string; fresh: () => Promise<void> }>();
  for (const backend of ['kernel', 'fuse-native']) {
    say(`mounting with ${backend} and fetching everything`);
    const scene = await Scene.open(cleanup, `[fuse]\nbackend = "${backend}"\n`);
    const target = await scene.mountPoint();
    await scene.mount(`${registry.host}/bench:1`, target);
    const wholeCache = async () => {
      const [info] = await scene.ps();
      return info.presentBytes === info.contentBytes ? true : undefined;
    };
    await eventually('everything is cached', wholeCache, 300_000);
    // A daemon that has fetched is not the daemon of a second start: begin anew, as it will run.
    const fresh = async () => {
      await scene.umount(target);
      await scene.daemonGone();
      await scene.mount(`${registry.host}/bench:1`, target, '--no-background-fetch');
    };
    await fresh();
    // The layer in the FUSE mount itself, which the overlay stands on.
    const layers = join(scene.root, 'fuse', 'l');
    const [slot] = await readdir(layers);
    candidates.set(`${backend}, layer`, { tree: join(layers, slot), fresh });
    candidates.set(backend, { tree: target, fresh });
  }
  candidates.set('plain directory', { tree: plain, fresh: async () => {} });
  for (let i = 1; i <= runs; i++) {
    say(`run ${i} of ${runs}`);
    for (const [name, { tree, fresh }] of candidates) {
      await fresh();
      await dropCaches(2);
      measurements.add('cold find', name, 'ms', await milliseconds(() => run('find', [tree])));
      await dropCaches(2);
      measurements.add(
        'cold find, with stat',
        name,
        'ms',
        await milliseconds(() => run('find', [tree, '-newermt', '2100-01-01'])),
      );
      measurements.add(
        'warm open+read+close',
        name,
        'µs',
        Number(await run(process.execPath, ['-e', openReadClose, tree, '10'])),
      );
      for (const [what, drop] of [
        ['sequential read, nothing in memory', true],
        ['sequential read, again', false],
      ] as const) {
        if (drop) await dropCaches(3);
        const ms = await milliseconds(() =>
          run('dd', [`if=${join(tree, 'big')}`, 'of=/dev/null', 'bs=1M', 'status=none']),
        );
        measurements.add(what, name, 'MB/s', bigBytes / 1000 / ms);
      }
    }
  }
  if ((await readdir(plain)).length !== directories + 1) throw new Error('the plain tree has changed');
  const ratio = (measure: string, over: string, under: string) =>
    measurements.median(measure, over) / measurements.median(measure, under);
  const verdict = (claim: string, value: number, bound: string, holds: boolean): Verdict => ({
    claim,
    value,
    bound,
    holds,
  });
  const find = ratio('cold find, with stat', 'fuse-native, layer', 'kernel, layer');
  const openReadCloses = ratio('warm open+read+close', 'fuse-native, layer', 'kernel, layer');
  const plainOpen = ratio('warm open+read+close', 'kernel, layer', 'plain directory');
  return [
    verdict('cold find with stat of a layer, fuse-native / kernel', find, 'at least 5', find >= 5),
    verdict('warm open+read+close in a layer, fuse-native / kernel', openReadCloses, 'at least 5', openReadCloses >= 5),
    verdict('warm open+read+close in a layer, kernel / plain directory', plainOpen, 'at most 1.5', plainOpen <= 1.5),
  ];
}
