import { mkdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { LazylayerError } from '../../errors.js';
import { runCommand } from '../../util/command.js';
import { realClock } from '../clock.js';
import { killGone, peakMemory, processesWithOpen, requirePrograms } from '../processes.js';
import type { Candidate, Engine, Lazylayer, Place, Started, StartOptions } from './engine.js';
import { Workload } from './workload.js';

/** A container as small as can be: mounts and processes of its own, the image as its root. */
const contain =
  'mkdir -p "$0/proc" "$0/dev" "$0/tmp" && mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" && mount -t tmpfs tmp "$0/tmp" && echo "$$" >"$1" && shift && exec chroot "$0" "$@"';

const endsWithinMs = 10_000;

/** No engine at all: `lazylayer mount`, and the command in the mounted tree. */
export class MountEngine implements Engine {
  constructor(private readonly lazylayer: Lazylayer) {}

  check(candidates: readonly Candidate[]): void {
    requirePrograms('chroot', 'mount', 'umount', 'unshare');
    const other = candidates.find(({ way }) => way.kind !== 'lazy');
    if (other !== undefined)
      throw new LazylayerError('INVALID_ARGUMENT', `${other.name}: the engine "mount" is lazylayer's alone`);
  }

  async open(candidate: Candidate, directory: string): Promise<Place> {
    const target = join(directory, 'tree');
    await mkdir(target);
    return new MountPlace(candidate, directory, target, this.lazylayer);
  }
}

class MountPlace implements Place {
  #workload: Workload | undefined;
  readonly #root: string;

  constructor(
    private readonly candidate: Candidate,
    private readonly directory: string,
    private readonly target: string,
    private readonly lazylayer: Lazylayer,
  ) {
    this.#root = join(directory, 'lazylayer');
  }

  async start({ command, ready, signal }: StartOptions): Promise<Started> {
    const begin = realClock.now();
    await this.#lazylayer(['mount', '--detach', '--rw', this.candidate.image, this.target], signal);
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

  async peakMemory(): Promise<number | undefined> {
    const peaks = await Promise.all((await this.#daemon()).map((pid) => peakMemory(pid, false)));
    return peaks.length === 0 ? undefined : peaks.reduce((sum, bytes) => sum + bytes);
  }

  notes(): string[] {
    return [];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
    await this.#lazylayer(['umount', '--lazy', this.target]).catch(() => {});
    // It ends by itself with its last mount.
    for (let waited = 0; waited < endsWithinMs && (await this.#daemon()).length > 0; waited += 50) await sleep(50);
    for (const pid of await this.#daemon()) killGone(pid);
  }

  /** The daemon is nobody's child: it is who has the lock of its root open. */
  async #daemon(): Promise<number[]> {
    return processesWithOpen(join(this.#root, 'lock'));
  }

  async #lazylayer([verb, ...args]: string[], signal?: AbortSignal): Promise<void> {
    const { command, config } = this.lazylayer;
    const [file, ...first] = command;
    const given = config === undefined ? [] : ['--config', config];
    await runCommand(file, [...first, verb, '--root', this.#root, ...given, ...args], { signal });
  }
}
