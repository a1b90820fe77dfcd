import { mkdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { LazylayerError } from '../../errors.js';
import { realClock } from '../clock.js';
import { requirePrograms } from '../processes.js';
import type { Candidate, Engine, Lazylayer, Place, Started, StartOptions } from './engine.js';
import { LazyDaemon } from './lazylayer.js';
import { Workload } from './workload.js';

/** A container as small as can be: mounts and processes of its own, the image as its root. */
const contain =
  'mkdir -p "$0/proc" "$0/dev" "$0/tmp" && mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" && mount -t tmpfs tmp "$0/tmp" && echo "$$" >"$1" && shift && exec chroot "$0" "$@"';

/** No engine at all: `lazylayer mount`, and the command in the mounted tree. */
export class MountEngine implements Engine {
  constructor(private readonly lazylayer: Lazylayer) {}

  check(candidates: readonly Candidate[]): void {
    requirePrograms('chroot', 'mount', 'umount', 'unshare');
    const other = candidates.find(({ way }) => way.kind !== 'lazy');
    if (other !== undefined)
      throw new LazylayerError('INVALID_ARGUMENT', `${other.name}: the engine "mount" is lazylayer's alone`);
  }

  async open(candidate: Candidate, directory: string, signal: AbortSignal): Promise<Place> {
    const target = join(directory, 'tree');
    await mkdir(target);
    const daemon = await LazyDaemon.start(this.lazylayer, directory, {}, signal);
    return new MountPlace(candidate, directory, target, daemon);
  }
}

class MountPlace implements Place {
  #workload: Workload | undefined;

  constructor(
    private readonly candidate: Candidate,
    private readonly directory: string,
    private readonly target: string,
    private readonly daemon: LazyDaemon,
  ) {}

  get root(): string {
    return this.daemon.root;
  }

  async start({ command, ready, signal }: StartOptions): Promise<Started> {
    const begin = realClock.now();
    await this.daemon.run(['mount', '--detach', '--rw', this.candidate.image, this.target], signal);
    const pull = realClock.now();
    const began = join(this.directory, 'began');
    const args = ['--mount', '--pid', '--fork', '--kill-child', 'sh', '-c', contain, this.target, began, ...command];
    const workload = (this.#workload = new Workload('unshare', args));
    const readyAt = await workload.ready(ready, signal);
    const { mtimeMs } = await stat(began);
    return { moments: { begin, pull, create: pull, run: mtimeMs, ready: readyAt }, output: workload.output };
  }

  async stop(): Promise<void> {
    // It is the first process of its namespace, and takes all others along.
    await this.#workload?.end('SIGKILL');
  }

  async peakMemory(): Promise<number> {
    return this.daemon.peakMemory();
  }

  notes(): string[] {
    return [];
  }

  /** The daemon takes its mounts away when it ends. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
    await this.daemon[Symbol.asyncDispose]();
  }
}
