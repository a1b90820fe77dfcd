import { fork, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { LazylayerError } from '../errors.js';
import type { Network } from './network.js';
import type { ProxyAnswer, ProxyCommand } from './proxy-process.js';
import type { ProxyTarget, Traffic } from './shaping-proxy.js';

/** A shaping proxy in a process of its own. Commands go one at a time. */
export class ProxyHandle implements AsyncDisposable {
  /** On 127.0.0.1. */
  port = 0;

  private constructor(private readonly child: ChildProcess) {}

  static async start(target: ProxyTarget, network: Network): Promise<ProxyHandle> {
    const child = fork(new URL('./proxy-process.js', import.meta.url), { detached: true });
    const proxy = new ProxyHandle(child);
    // JSON has no Infinity.
    const sent = network.bytesPerMs === Infinity ? { rttMs: network.rttMs } : network;
    const { port } = await proxy.#ask({ kind: 'start', target, network: sent }, 'started');
    proxy.port = port;
    return proxy;
  }

  async reset(): Promise<void> {
    await this.#ask({ kind: 'reset' }, 'reset');
  }

  /** What passed since the last reset; `cpuMs` is what the proxy itself has used of a processor, since it started. */
  async traffic(): Promise<Traffic & { readonly cpuMs: number }> {
    const { traffic, cpuMs } = await this.#ask({ kind: 'traffic' }, 'traffic');
    return { ...traffic, cpuMs };
  }

  async #ask<K extends ProxyAnswer['kind']>(
    command: ProxyCommand,
    kind: K,
  ): Promise<Extract<ProxyAnswer, { kind: K }>> {
    const ended = new AbortController();
    const exit = () => ended.abort();
    this.child.once('exit', exit);
    try {
      this.child.send(command);
      const [answer] = (await once(this.child, 'message', { signal: ended.signal })) as [ProxyAnswer];
      if (answer.kind === kind) return answer as Extract<ProxyAnswer, { kind: K }>;
      throw new LazylayerError('INTERNAL', `the proxy: ${answer.kind === 'failed' ? answer.message : answer.kind}`);
    } catch (error) {
      if (!ended.signal.aborted) throw error;
      throw new LazylayerError('INTERNAL', 'the proxy ended before it answered', { cause: error });
    } finally {
      this.child.off('exit', exit);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.child.exitCode !== null || this.child.signalCode !== null) return;
    const ended = once(this.child, 'exit');
    this.child.disconnect();
    await ended;
  }
}
