import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Scene } from '../../native-tests/support/scene.js';
import { ServedScene } from '../../native-tests/support/serve.js';
import { codeOf } from '../../src/errors.js';
import type { Snapshotter } from '../../src/snapshot/snapshotter.js';
import { connectSnapshots } from '../../src/testing/snapshots-client.js';
import { serveImage, type BenchPart } from './bench-part.js';
import { convertTar, type ConvertedLayer } from './convert.js';
import { milliseconds, type Verdict } from './measure.js';

const layerCount = 6;
const filesPerLayer = 2000;
const wantedMs = 400;
/** Snapshots made, mounted, committed and removed; each is four operations. */
const rounds = 200;
const wantedOperations = 300;

/** One layer of small files, as an eStargz blob. */
async function makeLayer(directory: string, number: number): Promise<ConvertedLayer> {
  const tree = join(directory, `tree${number}`);
  for (let i = 0; i < filesPerLayer; i++) {
    const path = join(tree, `layer${number}`, `d${i % 50}`);
    if (i < 50) await mkdir(path, { recursive: true });
    await writeFile(join(path, `f${i}`), `${number} ${i} `.repeat(300));
  }
  const [layer] = await convertTar(['tar', '-C', tree, '-cf', '-', '.'], [join(directory, `layer${number}.esgz`)], {
    level: 6,
  });
  return layer;
}

export async function benchSnapshots(part: BenchPart): Promise<Verdict[]> {
  const { directory, runs, measurements, say } = part;
  say(`an image of ${layerCount} layers, ${filesPerLayer} files each`);
  const layers: ConvertedLayer[] = [];
  for (let number = 0; number < layerCount; number++) layers.push(await makeLayer(directory, number));
  const digests = layers.map(({ result }) => result.digest);
  const { host } = await serveImage(part, layers);
  const lazy = 'lazy image of 6 layers, first Prepare to last answer';
  const ordinary = 'ordinary snapshots, Prepare + Mounts + Commit + Remove';
  for (let i = 1; i <= runs; i++) {
    say(`run ${i} of ${runs}`);
    await withDaemon(part, async (snapshotter) => {
      const ms = await milliseconds(() => pullLazily(snapshotter, `${host}/bench:1`, digests));
      measurements.add(lazy, 'lazylayer', 'ms', ms);
    });
    await withDaemon(part, async (snapshotter) => {
      const ms = await milliseconds(() => makeOrdinary(snapshotter));
      measurements.add(ordinary, 'lazylayer', 'ops/s', (rounds * 4 * 1000) / ms);
    });
  }
  const ms = measurements.median(lazy, 'lazylayer');
  const operations = measurements.median(ordinary, 'lazylayer');
  return [
    { claim: `${lazy}, in ms`, value: ms, bound: `under ${wantedMs}`, holds: ms < wantedMs },
    {
      claim: `${ordinary}, operations a second`,
      value: operations,
      bound: `at least ${wantedOperations}`,
      holds: operations >= wantedOperations,
    },
  ];
}

/** A daemon with a root of its own, that nobody has asked for anything. */
async function withDaemon(part: BenchPart, work: (snapshotter: Snapshotter) => Promise<void>): Promise<void> {
  const scene = await Scene.open(part.cleanup, '[fetch]\nbackground = false\n');
  const served = new ServedScene(part.cleanup, scene);
  await served.start();
  {
    await using snapshotter = connectSnapshots(served.address);
    // The connection is no part of what is measured: containerd's is there for long.
    await snapshotter.cleanup();
    await work(snapshotter);
  }
  await served.stop();
}

/** As containerd unpacks: each layer by its chain, the next one when the answer says that this one is there already. */
async function pullLazily(snapshotter: Snapshotter, reference: string, digests: readonly string[]): Promise<void> {
  const prefix = 'containerd.io/snapshot';
  let parent = '';
  for (const [i, digest] of digests.entries()) {
    const name = `chain-${i}`;
    const labels = {
      [`${prefix}.ref`]: name,
      [`${prefix}/remote/stargz.reference`]: reference,
      [`${prefix}/remote/stargz.digest`]: digest,
      [`${prefix}/remote/stargz.layers`]: digests.slice(i).join(','),
    };
    const answer = await snapshotter.prepare(`extract-${i}`, parent, { labels }).then(
      () => 'mounts: the layer is not lazy',
      (error: unknown) => codeOf(error),
    );
    if (answer !== 'ALREADY_EXISTS') throw new Error(`layer ${i}: expected ALREADY_EXISTS, found ${answer}`);
    await snapshotter.stat(name);
    parent = name;
  }
}

async function makeOrdinary(snapshotter: Snapshotter): Promise<void> {
  for (let i = 0; i < rounds; i++) {
    await snapshotter.prepare(`active-${i}`, '');
    await snapshotter.mounts(`active-${i}`);
    await snapshotter.commit(`committed-${i}`, `active-${i}`);
    await snapshotter.remove(`committed-${i}`);
  }
}
