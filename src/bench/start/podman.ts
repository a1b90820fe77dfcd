import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { LazylayerError } from '../../errors.js';
import { parseReference } from '../../image/reference.js';
import { runCommand } from '../../util/command.js';
import { listMounts } from '../../util/mountinfo.js';
import { Teardown } from '../../util/teardown.js';
import { unmount } from '../../util/unmount.js';
import { realClock } from '../clock.js';
import { readPrograms, requirePrograms } from '../processes.js';
import type { Candidate, Engine, Lazylayer, Place, Started, StartOptions } from './engine.js';
import { LazyDaemon } from './lazylayer.js';
import { Workload } from './workload.js';

const container = 'bench';

/** Containers by Podman with a storage of its own for each run: overlay on disk, and lazily with layers from `lazylayer store`. */
export class PodmanEngine implements Engine {
  constructor(private readonly lazylayer: Lazylayer) {}

  check(candidates: readonly Candidate[]): void {
    requirePrograms('podman', 'conmon', 'runc');
    const other = candidates.find(({ way }) => way.kind === 'other');
    if (other !== undefined)
      throw new LazylayerError(
        'INVALID_ARGUMENT',
        `${other.name}: Podman has no snapshotters; use --engine containerd`,
      );
  }

  async open(candidate: Candidate, directory: string, signal: AbortSignal): Promise<Place> {
    const place = new PodmanPlace(candidate, directory);
    try {
      await place.open(this.lazylayer, signal);
      return place;
    } catch (error) {
      await place[Symbol.asyncDispose]();
      throw error;
    }
  }
}

class PodmanPlace implements Place {
  readonly #parts = new Teardown();
  readonly #storage: string;
  #lazy: LazyDaemon | undefined;
  #env: Readonly<Record<string, string>> = {};
  #workload: Workload | undefined;

  constructor(
    private readonly candidate: Candidate,
    private readonly directory: string,
  ) {
    this.#storage = join(directory, 'containers');
  }

  get root(): string | undefined {
    return this.#lazy?.root;
  }

  async open(lazylayer: Lazylayer, signal: AbortSignal): Promise<void> {
    const { candidate, directory } = this;
    const layers = candidate.way.kind === 'lazy' ? join(directory, 'layers') : undefined;
    if (layers !== undefined) {
      await mkdir(layers);
      this.#lazy = this.#parts.use(await LazyDaemon.start(lazylayer, directory, ['store', layers], signal));
    }
    this.#env = await this.#configure(layers);
    this.#parts.teardown(() => this.#release());
    await readPrograms('podman', 'conmon', 'runc');
    // Makes the storage.
    await this.#podman(['images'], signal);
  }

  /** @returns the variables by which Podman finds its configuration */
  async #configure(layers: string | undefined): Promise<Record<string, string>> {
    const file = async (name: string, lines: readonly string[]) => {
      const path = join(this.directory, name);
      await writeFile(path, `${lines.join('\n')}\n`);
      return path;
    };
    const storage = this.#storage;
    return {
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
        `location = "${parseReference(this.candidate.image).host}"`,
        'insecure = true',
      ]),
    };
  }

  async start({ command, ready, signal }: StartOptions): Promise<Started> {
    const { image } = this.candidate;
    const begin = realClock.now();
    await this.#podman(['pull', '--quiet', image], signal);
    const pull = realClock.now();
    const args = ['run', '--pull', 'never', '--name', container, image, ...command];
    const workload = (this.#workload = new Workload('podman', args, { ...process.env, ...this.#env }));
    const readyAt = await workload.ready(ready, signal);
    const times = await this.#podman(['inspect', '--format', '{{json .Created}} {{json .State.StartedAt}}', container]);
    const [create, run] = times.split(' ').map((time) => Date.parse(JSON.parse(time) as string));
    return { moments: { begin, pull, create, run, ready: readyAt }, output: workload.output };
  }

  async stop(): Promise<void> {
    if (this.#workload?.over !== false) return;
    await this.#podman(['kill', container]).catch(() => {}); // it may be about to end
    await this.#workload.end('SIGTERM');
  }

  async peakMemory(): Promise<number | undefined> {
    return this.#lazy?.peakMemory();
  }

  notes(): string[] {
    return this.#lazy?.refused() ?? [];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
    await this.#parts[Symbol.asyncDispose]();
  }

  /** Podman mounts its storage on itself, and leaves that. */
  async #release(): Promise<void> {
    await this.#podman(['rm', '--all', '--force', '--time', '0']);
    const left = (await listMounts()).filter(({ target }) => target.startsWith(`${this.#storage}/`));
    for (const { target } of left.reverse()) await unmount(target, { lazy: true });
  }

  async #podman(args: readonly string[], signal?: AbortSignal): Promise<string> {
    return runCommand('podman', args, { env: this.#env, signal });
  }
}
