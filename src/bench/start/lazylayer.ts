import { join } from 'node:path';
import { Daemon, peakMemory } from '../processes.js';
import type { Lazylayer } from './engine.js';

/** `lazylayer serve` on a root of its own. */
export class LazyDaemon implements AsyncDisposable {
  /** Where containerd finds it. */
  readonly address: string;
  readonly root: string;
  readonly #daemon: Daemon;

  private constructor({ command, config }: Lazylayer, directory: string) {
    this.address = join(directory, 'snapshots', 'lazylayer.sock');
    const [file, ...args] = command;
    this.root = join(directory, 'lazylayer');
    const flags = ['--root', this.root, '--address', this.address];
    const given = config === undefined ? [] : ['--config', config];
    this.#daemon = new Daemon(file, [...args, 'serve', ...flags, ...given]);
  }

  static async start(lazylayer: Lazylayer, directory: string, signal: AbortSignal): Promise<LazyDaemon> {
    const started = new LazyDaemon(lazylayer, directory);
    try {
      const serving = async () => started.#log().some((line) => line['msg'] === 'serving');
      await started.#daemon.until('lazylayer serves', serving, signal);
      return started;
    } catch (error) {
      await started[Symbol.asyncDispose]();
      throw error;
    }
  }

  async peakMemory(): Promise<number> {
    return this.#daemon.pid === undefined ? 0 : peakMemory(this.#daemon.pid);
  }

  /** A line for each layer that was asked for lazily and is not lazy. */
  refused(): string[] {
    return this.#log()
      .filter((line) => line['remote-snapshot-prepared'] === 'false')
      .map((line) => `a layer is not lazy: ${String(line['reason'])}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#daemon[Symbol.asyncDispose]();
  }

  #log(): Record<string, unknown>[] {
    const lines = this.#daemon.said.split('\n').filter((line) => line.startsWith('{') && line.endsWith('}'));
    return lines.map((line) => JSON.parse(line) as Record<string, unknown>);
  }
}
