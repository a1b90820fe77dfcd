import { randomBytes } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { runCommand } from '../../util/command.js';
import { Teardown } from '../../util/teardown.js';
import { realClock } from '../clock.js';
import { Daemon, killGone, processesWith, readPrograms, requirePrograms } from '../processes.js';
import { EventListener } from './containerd-events.js';
import type { Candidate, Engine, Lazylayer, Place, Started, StartOptions } from './engine.js';
import { LazyDaemon } from './lazylayer.js';
import { Workload } from './workload.js';

/** Containers in a containerd of their own: empty root, state and socket for each run. */
export class ContainerdEngine implements Engine {
  constructor(private readonly lazylayer: Lazylayer) {}

  check(candidates: readonly Candidate[]): void {
    const byCtrRemote = candidates.some(({ way }) => way.kind === 'other' && way.pull === undefined);
    requirePrograms('containerd', 'containerd-shim-runc-v2', 'ctr', 'runc', ...(byCtrRemote ? ['ctr-remote'] : []));
  }

  async open(candidate: Candidate, directory: string, signal: AbortSignal): Promise<Place> {
    const place = new ContainerdPlace(candidate, join(directory, 'containerd.sock'));
    try {
      await place.open(directory, this.lazylayer, signal);
      return place;
    } catch (error) {
      await place[Symbol.asyncDispose]();
      throw error;
    }
  }
}

class ContainerdPlace implements Place {
  readonly #parts = new Teardown();
  /** runc and cgroups know containers by their names alone, whichever containerd they are of. */
  readonly #container = `bench-${randomBytes(6).toString('hex')}`;
  #lazy: LazyDaemon | undefined;
  #events!: EventListener;
  #workload: Workload | undefined;

  constructor(
    private readonly candidate: Candidate,
    private readonly socket: string,
  ) {}

  get root(): string | undefined {
    return this.#lazy?.root;
  }

  async open(directory: string, lazylayer: Lazylayer, signal: AbortSignal): Promise<void> {
    const { candidate, socket } = this;
    const { way } = candidate;
    const own = join(directory, 'snapshots', 'lazylayer.sock');
    if (way.kind === 'lazy')
      this.#lazy = this.#parts.use(await LazyDaemon.start(lazylayer, directory, { address: own }, signal));
    const address = way.kind === 'other' ? way.socket : way.kind === 'lazy' ? own : undefined;
    const config = join(directory, 'containerd.toml');
    await writeFile(config, configFor(directory, socket, snapshotterOf(candidate), address));
    this.#parts.teardown(() => this.#endShims());
    const daemon = this.#parts.use(new Daemon('containerd', ['--config', config]));
    await daemon.until('containerd answers', async () => (await this.ctr(['version'], signal)) !== '', signal);
    this.#events = this.#parts.use(new EventListener(socket));
    await this.#subscribed(signal);
    await readPrograms('ctr', 'ctr-remote', 'containerd', 'containerd-shim-runc-v2', 'runc');
    // Of our own client that is what it loads, which is about what asks the daemon for its mounts.
    await this.#lazy?.run(['ps'], signal);
  }

  async ctr(args: readonly string[], signal?: AbortSignal): Promise<string> {
    return runCommand('ctr', ['--address', this.socket, ...args], { signal });
  }

  async start({ command, ready, signal }: StartOptions): Promise<Started> {
    const { candidate, socket } = this;
    const events = this.#events;
    const snapshotter = snapshotterOf(candidate);
    const begin = realClock.now();
    await this.#pull(signal);
    const pull = realClock.now();
    const network = ready.kind === 'port' ? ['--net-host'] : [];
    const run = ['run', '--rm', '--snapshotter', snapshotter, ...network, candidate.image, this.#container, ...command];
    const workload = (this.#workload = new Workload('ctr', ['--address', socket, ...run]));
    const readyAt = await workload.ready(ready, signal);
    // Told by containerd itself, and read only now: nothing is in the way of the start.
    const create = await events.until('/containers/create', signal, this.#container);
    const started = await events.until('/tasks/start', signal, this.#container);
    const exit = ready.kind === 'exit' ? await events.until('/tasks/exit', signal, this.#container) : undefined;
    const moments = { begin, pull, create: create.time, run: started.time, ready: exit?.time ?? readyAt };
    return { moments, output: workload.output };
  }

  async stop(): Promise<void> {
    if (this.#workload?.over === false) {
      // Told to `ctr`, which hands it on to the container and takes that away.
      const gone = this.#workload.end('SIGTERM');
      const killed = sleep(1000).then(() => this.ctr(['tasks', 'kill', '--signal', 'SIGKILL', this.#container]));
      await Promise.all([gone, killed.catch(() => {})]);
    }
    if (this.candidate.way.kind === 'other') await this.ctr(['images', 'rm', '--sync', this.candidate.image]);
  }

  async peakMemory(): Promise<number | undefined> {
    return this.#lazy?.peakMemory();
  }

  notes(): string[] {
    return this.#lazy?.refused() ?? [];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#workload?.over === false) await this.stop().catch(() => {});
    await this.#parts[Symbol.asyncDispose]();
  }

  /** What is before the registry speaks plain HTTP. */
  async #pull(signal: AbortSignal): Promise<string> {
    const { image, way } = this.candidate;
    const address = this.socket;
    const snapshotter = snapshotterOf(this.candidate);
    const where = ['--address', address];
    if (way.kind !== 'full' && way.pull !== undefined) {
      const values: Readonly<Record<string, string>> = { image, address, snapshotter };
      const script = way.pull.replace(/\{(image|address|snapshotter)\}/g, (_, name: string) => values[name]);
      return runCommand('sh', ['-c', script], { signal });
    }
    if (this.#lazy !== undefined) return this.#lazy.run(['pull', ...where, image], signal);
    const [program, verb] = way.kind === 'full' ? ['ctr', 'pull'] : ['ctr-remote', 'rpull'];
    const how = ['--plain-http', '--snapshotter', snapshotter, image];
    return runCommand(program, [...where, 'images', verb, ...how], { signal });
  }

  /** A listener hears some time after its program was started: an event of our own tells when. */
  async #subscribed(signal: AbortSignal): Promise<void> {
    let heard = false;
    const told = this.#events.until('/namespaces/create', signal).finally(() => (heard = true));
    for (let i = 0; !heard; i++) {
      await this.ctr(['namespaces', 'create', `listening-${i}`], signal);
      await sleep(20);
    }
    await told;
  }

  /** Shims outlive containerd. */
  async #endShims(): Promise<void> {
    for (const pid of await processesWith('-address', this.socket)) killGone(pid);
  }
}

const snapshotterOf = ({ way }: Candidate) =>
  way.kind === 'full' ? 'overlayfs' : way.kind === 'lazy' ? 'lazylayer' : way.snapshotter;

function configFor(directory: string, socket: string, snapshotter: string, address: string | undefined): string {
  const lines = [
    'version = 2',
    `root = "${directory}/root"`,
    `state = "${directory}/state"`,
    'disabled_plugins = ["io.containerd.grpc.v1.cri"]',
    '[grpc]',
    `address = "${socket}"`,
  ];
  if (address !== undefined)
    lines.push(`[proxy_plugins.${snapshotter}]`, 'type = "snapshot"', `address = "${address}"`);
  return `${lines.join('\n')}\n`;
}
