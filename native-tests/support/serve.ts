import { join } from 'node:path';
import { lazylayerPlugin } from './containerd.js';
import { program, type Scene } from './scene.js';
import { endChild, eventually, startDaemon, type Cleanup, type Daemon } from './tools.js';

/** One line of the daemon's log. */
export interface LogLine {
  readonly msg: string;
  readonly [field: string]: unknown;
}

/** `lazylayer serve` on a scene's root: started, stopped, killed and started again. */
export class ServedScene {
  readonly address: string;
  #daemon: Daemon | undefined;

  constructor(
    private readonly t: Cleanup,
    readonly scene: Scene,
  ) {
    this.address = join(scene.directory, 'run', 'snapshots.sock');
  }

  /** What containerd's configuration says of it. */
  get plugin(): string[] {
    return lazylayerPlugin(this.address);
  }

  /** Starts it, and does not wait. `env` is added to the environment. */
  launch(env: NodeJS.ProcessEnv = {}): void {
    const place = ['--root', this.scene.root, '--config', this.scene.config, '--address', this.address];
    const args = [program, 'serve', ...place];
    this.#daemon = startDaemon(this.t, process.execPath, args, { env: { ...process.env, ...env } });
  }

  /** Resolves when it serves. */
  async start(env?: NodeJS.ProcessEnv): Promise<void> {
    this.launch(env);
    const daemon = this.#daemon!;
    await eventually('lazylayer serves', async () => {
      if (daemon.child.exitCode !== null) throw new Error(`lazylayer serve ended: ${daemon.said()}`);
      return this.log().some(({ msg }) => msg === 'serving') ? true : undefined;
    });
  }

  /** By SIGTERM. Gives the exit status. */
  async stop(): Promise<number | null> {
    await endChild(this.#daemon!.child);
    return this.#daemon!.child.exitCode;
  }

  /** What was logged since the last start. */
  log(): LogLine[] {
    const lines = this.#daemon!.said().split('\n');
    return lines.filter((line) => line.startsWith('{')).map((line) => JSON.parse(line) as LogLine);
  }

  /** Of every layer that was asked for since the last start, in order: whether it is lazy, and why not. */
  prepared(): string[] {
    return this.log()
      .filter((line) => 'remote-snapshot-prepared' in line)
      .map((line) =>
        `${line['remote-snapshot-prepared'] as string} ${(line['reason'] as string | undefined) ?? ''}`.trim(),
      );
  }
}
