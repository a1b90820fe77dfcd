import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { mkdir, mkdtemp, readdir, readFile, rename, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { startContainerd } from './containerd.js';
import { startDockerRegistry } from './docker-registry.js';
import { OciLayout, type LayerOfImage } from './oci-layout.js';
import { projectRoot, requirePrograms, run, Teardown } from './tools.js';

/**
 * Images that the native tests share, made once on a machine by the tools that people make images with. Repositories in the
 * registry, all tagged `1`:
 *
 * | name       | what                                                                                                    |
 * |------------|---------------------------------------------------------------------------------------------------------|
 * | `plain`    | four gzip layers: Debian base, hard cases, changes (buildah), and one packed by GNU tar (umoci)          |
 * | `lazy`     | the same as eStargz, by ctr-remote                                                                      |
 * | `odd`      | `plain` and a fifth layer with names that are no UTF-8                                                  |
 * | `mixed`    | `odd` with each layer in another form: eStargz, gzip, zstd, uncompressed tar, gzip                       |
 * | `sibling`  | the first layer of `lazy`, and a small eStargz layer of its own                                         |
 * | `prefetch` | that small layer alone, with a landmark that asks to fetch `srv/sibling/first` ahead                     |
 * | `index`    | an index: `lazy` for linux/amd64, the small layer alone for linux/arm64                                  |
 */
export interface Fixtures {
  /** Storage of a docker-registry that holds the images. Shared: serve it read-only. */
  readonly storage: string;
  /** What `umoci unpack` made of an image. Shared: only read it. */
  readonly reference: Readonly<Record<'lazy' | 'odd', string>>;
}

const home = '/var/tmp/lazylayer-fixtures';
const layerScripts = join(projectRoot, 'native-tests', 'support', 'layers');
const staleAfter = 24 * 3600 * 1000;

/** The shared images, made now unless this machine has them. Several processes may ask at once: one makes, the others wait. */
export async function fixtureImages(): Promise<Fixtures> {
  requirePrograms('buildah', 'containerd', 'ctr-remote', 'docker-registry', 'mmdebstrap', 'setcap', 'setfattr');
  requirePrograms('skopeo', 'tar', 'umoci', 'zstd', 'gzip', 'getfattr');
  if (process.getuid?.() !== 0) throw new Error('the native tests build and mount images: run them as root');
  const directory = join(home, await keyOfSources());
  await mkdir(home, { recursive: true });
  await using lock = new Teardown();
  await lockHome(lock);
  if (!(await exists(directory))) {
    await removeStale();
    const unfinished = await mkdtemp(join(home, 'unfinished-'));
    lock.teardown(() => rm(unfinished, { recursive: true, force: true }));
    await build(unfinished);
    await rename(unfinished, directory);
  }
  const now = new Date();
  await utimes(directory, now, now);
  const reference = (name: string) => join(directory, name, 'rootfs');
  return { storage: join(directory, 'registry'), reference: { lazy: reference('lazy'), odd: reference('odd') } };
}

/** Anything that has a part in the images' content: when it changes, they are made anew. */
async function keyOfSources(): Promise<string> {
  const hash = createHash('sha256');
  for (const name of (await readdir(layerScripts)).sort()) hash.update(await readFile(join(layerScripts, name)));
  for (const name of ['fixtures.js', 'oci-layout.js']) hash.update(await readFile(join(import.meta.dirname, name)));
  return hash.digest('hex').slice(0, 16);
}

/** Held by a program whose standard input we keep open, so that the lock ends with this process however it ends. */
async function lockHome(cleanup: Teardown): Promise<void> {
  const holder = spawn('flock', [join(home, 'lock'), 'sh', '-c', 'echo held; exec cat'], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  cleanup.teardown(async () => {
    const ended = once(holder, 'exit');
    holder.stdin.end();
    await ended;
  });
  await once(holder.stdout, 'data');
}

/** Images of older sources that nobody used for a day. */
async function removeStale(): Promise<void> {
  for (const name of await readdir(home)) {
    const path = join(home, name);
    if (name !== 'lock' && (await stat(path)).mtimeMs < Date.now() - staleAfter)
      await rm(path, { recursive: true, force: true });
  }
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}

async function build(directory: string): Promise<void> {
  await using cleanup = new Teardown();
  const work = await mkdtemp(join(home, 'unfinished-work-'));
  cleanup.teardown(() => rm(work, { recursive: true, force: true }));
  const storage = join(directory, 'registry');
  await mkdir(storage);
  const registry = await startDockerRegistry(cleanup, storage);
  const containerd = await startContainerd(cleanup);
  const layout = new OciLayout(join(work, 'oci'));
  const inRegistry = (name: string) => `${registry.host}/${name}:1`;
  const push = async (name: string) =>
    run('skopeo', [
      'copy',
      '-q',
      '--all',
      '--preserve-digests',
      '--dest-tls-verify=false',
      `oci:${layout.directory}:${name}`,
      `docker://${inRegistry(name)}`,
    ]);
  const pull = async (name: string) =>
    run('skopeo', [
      'copy',
      '-q',
      '--src-tls-verify=false',
      `docker://${inRegistry(name)}`,
      `oci:${layout.directory}:${name}`,
    ]);
  const convert = async (from: string, to: string, ...flags: string[]) => {
    await containerd.ctr('content', 'fetch', '--plain-http', inRegistry(from));
    const image = [
      '--oci',
      '--estargz',
      '--estargz-compression-level',
      '5',
      ...flags,
      inRegistry(from),
      inRegistry(to),
    ];
    await containerd.ctrRemote('images', 'convert', ...image);
    await containerd.push(inRegistry(to));
    await pull(to);
  };

  await buildByHand(work, layout);
  await push('plain');
  await push('odd');
  await convert('plain', 'lazy');
  await push('small');
  await convert('small', 'small-lazy');
  const record = join(work, 'record.json');
  await writeFile(record, JSON.stringify({ path: 'srv/sibling/first', layerIndex: 0 }) + '\n');
  await convert('small', 'prefetch', '--estargz-record-in', record);

  const lazy = await layout.layers('lazy');
  const odd = await layout.layers('odd');
  const small = await layout.layers('small-lazy');
  const [, , zstd, tar] = await Promise.all(
    odd.map(async (layer, i) => (i === 2 || i === 3 ? recompress(layout, layer, i === 2) : layer)),
  );
  await layout.tag('mixed', await layout.addImage([lazy[0], odd[1], zstd, tar, odd[4]]));
  await layout.tag('sibling', await layout.addImage([lazy[0], small[0]]));
  const platforms = await Promise.all([layout.addImage(lazy), layout.addImage(small, 'arm64')]);
  const index = platforms.map((d, i) => ({ ...d, platform: { os: 'linux', architecture: ['amd64', 'arm64'][i] } }));
  await layout.tag('index', await layout.addIndex(index));
  for (const name of ['mixed', 'sibling', 'index']) await push(name);
  for (const name of ['lazy', 'odd'])
    await run('umoci', ['unpack', '--image', `${layout.directory}:${name}`, join(directory, name)]);
}

/** `plain`, `odd` and `small` in the layout: three layers by buildah, the others packed by GNU tar and added by umoci. */
async function buildByHand(work: string, layout: OciLayout): Promise<void> {
  const base = join(work, 'base.tar');
  const left = ['locale', 'man', 'doc'].map((name) => `--dpkgopt=path-exclude=/usr/share/${name}/*`);
  await run('mmdebstrap', ['--quiet', '--variant=minbase', ...left, 'bookworm', base], { timeout: 300_000 });
  const storage = ['--root', join(work, 'storage'), '--runroot', join(work, 'run'), '--storage-driver', 'overlay'];
  const buildah = async (...args: string[]) => (await run('buildah', [...storage, ...args])).trim();
  let from = 'scratch';
  for (const name of ['base', 'hard', 'change']) {
    const container = await buildah('from', from);
    const root = await buildah('mount', container);
    if (name === 'base')
      await run('tar', ['-C', root, '--xattrs', '--xattrs-include=*', '--numeric-owner', '-xf', base]);
    await run('sh', [join(layerScripts, `${name}.sh`), root]);
    from = `localhost/${name}`;
    await buildah('commit', '--quiet', container, from);
    await buildah('rm', container);
  }
  await buildah('push', '--quiet', from, `oci:${layout.directory}:plain`);
  await buildah('rmi', '--all', '--force');
  await addLayer(work, layout, 'plain', 'posix');
  await run('umoci', ['tag', '--image', `${layout.directory}:plain`, 'odd']);
  await addLayer(work, layout, 'odd', 'names');
  await run('umoci', ['new', '--image', `${layout.directory}:small`]);
  await addLayer(work, layout, 'small', 'sibling');
}

async function addLayer(work: string, layout: OciLayout, image: string, name: string): Promise<void> {
  const tree = join(work, name);
  await mkdir(tree);
  await run('sh', [join(layerScripts, `${name}.sh`), tree]);
  const format = ['--format=posix', '--pax-option=delete=atime,delete=ctime', '--numeric-owner', '--sort=name'];
  const attributes = ['--xattrs', '--xattrs-include=*'];
  await run('tar', ['-C', tree, ...format, ...attributes, '-cf', `${tree}.tar`, 'srv']);
  await run('umoci', ['raw', 'add-layer', '--image', `${layout.directory}:${image}`, `${tree}.tar`]);
}

/** A gzip layer as zstd, or as the bare tar. */
async function recompress(layout: OciLayout, layer: LayerOfImage, zstd: boolean): Promise<LayerOfImage> {
  const to = join(layout.directory, `recompressing-${zstd}`);
  await run('sh', [
    '-c',
    `gzip -dc <"$0" ${zstd ? '| zstd -q' : ''} >"$1"`,
    layout.blobPath(layer.descriptor.digest),
    to,
  ]);
  const digest = `sha256:${(await run('sha256sum', [to])).slice(0, 64)}`;
  await rename(to, layout.blobPath(digest));
  const mediaType = `application/vnd.oci.image.layer.v1.tar${zstd ? '+zstd' : ''}`;
  return { descriptor: await layout.describe(mediaType, digest), diffId: layer.diffId };
}
