import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { buildImage, type BuiltImage } from '../src/testing/image.js';
import { fileOf, type FileSpec } from '../src/testing/image-files.js';
import { startTestRegistry, type TestRegistry, type TestRegistryOptions } from '../src/testing/registry.js';
import type { FaultAction } from '../src/testing/registry-faults.js';
import { Scene } from './support/scene.js';
import { eventually } from './support/tools.js';

/*
 * A registry that misbehaves, read through a real mount. The registry is in this process, the serving process is another one.
 * Whatever happens: a right answer or a clear error, never a wrong byte, and right again once the registry is.
 */

const impatient = [
  '[fetch]',
  'prefetch = false',
  'max_retries = 2',
  'min_wait_msec = 5',
  'max_wait_msec = 20',
  'max_retry_after_sec = 1',
  'connect_timeout_sec = 1',
  // As short as a busy machine allows: an answer that comes must not be taken for one that does not.
  'headers_timeout_sec = 0.6',
  'body_timeout_sec = 0.6',
].join('\n');
const patient = impatient.replaceAll(/^(headers|body)_timeout_sec = .*$/gm, '$1_timeout_sec = 60');

const manifestType = 'application/vnd.oci.image.manifest.v1+json';

async function stage(
  t: ExecutionContext,
  image: BuiltImage,
  { config = impatient, ...options }: TestRegistryOptions & { readonly config?: string } = {},
) {
  t.timeout(300_000);
  const registry = await startTestRegistry(options);
  t.teardown(() => registry.stop());
  publish(registry, image);
  const scene = await Scene.open(t, config);
  return { registry, scene, reference: `${registry.host}/test:1`, target: await scene.mountPoint() };
}

function publish(registry: TestRegistry, image: BuiltImage): void {
  for (const blob of [...image.layers, image.config]) registry.putBlob(blob.bytes, blob.descriptor.mediaType);
  registry.putManifest('test', '1', image.manifest.bytes, manifestType);
}

/** A file whose content is told by its number, too large to be brought along with its neighbours. */
/** Each with an ending of its own: none is of the kind that a reader of another reads, so none is brought with it. */
const nameOf = (seed: number) => `f.of-${seed}`;
const numbered = (seed: number): FileSpec => ({ path: nameOf(seed), size: 400_000, seed });
const contentOf = (seed: number) => fileOf(numbered(seed)).content;

async function attempt(path: string): Promise<Buffer | string> {
  try {
    return await readFile(path);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code ?? String(error);
  }
}

interface ReadFault {
  readonly actions: readonly FaultAction[];
  /** What the read must come to while every request is struck; right bytes or an error where not given. */
  readonly always?: 'right' | 'EIO';
  /** What it must come to when only the first request is struck. */
  readonly once?: 'right';
}

const brief = { always: 'EIO', once: 'right' } as const;
const harmless = { always: 'right', once: 'right' } as const;

const readFaults: Readonly<Record<string, ReadFault>> = {
  'wrong bytes': { actions: [{ kind: 'corrupt', offset: 0, length: 1 << 30 }], always: 'EIO' },
  'a truncated body': { ...brief, actions: [{ kind: 'truncate', after: 1000 }] },
  'a truncated body without Content-Length': {
    actions: [{ kind: 'chunked' }, { kind: 'truncate', after: 1000 }],
    always: 'EIO',
  },
  'an empty body without Content-Length': {
    actions: [{ kind: 'chunked' }, { kind: 'truncate', after: 0 }],
    always: 'EIO',
  },
  'a reset connection': { ...brief, actions: [{ kind: 'reset', after: 1000 }] },
  'a body that stalls': { ...brief, actions: [{ kind: 'stall', after: 1000 }] },
  'no answer at all': { ...brief, actions: [{ kind: 'hang' }] },
  'another Content-Range': { actions: [{ kind: 'content-range', value: 'bytes 0-9/10' }], always: 'EIO' },
  'a Content-Range that makes no sense': { actions: [{ kind: 'content-range', value: 'bytes nonsense' }] },
  'a missing Content-Length': { ...harmless, actions: [{ kind: 'chunked' }] },
  'a gzip content encoding': { actions: [{ kind: 'gzip' }], always: 'EIO' },
  'a Content-Length that is too large': { actions: [{ kind: 'excess', bytes: 100 }] },
  'a slow body': { ...harmless, actions: [{ kind: 'slow', bytesPerMs: 1000 }] },
  'a late answer': { ...harmless, actions: [{ kind: 'latency', ms: 50 }] },
  'status 401': { actions: [{ kind: 'status', status: 401 }], always: 'EIO' },
  'status 403': { actions: [{ kind: 'status', status: 403 }], always: 'EIO' },
  'status 404': { actions: [{ kind: 'status', status: 404 }], always: 'EIO' },
  'status 416': { actions: [{ kind: 'status', status: 416 }], always: 'EIO' },
  'status 429': { ...brief, actions: [{ kind: 'status', status: 429 }] },
  'status 429 with Retry-After': { ...brief, actions: [{ kind: 'status', status: 429, retryAfter: '0' }] },
  'status 429 with a Retry-After of an hour': {
    actions: [{ kind: 'status', status: 429, retryAfter: '3600' }],
    always: 'EIO',
  },
  'status 500': { ...brief, actions: [{ kind: 'status', status: 500 }] },
  'status 503 with Retry-After': { ...brief, actions: [{ kind: 'status', status: 503, retryAfter: '0' }] },
  'status 204': { actions: [{ kind: 'status', status: 204 }], always: 'EIO' },
  'a redirect to where nothing is': { actions: [{ kind: 'redirect', to: '/v2/test/blobs/none' }], always: 'EIO' },
  'a redirect to where nobody listens': {
    actions: [{ kind: 'redirect', to: 'http://127.0.0.1:1/blob' }],
    always: 'EIO',
  },
  'a redirect to another scheme': { actions: [{ kind: 'redirect', to: 'file:///etc/passwd' }], always: 'EIO' },
};

test.serial('faults while a file is read: right bytes or EIO, and right once the registry is', async (t) => {
  const cases = Object.entries(readFaults).flatMap(([name, { actions, always, once }]) => [
    { what: `${name}, always`, actions, times: undefined, expected: always },
    { what: `${name}, once`, actions, times: 1, expected: once },
  ]);
  const { registry, scene, reference, target } = await stage(
    t,
    await buildImage({ layers: [cases.map((_, i) => numbered(i + 1))] }),
  );
  await scene.mount(reference, target, '--no-background-fetch');
  for (const [i, { what, actions, times, expected }] of cases.entries()) {
    // From the last file to the first: nothing that is read leads up to the next one.
    const seed = cases.length - i;
    const file = join(target, nameOf(seed));
    registry.reset();
    for (const action of actions) registry.faults.add({ path: '/blobs/', action, times });
    const found = await attempt(file);
    registry.faults.clear();
    const asked = registry.requests.length;
    t.true(asked > 0 && asked <= 12, `${what}: ${asked} requests`);
    if (typeof found !== 'string') t.deepEqual(found, contentOf(seed) as Buffer, what);
    if (expected !== undefined) t.is(typeof found === 'string' ? found : 'right', expected, what);
    t.deepEqual(await attempt(file), contentOf(seed) as Buffer, `${what}: right when it is over`);
  }
  t.is((await scene.ps()).length, 1);
  await scene.umount(target);
});

test.serial('a registry that answers ranges with the whole blob, and one that breaks off at that', async (t) => {
  for (const after of [undefined, 100]) {
    const { registry, scene, reference, target } = await stage(
      t,
      await buildImage({ layers: [[1, 2, 3].map(numbered)] }),
    );
    await scene.mount(reference, target, '--no-background-fetch');
    registry.faults.add({ path: '/blobs/', action: { kind: 'ignore-range' } });
    if (after !== undefined) registry.faults.add({ path: '/blobs/', action: { kind: 'truncate', after } });
    const found = await attempt(join(target, nameOf(2)));
    t.deepEqual(found, after === undefined ? (contentOf(2) as Buffer) : 'EIO');
    registry.faults.clear();
    for (const seed of [1, 2, 3]) t.deepEqual(await attempt(join(target, nameOf(seed))), contentOf(seed) as Buffer);
    await scene.umount(target);
  }
});

test.serial('a reader that waits for a slow registry holds up nobody else', async (t) => {
  const { registry, scene, reference, target } = await stage(
    t,
    await buildImage({ layers: [[numbered(1), numbered(2)]] }),
    { config: patient },
  );
  await scene.mount(reference, target, '--no-background-fetch');
  await readFile(join(target, nameOf(2)));
  registry.faults.add({ path: '/blobs/', action: { kind: 'hang' } });
  let waiting = true;
  const reading = attempt(join(target, nameOf(1))).finally(() => (waiting = false));
  await eventually('the read has asked', async () => (registry.requests.at(-1)?.status === 0 ? true : undefined));
  t.deepEqual(await attempt(join(target, nameOf(2))), contentOf(2) as Buffer);
  t.is(await attempt(join(target, 'none')), 'ENOENT');
  t.true(waiting);
  await registry.stop();
  t.is(await reading, 'EIO');
  await scene.umount(target);
});

test.serial('a registry that is down: EIO after bounded retries, and the next read tries again', async (t) => {
  const { registry, scene, reference, target } = await stage(t, await buildImage({ layers: [[numbered(1)]] }));
  await scene.mount(reference, target, '--no-background-fetch');
  await registry.stop();
  t.is(await attempt(join(target, nameOf(1))), 'EIO');
  await registry.start();
  t.deepEqual(await attempt(join(target, nameOf(1))), contentOf(1) as Buffer);
  await scene.umount(target);
});

test.serial('blobs on another server by signed URLs, which expire', async (t) => {
  const image = await buildImage({ layers: [[1, 2, 3, 4].map(numbered)] });
  const { registry, scene, reference, target } = await stage(t, image, { redirectBlobs: true });
  await scene.mount(reference, target, '--no-background-fetch');
  // Backwards, so that nothing is read ahead.
  const right = async (seed: number) =>
    t.deepEqual(await attempt(join(target, nameOf(seed))), contentOf(seed) as Buffer);
  await right(4);
  registry.reset();
  await right(3);
  t.deepEqual(
    registry.requests.map((r) => r.server),
    ['storage'],
    'the redirected URL is kept',
  );
  registry.expireSignatures();
  await right(2);
  registry.faults.add({ server: 'storage', action: { kind: 'status', status: 403 } });
  t.is(await attempt(join(target, nameOf(1))), 'EIO');
  registry.faults.clear();
  await right(1);
  t.notRegex(await readFile(join(scene.root, 'daemon.log'), 'utf8'), /very-secret/);
  await scene.umount(target);
});

test.serial('a private image: credentials from the auth file, tokens that expire, nothing secret told', async (t) => {
  const auth = { kind: 'bearer', username: 'user', password: 'pass-very-secret' } as const;
  const { registry, scene, reference, target } = await stage(t, await buildImage({ layers: [[1, 2].map(numbered)] }), {
    auth,
  });
  const login = async (password: string) => {
    const auths = { [registry.host]: { auth: Buffer.from(`user:${password}`).toString('base64') } };
    await writeFile(join(scene.directory, 'config.json'), JSON.stringify({ auths }));
    const env = { ...process.env, DOCKER_CONFIG: scene.directory };
    return scene.lazylayer('mount', ['--detach', '--no-background-fetch', reference, target], { env });
  };
  const refused = await login('wrong-very-secret');
  t.is(refused.status, 1);
  t.regex(refused.stderr, /401|unauthorized|denied|credentials/i);
  t.notRegex(refused.stderr, /very-secret|d3Jvbmct/);
  await scene.daemonGone();
  const accepted = await login('pass-very-secret');
  t.is(accepted.status, 0, accepted.stderr);
  t.deepEqual(await attempt(join(target, nameOf(1))), contentOf(1) as Buffer);
  registry.expireTokens();
  t.deepEqual(await attempt(join(target, nameOf(2))), contentOf(2) as Buffer);
  t.notRegex(await readFile(join(scene.root, 'daemon.log'), 'utf8'), /very-secret/);
  await scene.umount(target);
});

/** Faults while an image is mounted, by the part of the path that they strike. `healed`: with retries it still mounts. */
const mountFaults: Readonly<
  Record<string, { path: string | RegExp; action: FaultAction; times?: number; healed?: true }>
> = {
  'a wrong TOC': { path: '/blobs/LAYER', action: { kind: 'corrupt', offset: 0, length: 1 << 30 } },
  'a truncated TOC': { path: '/blobs/LAYER', action: { kind: 'truncate', after: 100 } },
  'a truncated TOC, once': { path: '/blobs/LAYER', action: { kind: 'truncate', after: 100 }, times: 1, healed: true },
  'the whole blob for the TOC': { path: '/blobs/LAYER', action: { kind: 'ignore-range' }, healed: true },
  'a TOC that does not come': { path: '/blobs/LAYER', action: { kind: 'hang' } },
  'a layer that is forbidden': { path: '/blobs/LAYER', action: { kind: 'status', status: 403 } },
  'a layer that is gone': { path: '/blobs/LAYER', action: { kind: 'status', status: 404 } },
  'a wrong config': { path: '/blobs/CONFIG', action: { kind: 'corrupt', offset: 0, length: 4 } },
  'a truncated config': { path: '/blobs/CONFIG', action: { kind: 'truncate', after: 10 } },
  'a manifest that is no JSON': { path: '/manifests/', action: { kind: 'corrupt', offset: 0, length: 4 } },
  'a truncated manifest': { path: '/manifests/', action: { kind: 'truncate', after: 50 } },
  'a manifest that fails once': {
    path: '/manifests/',
    action: { kind: 'status', status: 503 },
    times: 1,
    healed: true,
  },
  'a manifest that always fails': { path: '/manifests/', action: { kind: 'status', status: 500 } },
  'a manifest that is refused': { path: '/manifests/', action: { kind: 'status', status: 401 } },
  'a registry that says too many requests': { path: '', action: { kind: 'status', status: 429 } },
};

test.serial('faults while an image is mounted: a clear error and nothing left, or a right tree', async (t) => {
  const image = await buildImage({ layers: [[numbered(1)]] });
  const { registry, reference } = await stage(t, image);
  for (const [name, { path, action, times, healed }] of Object.entries(mountFaults)) {
    // A root of its own: what an earlier mount kept would spare this one the fault.
    const scene = await Scene.open(t, impatient);
    const target = await scene.mountPoint();
    const struck =
      typeof path === 'string'
        ? path.replace('LAYER', image.layers[0].descriptor.digest).replace('CONFIG', image.config.descriptor.digest)
        : path;
    registry.faults.add({ path: struck, action, times });
    const { status, stderr } = await scene.lazylayer('mount', ['--detach', '--no-background-fetch', reference, target]);
    registry.faults.clear();
    if (status === 0) {
      t.deepEqual(await attempt(join(target, nameOf(1))), contentOf(1) as Buffer, name);
      await scene.umount(target);
    } else {
      t.is(healed, undefined, `${name}: ${stderr}`);
      t.is(status, 1, name);
      t.regex(stderr, /expected|found|status|answered|time|closed|forbidden/i, name);
      t.notRegex(stderr, /^\s+at /m, `${name}: no stack trace`);
    }
    await scene.daemonGone();
    t.deepEqual(await scene.mounted(), [], name);
    if (status !== 0) {
      await scene.mount(reference, target, '--no-background-fetch');
      t.deepEqual(await attempt(join(target, nameOf(1))), contentOf(1) as Buffer, `${name}: right when it is over`);
      await scene.umount(target);
    }
  }
});

test.serial('a layer without a TOC digest is not served lazily, unless that is allowed', async (t) => {
  const image = await buildImage({ layers: [{ files: [numbered(1)], withoutAnnotations: true }] });
  const { scene, reference, target } = await stage(t, image);
  const said = await scene.mount(reference, target, '--no-background-fetch');
  t.regex(said, /downloaded whole/);
  t.regex(said, /TOC digest/);
  t.regex(said, /--allow-no-verification/);
  t.is((await scene.ps())[0].lazyLayers, 0);
  t.deepEqual(await attempt(join(target, nameOf(1))), contentOf(1) as Buffer);
  await scene.umount(target);
  await scene.mount(reference, target, '--no-background-fetch', '--allow-no-verification');
  t.is((await scene.ps())[0].lazyLayers, 1);
  t.deepEqual(await attempt(join(target, nameOf(1))), contentOf(1) as Buffer);
  await scene.umount(target);
});
