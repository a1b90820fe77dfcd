import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { runCommand } from '../../util/command.js';
import { listMounts } from '../../util/mountinfo.js';
import { unmount } from '../../util/unmount.js';

export interface PodmanConfiguration {
  /** Directory of images and containers. */
  readonly storage: string;
  /**
   * Directory of what does not last, with a path of at most 46 bytes: with a longer one Podman ends its own cleanup of a container, and
   * whoever waits for that container waits for 20 seconds more.
   */
  readonly transient: string;
  /** Is spoken to over plain HTTP. */
  readonly registry: string;
  /** Where an additional layer store is mounted. */
  readonly layers?: string;
}

/** Writes configuration for Podman and Buildah into a directory, and gives the variables by which they find it. */
export async function configurePodman(
  directory: string,
  { storage, transient, registry, layers }: PodmanConfiguration,
): Promise<Record<string, string>> {
  const file = async (name: string, lines: readonly string[]) => {
    const path = join(directory, name);
    await writeFile(path, `${lines.join('\n')}\n`);
    return path;
  };
  await mkdir(storage, { recursive: true });
  return {
    // A pull that is ended leaves its files.
    TMPDIR: storage,
    CONTAINERS_STORAGE_CONF: await file('storage.conf', [
      '[storage]',
      'driver = "overlay"',
      `graphroot = "${storage}/root"`,
      `runroot = "${transient}/run"`,
      ...(layers === undefined ? [] : ['[storage.options]', `additionallayerstores = ["${layers}:ref"]`]),
    ]),
    CONTAINERS_CONF: await file('containers.conf', [
      '[containers]',
      'netns = "host"',
      // More than this process may have, Podman cannot give.
      'default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]',
      '[engine]',
      'runtime = "runc"',
      'cgroup_manager = "cgroupfs"',
      'events_logger = "file"',
      // Those in shared memory are one set for all storages of a machine.
      'lock_type = "file"',
      `tmp_dir = "${transient}/tmp"`,
    ]),
    CONTAINERS_REGISTRIES_CONF: await file('registries.conf', [
      '[[registry]]',
      `location = "${registry}"`,
      'insecure = true',
    ]),
  };
}

/** Podman with a storage and a configuration of its own. Disposing removes containers and storage. */
export class PodmanStorage implements AsyncDisposable {
  private constructor(
    /** Variables by which Podman finds its configuration. */
    readonly env: Readonly<Record<string, string>>,
    /** All that is its own. */
    private readonly places: readonly [storage: string, transient: string],
  ) {}

  /** Makes an empty storage below a directory: see `configurePodman`. */
  static async make(
    directory: string,
    registry: string,
    layers: string | undefined,
    signal: AbortSignal,
  ): Promise<PodmanStorage> {
    const storage = join(directory, 'containers');
    const transient = await mkdtemp('/run/lazylayer-');
    const places = [storage, transient] as const;
    try {
      const made = new PodmanStorage(
        await configurePodman(directory, { storage, transient, registry, layers }),
        places,
      );
      await made.run(['images'], signal);
      return made;
    } catch (error) {
      await removePlaces(places);
      throw error;
    }
  }

  async run(args: readonly string[], signal?: AbortSignal): Promise<string> {
    return runCommand('podman', args, { env: this.env, signal });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      await this.run(['rm', '--all', '--force', '--time', '0']);
    } finally {
      await removePlaces(this.places);
    }
  }
}

/** Podman mounts its storage on itself, and leaves that. */
async function removePlaces(places: readonly string[]): Promise<void> {
  const own = ({ target }: { readonly target: string }) => places.some((place) => target.startsWith(`${place}/`));
  for (const { target } of (await listMounts()).filter(own).reverse()) await unmount(target, { lazy: true });
  for (const place of places) await rm(place, { recursive: true, force: true, maxRetries: 3 });
}
