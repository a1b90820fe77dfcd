import { writeFile } from 'node:fs/promises';
import { request } from 'node:http';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { Scene } from '../native-tests/support/scene.js';
import { ServedScene } from '../native-tests/support/serve.js';
import { eventually, run, Teardown } from '../native-tests/support/tools.js';
import { formatTable, Measurements, memoryOf, milliseconds, type Verdict } from './lib/measure.js';
import { makeSleepingRoot } from './lib/sleeping-root.js';

/*
 * A daemon that knows many images: from the start of `lazylayer serve` to "serving", and the resident memory of all its processes
 * (holder and serving process; shared pages count in each), when nothing was asked for yet, when ten layers were walked through, and
 * when these were left alone.
 *
 * The exit status says whether every wanted figure holds.
 */

const wantedMs = 2000;
const wantedBytes = 250e6;
const walked = 10;
const idleSeconds = 5;

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      runs: { type: 'string', default: '3' },
      images: { type: 'string', default: '100' },
      layers: { type: 'string', default: '10' },
      entries: { type: 'string', default: '5000' },
      json: { type: 'boolean' },
    },
  });
  const [runs, images, layersPerImage, entriesPerLayer] = (['runs', 'images', 'layers', 'entries'] as const).map(
    (name) => {
      const value = Number(values[name]);
      if (Number.isInteger(value) && value >= 1) return value;
      throw new Error(`--${name}: expected a whole number from 1, found ${values[name]}`);
    },
  );
  if (process.getuid?.() !== 0) throw new Error('mounting needs root: run scripts/bench-daemon as root');
  await using cleanup = new Teardown();
  const say = (text: string) => process.stderr.write(`bench-daemon: ${text}\n`);
  const scene = await Scene.open(cleanup);
  const metrics = join(scene.directory, 'metrics.sock');
  const config = `[fuse]\nlayer_idle_sec = ${idleSeconds}\n[metrics]\naddress = "${metrics}"\n`;
  await writeFile(scene.config, config);
  say(`${images} images of ${layersPerImage} layers of ${entriesPerLayer} entries`);
  await makeSleepingRoot(scene.root, { images, layersPerImage, entriesPerLayer });

  const measurements = new Measurements();
  const start = 'from the start of the daemon to ready';
  const memory = 'resident memory of the daemon';
  for (let round = 1; round <= runs; round++) {
    say(`run ${round} of ${runs}`);
    const served = new ServedScene(cleanup, scene);
    measurements.add(start, 'lazylayer', 'ms', await milliseconds(() => served.start()));
    const { holder, serving } = await scene.processes();
    const measure = async (when: string) => {
      const each = await Promise.all([holder!, serving!].map(memoryOf));
      measurements.add(memory, when, 'MB', each.reduce((sum, { present }) => sum + present, 0) / 1e6);
      return awake(metrics);
    };
    const expectAwake = (found: number, wanted: number) => {
      if (found !== wanted) throw new Error(`expected ${wanted} layers in memory, found ${found}`);
    };
    expectAwake(await measure('nothing asked for'), 0);
    const slots = Array.from({ length: walked }, (_, i) =>
      String(1 + Math.floor((i * images * layersPerImage) / walked)),
    );
    for (const slot of slots) await run('find', [join(scene.root, 'fuse', 'l', slot), '-size', '+1G']);
    expectAwake(await measure(`${walked} layers walked`), walked);
    await eventually('layers sleep', async () => ((await awake(metrics)) === 0 ? true : undefined));
    await sleep(2000); // garbage is collected a second after
    await measure('left alone');
    await served.stop();
  }
  const ms = measurements.median(start, 'lazylayer');
  const [first, last] = ['nothing asked for', 'left alone'].map((when) => measurements.median(memory, when));
  const verdicts: Verdict[] = [
    { claim: `${start}, in ms`, value: ms, bound: `under ${wantedMs}`, holds: ms < wantedMs },
    ...[`${memory} at first, in MB`, `${memory} in the end, in MB`].map((claim, i) => {
      const value = [first, last][i];
      return { claim, value, bound: `under ${wantedBytes / 1e6}`, holds: value * 1e6 < wantedBytes };
    }),
  ];
  if (values.json === true)
    process.stdout.write(`${JSON.stringify({ runs, series: measurements.all, verdicts }, undefined, 2)}\n`);
  else process.stdout.write(`${formatTable(measurements.all, verdicts)}\n`);
  if (verdicts.some((verdict) => !verdict.holds)) process.exitCode = 1;
}

/** How many layers are in memory, as the daemon's metrics say. */
async function awake(socketPath: string): Promise<number> {
  const text = await new Promise<string>((resolve, reject) => {
    const asked = request({ socketPath, path: '/metrics' }, (answer) => {
      let body = '';
      answer.setEncoding('utf8').on('data', (piece: string) => (body += piece));
      answer.once('end', () => resolve(body));
    });
    asked.once('error', reject).end();
  });
  return Number(/^lazylayer_layers_awake (\d+)$/m.exec(text)?.[1]);
}

main().catch((error: unknown) => {
  process.stderr.write(`bench-daemon: ${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 2;
});
