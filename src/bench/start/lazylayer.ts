import { join } from 'node:path';
import { runCommand } from '../../util/command.js';
import { Daemon, peakMemory } from '../processes.js';
import type { Lazylayer } from './engine.js';

/** What a daemon offers to whom; what is left out, to nobody. */
export interface Offers {
  /** Socket for containerd. */
  readonly address?: string;
  /** Directory where Podman finds layers. */
  readonly store?: string;
}

/**
 * The configuration is that of a machine on which another daemon may serve: all that there is one of on a machine is overruled. "serving"
 * must be told, and which layers are refused.
 */
export function serveArguments(
  { address = '', store = '' }: Offers,
  root: string,
  config: string | undefined,
): string[] {
  const given = config === undefined ? [] : ['--config', config];
  const offers = ['--address', address, '--store', store, '--metrics', ''];
  return ['serve', '--root', root, '--log-level', 'info', ...given, ...offers];
}

/** A daemon of lazylayer on a root of its own. */
export class LazyDaemon implements AsyncDisposable {
  readonly root: string;
  readonly #daemon: Daemon;

  private constructor(
    private readonly lazylayer: Lazylayer,
    directory: string,
    offers: Offers,
  ) {
    this.root = join(directory, 'lazylayer');
    const { command, config } = lazylayer;
    const [file, ...first] = command;
    this.#daemon = new Daemon(file, [...first, ...serveArguments(offers, this.root, config)]);
  }

  /** Runs another verb of the same program on the same root, and gives its standard output. */
  async run([verb, ...args]: readonly string[], signal?: AbortSignal): Promise<string> {
    const { command, config } = this.lazylayer;
    const [file, ...first] = command;
    const given = config === undefined ? [] : ['--config', config];
    return runCommand(file, [...first, verb, '--root', this.root, ...given, ...args], { signal });
  }

  /** Resolves when it serves. */
  static async start(
    lazylayer: Lazylayer,
    directory: string,
    offers: Offers,
    signal: AbortSignal,
  ): Promise<LazyDaemon> {
    const started = new LazyDaemon(lazylayer, directory, offers);
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
