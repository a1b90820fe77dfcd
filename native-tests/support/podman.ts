import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { ExecutionContext } from 'ava';
import { configurePodman } from '../../src/bench/start/podman-storage.js';
import { program, type Scene } from './scene.js';
import { eventually, outcomeOf, requirePrograms, run, startDaemon, type Daemon, type Outcome } from './tools.js';

/** How long a daemon may take to start and to end, in milliseconds, on a machine that does much else. */
const patience = 60_000;

/** `lazylayer store` on a scene's root, and Podman and Buildah with a storage of their own that look for layers there. */
export class PodmanScene {
  #daemon: Daemon | undefined;

  private constructor(
    private readonly t: ExecutionContext,
    readonly scene: Scene,
    readonly mountPoint: string,
    readonly storage: string,
    /** Of Podman, and of the daemon: where logins are looked for. */
    readonly env: NodeJS.ProcessEnv,
  ) {}

  /** Nothing runs yet. `registry` is spoken to over plain HTTP. */
  static async open(t: ExecutionContext, scene: Scene, registry: string): Promise<PodmanScene> {
    requirePrograms('podman', 'buildah', 'runc');
    const mountPoint = await scene.mountPoint('store');
    const storage = join(scene.directory, 'containers');
    const conf = join(scene.directory, 'conf');
    await mkdir(conf);
    const env = {
      ...process.env,
      XDG_RUNTIME_DIR: storage,
      ...(await configurePodman(conf, { storage, transient: storage, registry, layers: mountPoint })),
    };
    const podman = new PodmanScene(t, scene, mountPoint, storage, env);
    // Podman mounts its storage on itself, and leaves that.
    t.teardown(() => podman.#release());
    return podman;
  }

  /** Resolves when the store answers. */
  async start(...flags: string[]): Promise<void> {
    const { root, config } = this.scene;
    const args = [program, 'store', '--root', root, '--config', config, ...flags, this.mountPoint];
    const daemon = (this.#daemon = startDaemon(this.t, process.execPath, args, { env: this.env }));
    const { child } = daemon;
    const status = () => child.exitCode ?? child.signalCode ?? undefined;
    const outcome = await eventually(
      'lazylayer store serves or ends',
      async () => (daemon.said().includes('"msg":"serving"') ? 'serves' : status()),
      patience,
    );
    if (outcome !== 'serves') throw new Error(`lazylayer store ended (${outcome}): ${daemon.said()}`);
  }

  /** By SIGTERM. Gives the exit status. */
  async stop(): Promise<number | null> {
    const { child } = this.#daemon!;
    child.kill('SIGTERM');
    await eventually('lazylayer store ends', async () => child.exitCode ?? child.signalCode ?? undefined, patience);
    return child.exitCode;
  }

  /** Log of the daemon since the last start. */
  said(): string {
    return this.#daemon!.said();
  }

  /** Runs Podman; it must succeed. Gives what it printed, on standard output alone. */
  async podman(...args: string[]): Promise<string> {
    return run('podman', args, { env: this.env });
  }

  async tryPodman(...args: string[]): Promise<Outcome> {
    return outcomeOf('podman', args, { env: this.env });
  }

  async buildah(...args: string[]): Promise<string> {
    return run('buildah', args, { env: this.env });
  }

  async #release(): Promise<void> {
    await this.tryPodman('rm', '--all', '--force');
    for (const target of (await this.scene.mounted()).reverse())
      if (target.startsWith(`${this.storage}/`)) await run('umount', ['-l', target]);
  }
}
