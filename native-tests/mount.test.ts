import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import { sha256File } from './support/compare.js';
import type { SeenRequest } from './support/proxy.js';
import { differences, stageFor } from './support/stage.js';
import { eventually, run } from './support/tools.js';

const stage = stageFor(test);

const ofBackend = (backend: string) => `[fuse]\nbackend = "${backend}"\n`;

for (const backend of ['kernel', 'fuse-native'] as const) {
  test.serial(`${backend}: a mounted eStargz image is what umoci unpacks`, async (t) => {
    const { scene, image, target, fixtures } = await stage(t, ofBackend(backend));
    await scene.mount(image('lazy'), target);
    t.deepEqual(await differences({ fixtures, backend }, 'lazy', target), []);
    await scene.umount(target);
    await scene.daemonGone();
    t.deepEqual(await scene.mounted(), []);
  });

  test.serial(`${backend}: layers of every other form are downloaded, and it is said why`, async (t) => {
    const { scene, image, target, proxy, fixtures } = await stage(t, ofBackend(backend));
    const said = await scene.mount(image('mixed'), target, '--no-background-fetch');
    const layers = await layersOf(proxy.host, 'mixed');
    for (const [i, layer] of layers.entries())
      t.is(
        said.includes(layer.digest.slice('sha256:'.length, 'sha256:'.length + 12)),
        i > 0,
        `layer ${i} of mixed: ${said}`,
      );
    for (const layer of layers.slice(1)) {
      const whole = proxy.requests.filter((seen) => seen.path.endsWith(`/blobs/${layer.digest}`));
      t.is(whole.length, 1, 'a plain layer is one request');
      t.is(whole[0].bytes, layer.size);
    }
    const [info] = await scene.ps();
    t.is(info.layers, 5);
    t.is(info.lazyLayers, 1);
    t.deepEqual(await differences({ fixtures, backend }, 'odd', target), []);
    await scene.umount(target);
  });
}

interface Descriptor {
  readonly digest: string;
  readonly size: number;
}

async function layersOf(host: string, name: string): Promise<Descriptor[]> {
  const accept = 'application/vnd.oci.image.manifest.v1+json';
  const answer = await fetch(`http://${host}/v2/${name}/manifests/1`, { headers: { accept } });
  return ((await answer.json()) as { layers: Descriptor[] }).layers;
}

/**
 * What was asked for while a file of so many bytes that do not compress was read: how many requests began in it, and how many bytes
 * were in more than one. A request that begins behind the file reads ahead in the blob: whether the reader is quick enough for that is
 * a matter of time.
 */
function fetchedOnce(requests: readonly SeenRequest[], size: number): { own: number; twice: number; told: string } {
  const ranges = requests.map(({ range }) =>
    /^bytes=(\d+)-(\d+)$/
      .exec(range ?? '')!
      .slice(1)
      .map(Number),
  );
  ranges.sort(([a], [b]) => a - b);
  const begin = ranges[0][0];
  let twice = 0;
  let end = begin;
  for (const [first, last] of ranges) {
    twice += Math.max(0, Math.min(end, last + 1) - first);
    end = Math.max(end, last + 1);
  }
  return { own: ranges.filter(([first]) => first < begin + size).length, twice, told: JSON.stringify(ranges) };
}

const digestOf = (root: string, name: string) => sha256File(join(root, 'srv/hard', name));

test.serial('mounting an image of N eStargz layers is at most 3 + N requests', async (t) => {
  for (const [name, layers] of [
    ['lazy', 4],
    ['sibling', 2],
    ['prefetch', 1],
  ] as const) {
    const { scene, image, target, proxy } = await stage(t, 'prefetch = false\n');
    await scene.mount(image(name), target, '--no-background-fetch');
    t.true(proxy.requests.length <= 3 + layers, `${name}: ${JSON.stringify(proxy.requests)}`);
    t.true(proxy.requests.every((seen) => seen.method === 'GET'));
    await scene.umount(target);
  }
});

test.serial('metadata is free, a small file is one request, a big one is fetched once', async (t) => {
  const { scene, image, target, proxy, fixtures } = await stage(t);
  await scene.mount(image('lazy'), target, '--no-background-fetch');
  const mounting = proxy.bytes;
  const [info] = await scene.ps();
  t.true(mounting < info.totalBytes / 20, `mounting fetched ${mounting} of ${info.totalBytes} bytes`);

  proxy.reset();
  await run('find', [target, '-ls']);
  await run('getfattr', ['-R', '-h', '-d', '-m', '-', join(target, 'srv')]);
  t.deepEqual(proxy.requests, []);

  t.is(await readFile(join(target, 'srv/hard/small'), 'utf8'), 'small\n');
  t.is(proxy.requests.length, 1);
  t.is(proxy.requests[0].status, 206);
  t.true(proxy.bytes < 1 << 20, `a file of 6 bytes brought ${proxy.bytes}`);

  proxy.reset();
  t.is(await digestOf(target, 'random'), await digestOf(fixtures.reference.lazy, 'random'));
  const { own, twice, told } = fetchedOnce(proxy.requests, 12_000_000);
  t.true(own <= 3, `12 MB in chunks of 4 MiB: ${told}`);
  t.is(twice, 0, `bytes that were asked for twice: ${told}`);
  t.true(proxy.bytes < 12_000_000 * 1.1, `12 MB of random bytes brought ${proxy.bytes}`);

  proxy.reset();
  await run('sh', ['-c', 'echo 3 >/proc/sys/vm/drop_caches']);
  await digestOf(target, 'random');
  t.deepEqual(proxy.requests, [], 'what was read once is on disk');
  await scene.umount(target);
});

test.serial(
  'a file that is looked up comes before it is read, one in a directory that was listed does not',
  async (t) => {
    for (const config of ['', 'prefetch = false\n']) {
      const { scene, image, target, proxy } = await stage(t, config);
      await scene.mount(image('lazy'), target, '--no-background-fetch');
      proxy.reset();
      await readdir(join(target, 'etc'));
      await stat(join(target, 'etc/passwd'));
      const file = join(target, 'srv/hard/small');
      t.is((await stat(file)).size, 6);
      if (config === '') await eventually('it is asked for', async () => proxy.requests.length > 0 || undefined);
      else await sleep(500);
      t.is(proxy.requests.length, config === '' ? 1 : 0);
      t.is(await readFile(file, 'utf8'), 'small\n');
      t.is(proxy.requests.length, 1, JSON.stringify(proxy.requests));
      await scene.umount(target);
    }
  },
);

test.serial('without background fetch nothing is asked while nobody reads', async (t) => {
  const { scene, image, target, proxy } = await stage(t);
  await scene.mount(image('lazy'), target, '--no-background-fetch');
  proxy.reset();
  await sleep(2000);
  t.deepEqual(proxy.requests, []);
  await scene.umount(target);
});

test.serial('background fetch brings all of it; then the registry is not needed, also after a restart', async (t) => {
  const { scene, image, target, proxy, fixtures } = await stage(t);
  await scene.mount(image('lazy'), target);
  await eventually(
    'everything is present',
    async () => {
      const [info] = await scene.ps();
      return info.presentBytes === info.contentBytes ? true : undefined;
    },
    60_000,
  );
  await scene.umount(target);
  await scene.daemonGone();
  await proxy.switchOff();
  await scene.mount(image('lazy'), target);
  t.deepEqual(await differences({ fixtures, backend: 'kernel' }, 'lazy', target), []);
  await scene.umount(target);
});

test.serial(
  'the same digest after a restart asks nothing, and cached files are read with the registry off',
  async (t) => {
    const { scene, image, target, proxy, fixtures } = await stage(t);
    await scene.mount(image('lazy'), target, '--no-background-fetch');
    const expected = await digestOf(target, 'random');
    const [{ digest }] = await scene.ps();
    const pinned = `${proxy.host}/lazy@${digest}`;
    await scene.umount(target);
    await scene.mount(pinned, target, '--no-background-fetch');
    await scene.umount(target);
    await scene.daemonGone();

    proxy.reset();
    await scene.mount(pinned, target, '--no-background-fetch');
    t.is(await digestOf(target, 'random'), expected);
    t.deepEqual(proxy.requests, []);
    await scene.umount(target);
    await scene.daemonGone();

    await scene.mount(image('lazy'), target, '--no-background-fetch');
    t.deepEqual(
      proxy.requests.map(({ path }) => path),
      ['/v2/lazy/manifests/1'],
      'a tag is asked for again, and nothing else',
    );
    await scene.umount(target);

    await proxy.switchOff();
    const said = await scene.mount(image('lazy'), target, '--no-background-fetch');
    t.regex(said, /could not be asked/, 'a tag that could not be asked for is told of');
    t.is(await digestOf(target, 'random'), expected);
    const error = await t.throwsAsync(readFile(join(target, 'srv/hard/text')), { instanceOf: Error });
    t.is((error as NodeJS.ErrnoException).code, 'EIO', 'what is not there cannot be read');
    await proxy.switchOn();
    t.is(await digestOf(target, 'text'), await digestOf(fixtures.reference.lazy, 'text'), 'the next read tries again');
    await scene.umount(target);
  },
);

test.serial('a prefetch landmark brings its files before they are read', async (t) => {
  const { scene, image, target, proxy } = await stage(t);
  await scene.mount(image('prefetch'), target, '--no-background-fetch');
  await eventually('the prefetched file is present', async () =>
    (await scene.ps())[0].presentBytes > 0 ? true : undefined,
  );
  proxy.reset();
  t.is(await readFile(join(target, 'srv/sibling/first'), 'utf8'), 'first\n');
  t.deepEqual(proxy.requests, []);
  await readFile(join(target, 'srv/sibling/random'));
  t.not(proxy.requests.length, 0, 'what lies behind the landmark is fetched when it is read');
  await scene.umount(target);
});

test.serial('an image index gives the platform that is asked for', async (t) => {
  const { scene, image, target } = await stage(t);
  await scene.mount(image('index'), target, '--no-background-fetch', '--platform', 'linux/arm64');
  t.deepEqual(await readdir(target), ['srv']);
  await scene.umount(target);
  const none = await scene.lazylayer('mount', ['--detach', '--platform', 'linux/s390x', image('index'), target]);
  t.not(none.status, 0);
  t.regex(none.stderr, /linux\/s390x/);
  t.regex(none.stderr, /linux\/arm64/, 'it says what there is');
});

test.serial('images that share layers share their trees and chunks', async (t) => {
  // Bash is a program: what it names would come while it is counted.
  const { scene, image, target, proxy, fixtures } = await stage(t, 'prefetch = false\n');
  const other = await scene.mountPoint('other');
  await scene.mount(image('lazy'), target, '--no-background-fetch');
  const bash = await sha256File(join(target, 'usr/bin/bash'));
  proxy.reset();
  await scene.mount(image('sibling'), other, '--no-background-fetch');
  const shared = (await layersOf(proxy.host, 'sibling'))[0];
  t.deepEqual(
    proxy.requests.filter((seen) => seen.path.endsWith(shared.digest)),
    [],
  );
  proxy.reset();
  t.is(await sha256File(join(other, 'usr/bin/bash')), bash);
  t.deepEqual(proxy.requests, []);
  t.is((await scene.ps()).length, 2);
  await scene.umount(target);
  t.is(
    await readFile(join(other, 'etc/debian_version'), 'utf8'),
    await readFile(join(fixtures.reference.lazy, 'etc/debian_version'), 'utf8'),
  );
  await scene.umount(other);
});

test.serial('mounts asked for at once share one daemon and one set of requests', async (t) => {
  const { scene, image, proxy } = await stage(t, 'prefetch = false\n');
  const targets = await Promise.all(['a', 'b', 'c', 'd'].map((name) => scene.mountPoint(name)));
  await Promise.all(targets.map((target) => scene.mount(image('lazy'), target, '--no-background-fetch')));
  t.is((await scene.ps()).length, 4);
  t.is(new Set((await scene.ps()).map((info) => info.pid)).size, 1);
  const paths = proxy.requests.map((request) => request.path);
  t.is(new Set(proxy.blobRequests.map((r) => r.path)).size, proxy.blobRequests.length, 'nothing is fetched twice');
  t.true(paths.filter((path) => path.includes('/manifests/')).length <= 4, 'the tag is asked for once a mount at most');
  const texts = await Promise.all(targets.map((target) => readFile(join(target, 'srv/hard/small'), 'utf8')));
  t.deepEqual(texts, Array<string>(4).fill('small\n'));
  await Promise.all(targets.map((target) => scene.umount(target)));
  await scene.daemonGone();
  t.deepEqual(await scene.mounted(), []);
});
