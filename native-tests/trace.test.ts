import { randomBytes } from 'node:crypto';
import { readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import type { TraceReport } from '../src/bench/trace/report.js';
import { DaemonClient } from '../src/daemon/client.js';
import type { Digest } from '../src/digest/digest.js';
import { buildImage } from '../src/testing/image.js';
import { startTestRegistry, type TestRegistry } from '../src/testing/registry.js';
import { elementsOf } from '../src/testing/xml.js';
import { hostPrograms } from './support/host-programs.js';
import { Scene } from './support/scene.js';
import { run } from './support/tools.js';

const name = '<script>alert("&")</script>';
const content = randomBytes(3_000_000);
const small = randomBytes(50_000);

/** `large` is the layer of the large file. */
async function registryOf(t: ExecutionContext): Promise<{ registry: TestRegistry; large: Digest }> {
  const registry = await startTestRegistry();
  t.teardown(() => registry.stop());
  const image = await buildImage({
    layers: [
      await hostPrograms('/usr/bin/cat', '/usr/bin/sh', '/usr/bin/sleep'),
      [{ path: `data/${name}`, content }],
      [{ path: 'data/small', content: small }],
    ],
    config: { Cmd: ['/usr/bin/cat', '/data/small'] },
    architecture: process.arch === 'x64' ? 'amd64' : process.arch,
  });
  for (const blob of image.blobs.values()) registry.putBlob(blob.bytes);
  registry.putManifest('img', '1', image.manifest.bytes, image.manifest.descriptor.mediaType);
  return { registry, large: image.layers[1].descriptor.digest };
}

/** What is told of requests is what the registry saw; gives the bytes of those for which somebody waited. */
function demanded(t: ExecutionContext, { requests }: TraceReport, registry: TestRegistry): number {
  let bytes = 0;
  for (const request of requests) {
    const { pathname } = new URL(request.url);
    const seen = registry.requests.filter(({ path, range }) => path === pathname && range === request.range);
    t.true(seen.length > 0, `${request.url} ${request.range}`);
    t.true(request.startMs <= request.firstByteMs! && request.firstByteMs! <= request.endMs);
    if (request.reason !== 'demand') continue;
    t.true(
      seen.some((served) => served.bytes === request.bytes),
      `${request.range}: ${request.bytes}`,
    );
    bytes += request.bytes;
  }
  return bytes;
}

/** Runs `lazylayer trace` and gives its standard output. */
async function traced(t: ExecutionContext, scene: Scene, args: readonly string[]): Promise<string> {
  const { status, stdout, stderr } = await scene.lazylayer('trace', args, { timeout: 240_000 });
  t.is(status, 0, stderr);
  return stdout.toString();
}

const background = '[fetch]\nbackground = false\n';

test.serial(
  'trace: reads and requests add up, a delay shows as a stall, and any name is safe in the page',
  async (t) => {
    t.timeout(300_000);
    const { registry } = await registryOf(t);
    const scene = await Scene.open(t, background);
    const page = join(scene.directory, 'a.html');
    const flags = ['--json', '--html', page, '--network', '60ms', '--stall', '50ms'];
    const args = [...flags, `${registry.host}/img:1`, '--', 'cat', `/data/${name}`, '/data/small'];
    const report = JSON.parse(await traced(t, scene, args)) as TraceReport;
    const { files, reads, totals, stalls, layers } = report;
    const found = files.find(({ path }) => path === `/data/${name}`)!;
    t.is(found.bytes, content.length);
    // Each byte once, unless memory is short.
    t.true(found.readBytes >= content.length && found.readBytes < 1.5 * content.length, `${found.readBytes}`);
    t.true(found.waitedMs >= 60 && found.stalls >= 1, `${found.waitedMs}`);
    t.true(files.some(({ path }) => path === '/usr/bin/cat'));
    t.is(layers.length, 3);
    const stalled = stalls.filter(({ source, endMs, startMs }) => source === 'network' && endMs - startMs >= 60);
    t.true(stalled.length > 0, 'no request is quicker than the network');
    t.is(
      reads.reduce((sum, { length }) => sum + length, 0),
      totals.readBytes,
    );
    const bytes = demanded(t, report, registry);
    t.is(totals.byReason.demand.bytes, bytes);
    t.true(totals.byReason.toc.requests > 0);
    t.true(totals.byReason.other.requests >= 2, 'manifest and config');
    t.true(totals.neededBytes > content.length && totals.ratio! < 3, `${totals.ratio}`);
    t.is(report.dropped, 0);
    const html = await readFile(page, 'utf8');
    t.true(html.includes('/data/&lt;script&gt;alert(&quot;&amp;&quot;)&lt;/script&gt;'));
    t.false(html.includes('<script'));
    t.notThrows(() => elementsOf(html.slice(html.indexOf('<body>'), html.indexOf('</html>'))));
    await rm(page);
  },
);

test.serial(
  "trace: through containerd, the image's own command, as a table; beside the machine's daemon",
  async (t) => {
    t.timeout(300_000);
    const { registry } = await registryOf(t);
    // What that one has, nobody else can: the directory is not there, the port is the registry's.
    const taken = `[store]\nmount_point = "/nowhere"\n[metrics]\naddress = "${registry.host}"\n`;
    const scene = await Scene.open(t, `log_level = "error"\n${background}${taken}`);
    const text = await traced(t, scene, ['--engine', 'containerd', '--stall', '0ms', `${registry.host}/img:1`]);
    t.regex(text, /^ *STALLED +AT +FROM +OFFSET +BYTES +FILE\n/);
    t.regex(text, / \/usr\/bin\/cat\n/);
    t.regex(text, /^ready after .*: pull .*, create .*, run .*, ready /m);
    t.regex(text, /^fetched: .* by \d+ requests/m);
  },
);

test.serial(
  'trace: a read and an answer that are still under way when it is ready, with what came so far',
  async (t) => {
    t.timeout(300_000);
    const { registry, large } = await registryOf(t);
    registry.faults.add({ path: large, action: { kind: 'slow', bytesPerMs: 200 } });
    const scene = await Scene.open(t, background);
    const flags = ['--json', '--stall', '0ms', '--ready-line', 'begun'];
    const script = `cat '/data/${name}' >/dev/null & sleep 1; echo begun; wait`;
    const args = [...flags, `${registry.host}/img:1`, '--', 'sh', '-c', script];
    const { files, reads, requests, stalls, totals, totalMs } = JSON.parse(await traced(t, scene, args)) as TraceReport;
    const held = reads.filter((read) => read.underWay === true);
    t.true(held.length > 0);
    for (const read of held) t.true(files[read.file].path === `/data/${name}` && read.endMs === totalMs);
    t.is(stalls.filter((read) => read.underWay === true).length, held.length);
    const coming = requests.filter((request) => request.underWay === true);
    t.true(coming.length > 0 && totals.requestsUnderWay === coming.length);
    for (const { blob, bytes, endMs } of coming) t.true(blob === large && bytes < content.length && endMs === totalMs);
    t.true(Math.max(...reads.map(({ startMs }) => startMs)) <= totalMs);
  },
);

for (const backend of ['kernel', 'fuse-native'])
  test.serial(`a trace of a mount by hand: from the network, then from the cache (${backend})`, async (t) => {
    t.timeout(300_000);
    const { registry } = await registryOf(t);
    const scene = await Scene.open(t);
    const target = await scene.mountPoint();
    await writeFile(scene.config, `${background}[fuse]\nbackend = "${backend}"\nerofs = false\n`);
    const sources: string[][] = [];
    for (let i = 0; i < 2; i++) {
      await scene.mount(`${registry.host}/img:1`, target);
      await using recording = await new DaemonClient(scene.root).trace();
      // By another process: this one must not wait for itself.
      await run('cmp', [join(target, 'data', name), '-'], { input: content });
      const { reads, files, requests } = await recording.finish();
      t.deepEqual(
        files.map(({ path, bytes }) => [path, bytes]),
        [[`/data/${name}`, content.length]],
      );
      t.true(reads.reduce((sum, { length }) => sum + length, 0) >= content.length);
      sources.push([...new Set(reads.map(({ source }) => source))]);
      t.is(requests.length > 0, i === 0);
      await scene.umount(target);
      await scene.daemonGone();
    }
    t.true(sources[0].includes('network'));
    t.deepEqual(sources[1], ['cache']);
  });
