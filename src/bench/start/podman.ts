import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { LazylayerError } from '../../errors.js';
import { parseReference } from '../../image/reference.js';
import { Teardown } from '../../util/teardown.js';
import { realClock } from '../clock.js';
import { readPrograms, requirePrograms } from '../processes.js';
import type { Candidate, Engine, Lazylayer, Place, Started, StartOptions } from './engine.js';
import { LazyDaemon } from './lazylayer.js';
import { PodmanStorage } from './podman-storage.js';
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
  #lazy: LazyDaemon | undefined;
  #storage!: PodmanStorage;
  #workload: Workload | undefined;

  constructor(
    private readonly candidate: Candidate,
    private readonly directory: string,
  ) {}

  get root(): string | undefined {
    return this.#lazy?.root;
  }

  async open(lazylayer: Lazylayer, signal: AbortSignal): Promise<void> {
    const { candidate, directory } = this;
    const layers = candidate.way.kind === 'lazy' ? join(directory, 'layers') : undefined;
    if (layers !== undefined) {
      await mkdir(layers);
      this.#lazy = this.#parts.use(await LazyDaemon.start(lazylayer, directory, { store: layers }, signal));
    }
    const { host } = parseReference(candidate.image);
    this.#storage = this.#parts.use(await PodmanStorage.make(directory, host, layers, signal));
    await readPrograms('podman', 'conmon', 'runc');
  }

  async start({ command, ready, signal }: StartOptions): Promise<Started> {
    const { image } = this.candidate;
    const begin = realClock.now();
    await this.#storage.run(['pull', '--quiet', image], signal);
    const pull = realClock.now();
    const args = ['run', '--pull', 'never', '--name', container, image, ...command];
    const workload = (this.#workload = new Workload('podman', args, { ...process.env, ...this.#storage.env }));
    const readyAt = await workload.ready(ready, signal);
    const times = await this.#storage.run([
      'inspect',
      '--format',
      '{{json .Created}} {{json .State.StartedAt}} {{json .State.FinishedAt}}',
      container,
    ]);
    const [create, run, exit] = times.split(' ').map((time) => Date.parse(JSON.parse(time) as string));
    const moments = { begin, pull, create, run, ready: ready.kind === 'exit' ? exit : readyAt };
    return { moments, output: workload.output };
  }

  async stop(): Promise<void> {
    if (this.#workload?.over !== false) return;
    await this.#storage.run(['kill', container]).catch(() => {}); // it may be about to end
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
}
