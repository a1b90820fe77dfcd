import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { runCommand } from '../../util/command.js';
import { listMounts } from '../../util/mountinfo.js';
import { unmount } from '../../util/unmount.js';

/** Podman with a storage and a configuration of its own. Disposing removes its containers and leaves no mount. */
export class PodmanStorage implements AsyncDisposable {
  private constructor(
    /** Variables by which Podman finds its configuration. */
    readonly env: Readonly<Record<string, string>>,
    private readonly storage: string,
  ) {}

  /**
   * Makes an empty storage below a directory. `registry` is spoken to over plain HTTP; `layers` is where an additional layer store is
   * mounted.
   */
  static async make(
    directory: string,
    registry: string,
    layers: string | undefined,
    signal: AbortSignal,
  ): Promise<PodmanStorage> {
    const file = async (name: string, lines: readonly string[]) => {
      const path = join(directory, name);
      await writeFile(path, `${lines.join('\n')}\n`);
      return path;
    };
    const storage = join(directory, 'containers');
    const env = {
      CONTAINERS_STORAGE_CONF: await file('storage.conf', [
        '[storage]',
        'driver = "overlay"',
        `graphroot = "${storage}/root"`,
        `runroot = "${storage}/run"`,
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
        `tmp_dir = "${storage}/tmp"`,
      ]),
      CONTAINERS_REGISTRIES_CONF: await file('registries.conf', [
        '[[registry]]',
        `location = "${registry}"`,
        'insecure = true',
      ]),
    };
    const made = new PodmanStorage(env, storage);
    try {
      await made.run(['images'], signal);
      return made;
    } catch (error) {
      await made.#unmount();
      throw error;
    }
  }

  async run(args: readonly string[], signal?: AbortSignal): Promise<string> {
    return runCommand('podman', args, { env: this.env, signal });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.run(['rm', '--all', '--force', '--time', '0']);
    await this.#unmount();
  }

  /** Podman mounts its storage on itself, and leaves that. */
  async #unmount(): Promise<void> {
    const left = (await listMounts()).filter(({ target }) => target.startsWith(`${this.storage}/`));
    for (const { target } of left.reverse()) await unmount(target, { lazy: true });
  }
}
