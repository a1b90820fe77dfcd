import { join } from 'node:path';
import { Daemon, peakMemory } from '../processes.js';
import type { Lazylayer } from './engine.js';

/** A daemon of lazylayer on a root of its own. */
export class LazyDaemon implements AsyncDisposable {
  readonly root: string;
  readonly #daemon: Daemon;

  private constructor({ command, config }: Lazylayer, directory: string, verb: readonly string[]) {
    const [file, ...args] = command;
    this.root = join(directory, 'lazylayer');
    const given = config === undefined ? [] : ['--config', config];
    this.#daemon = new Daemon(file, [...args, ...verb, '--root', this.root, ...given]);
  }

  /** `verb` is `serve` or `store`, with what it needs. Resolves when it serves. */
  static async start(
    lazylayer: Lazylayer,
    directory: string,
    verb: readonly string[],
    signal: AbortSignal,
  ): Promise<LazyDaemon> {
    const started = new LazyDaemon(lazylayer, directory, verb);
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
      .filter((line) => line['remote-snapshot-prepared'] === 'false' || line['msg'] === 'layer left to the client')
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
