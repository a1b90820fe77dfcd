import { createHash } from 'node:crypto';
import { mkdir, mkdtemp, rename, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { startContainerd } from '../../native-tests/support/containerd.js';
import { startDockerRegistry } from '../../native-tests/support/docker-registry.js';
import { requirePrograms, run, Teardown } from '../../native-tests/support/tools.js';
import { benchCases, recipes } from './bench-cases.js';

/** Names in the registry of the images of a case: as it was built, as eStargz, and with what its command reads put first. */
export const forms = ['plain', 'lazy', 'optimized'] as const;
export type Form = (typeof forms)[number];

export interface BenchImages {
  /** Storage of a docker-registry that holds the images. */
  readonly storage: string;
}

const home = '/var/tmp/lazylayer-bench';
const monitored = 15;
const long = { timeout: 1_800_000 };

export const repositoryOf = (form: Form, { name, image }: { readonly name: string; readonly image: string }) =>
  `${form}/${form === 'optimized' ? name : image}`;

/** The images of every case, made now unless this machine has them: that takes a quarter of an hour, and is done once. */
export async function benchImages(say: (text: string) => void): Promise<BenchImages> {
  requirePrograms('buildah', 'containerd', 'ctr-remote', 'docker-registry', 'mmdebstrap');
  const key = createHash('sha256')
    .update(JSON.stringify([recipes, benchCases.map(imageFacts), monitored]))
    .digest('hex');
  const directory = join(home, key.slice(0, 16));
  const storage = join(directory, 'registry');
  if (await exists(directory)) return { storage };
  await mkdir(home, { recursive: true });
  await using cleanup = new Teardown();
  const unfinished = await mkdtemp(join(home, 'unfinished-'));
  cleanup.teardown(() => rm(unfinished, { recursive: true, force: true }));
  await makeImages(cleanup, unfinished, say);
  await rename(unfinished, directory);
  return { storage };
}

const imageFacts = ({ name, image, command }: (typeof benchCases)[number]) => [name, image, command];

async function makeImages(cleanup: Teardown, directory: string, say: (text: string) => void): Promise<void> {
  const storage = join(directory, 'registry');
  await mkdir(storage);
  const registry = await startDockerRegistry(cleanup, storage);
  const base = await debianBase(say);
  const work = await mkdtemp(join(home, 'unfinished-work-'));
  cleanup.teardown(() => rm(work, { recursive: true, force: true }));
  for (const { name, steps } of recipes) {
    say(`building ${name}, ${steps.length + 1} layers`);
    await buildImage(work, base, steps, `${registry.host}/plain/${name}:1`);
  }
  const containerd = await startContainerd(cleanup);
  const inRegistry = (form: Form, of: { name: string; image: string }) =>
    `${registry.host}/${repositoryOf(form, of)}:1`;
  for (const { name } of recipes) {
    say(`converting ${name}`);
    const names = { name, image: name };
    await containerd.ctr('images', 'pull', '--plain-http', inRegistry('plain', names));
    await containerd.ctrRemote(
      'images',
      'convert',
      '--oci',
      '--estargz',
      inRegistry('plain', names),
      inRegistry('lazy', names),
    );
    await containerd.push(inRegistry('lazy', names));
  }
  for (const one of benchCases) {
    say(`optimizing ${one.image} for ${one.title}`);
    const from = inRegistry('plain', one);
    const to = inRegistry('optimized', one);
    const flags = ['--oci', `--period=${monitored}`, '--args', JSON.stringify(one.command)];
    await containerd.ctrRemote('images', 'optimize', ...flags, from, to);
    await containerd.push(to);
  }
}

/** A Debian tree without its package lists, made once on a machine. */
async function debianBase(say: (text: string) => void): Promise<string> {
  const path = join(home, 'base.tar');
  if (await exists(path)) return path;
  say('making a Debian base');
  const unfinished = join(home, `unfinished-${process.pid}.tar`);
  await run('mmdebstrap', ['--quiet', '--variant=minbase', 'bookworm', unfinished], long);
  await rename(unfinished, path);
  return path;
}

async function buildImage(work: string, base: string, steps: readonly string[], reference: string): Promise<void> {
  const storage = ['--root', join(work, 'storage'), '--runroot', join(work, 'run'), '--storage-driver', 'overlay'];
  const context = join(work, 'context');
  await mkdir(context, { recursive: true });
  await run('ln', ['-f', base, join(context, 'base.tar')]);
  const file = ['FROM scratch', 'ADD base.tar /', 'ENV DEBIAN_FRONTEND=noninteractive', ...steps, 'CMD ["/bin/sh"]'];
  await writeFile(join(context, 'Containerfile'), `${file.join('\n')}\n`);
  const how = ['--isolation', 'chroot', '--network', 'host', '--layers', '--cap-add', 'all'];
  await run('buildah', [...storage, 'bud', ...how, '--tag', reference, context], long);
  await run('buildah', [...storage, 'push', '--tls-verify=false', reference, `docker://${reference}`], long);
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}
