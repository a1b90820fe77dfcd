import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { ExecutionContext } from 'ava';
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
    const file = async (name: string, lines: readonly string[]) => {
      await writeFile(join(conf, name), lines.join('\n') + '\n');
      return join(conf, name);
    };
    const env = {
      ...process.env,
      XDG_RUNTIME_DIR: storage,
      CONTAINERS_STORAGE_CONF: await file('storage.conf', [
        '[storage]',
        'driver = "overlay"',
        `graphroot = "${join(storage, 'root')}"`,
        `runroot = "${join(storage, 'run')}"`,
        '[storage.options]',
        `additionallayerstores = ["${mountPoint}:ref"]`,
      ]),
      CONTAINERS_CONF: await file('containers.conf', [
        '[containers]',
        'netns = "host"',
        'default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]',
        '[engine]',
        'runtime = "runc"',
        'cgroup_manager = "cgroupfs"',
        'events_logger = "file"',
        `tmp_dir = "${join(storage, 'tmp')}"`,
      ]),
      CONTAINERS_REGISTRIES_CONF: await file('registries.conf', [
        '[[registry]]',
        `location = "${registry}"`,
        'insecure = true',
      ]),
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
    const serves = async () => {
      if (daemon.child.exitCode !== null) throw new Error(`lazylayer store ended: ${daemon.said()}`);
      return this.said().includes('"msg":"serving"') ? true : undefined;
    };
    await eventually('lazylayer store serves', serves, patience);
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
