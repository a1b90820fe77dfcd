import { spawn } from 'node:child_process';
import { mkdir, open } from 'node:fs/promises';
import { createInterface } from 'node:readline/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Client } from 'undici';
import type { CacheUsage } from '../cache/chunk-cache.js';
import type { Config } from '../config/config.js';
import { LazylayerError } from '../errors.js';
import type { MountInfo, MountProgress, MountRequest } from '../mount/request.js';
import { leaveOnAbort } from '../util/singleflight.js';
import { isLocked } from '../workspace/lock.js';
import { fromWire } from './control.js';
import { layoutOf } from './layout.js';
import type { HolderReport, MountAnswer, WireError } from './protocol.js';

export type { MountInfo, MountProgress, MountRequest } from '../mount/request.js';

/** How long a command waits for another one's daemon, found starting or ending, to be there or gone. */
const settleMs = 10_000;

/** Talks to the daemon of one root over its control socket. */
export class DaemonClient implements AsyncDisposable {
  readonly #client: Client;

  constructor(private readonly root: string) {
    const socketPath = layoutOf(root).control;
    this.#client = new Client('http://daemon', { socketPath, bodyTimeout: 0, headersTimeout: 0 });
  }

  /** Mounts an image; resolves when its files can be read. Aborting cancels it. */
  async mount(
    request: MountRequest,
    options: { onProgress?: (progress: MountProgress) => void; signal?: AbortSignal } = {},
  ): Promise<MountInfo> {
    const { body } = await this.#client.request({
      method: 'POST',
      path: '/mounts',
      body: JSON.stringify(request),
      signal: options.signal,
    });
    for await (const line of createInterface({ input: body })) {
      const answer = JSON.parse(line) as MountAnswer;
      if ('mounted' in answer) return answer.mounted;
      if ('error' in answer) throw fromWire(answer.error);
      options.onProgress?.(answer.progress);
    }
    throw new LazylayerError('UNAVAILABLE', 'the daemon ended while it was mounting; see its log');
  }

  /**
   * Unmounts. With the last mount the daemon ends too, and this resolves only then, so that nothing is left behind; after a lazy
   * one it ends when nobody has files open any more.
   * @throws NOT_FOUND where nothing of ours is mounted, BUSY where it is in use (unless `lazy`).
   */
  async umount(target: string, options: { lazy?: boolean } = {}): Promise<void> {
    const path = `/mounts?${new URLSearchParams({ target, lazy: String(options.lazy === true) }).toString()}`;
    const { left } = (await this.#call('DELETE', path)) as { left: number };
    if (left === 0 && options.lazy !== true) await this.#ended();
  }

  /** Resolves when no daemon has the root any more, or after 10 seconds. */
  async #ended(): Promise<void> {
    for (const deadline = Date.now() + settleMs; isLocked(this.root) && Date.now() < deadline;) await sleep(20);
  }

  async list(): Promise<MountInfo[]> {
    return (await this.#call('GET', '/mounts')) as MountInfo[];
  }

  /**
   * Resolves when the mount at `target` is gone, whoever took it away. Outlives the serving process: one that dies is replaced,
   * and when nobody listens any more for 10 seconds, the mount has gone with the daemon.
   */
  async waitGone(target: string, signal?: AbortSignal): Promise<void> {
    const path = `/mounts/gone?${new URLSearchParams({ target }).toString()}`;
    for (let lost: number | undefined; lost === undefined || Date.now() - lost < settleMs;) {
      try {
        await this.#call('GET', path, undefined, signal);
        return;
      } catch (error) {
        if (error instanceof LazylayerError || signal?.aborted === true) throw error;
        lost ??= Date.now();
        await sleep(100, undefined, { signal });
      }
    }
  }

  async cacheUsage(): Promise<CacheUsage> {
    return (await this.#call('GET', '/cache')) as CacheUsage;
  }

  async cachePrune(options: { all: boolean; keepBytes?: number }): Promise<{ layers: number; bytes: number }> {
    return (await this.#call('POST', '/cache/prune', options)) as { layers: number; bytes: number };
  }

  async #call(method: 'GET' | 'POST' | 'DELETE', path: string, body?: unknown, signal?: AbortSignal): Promise<unknown> {
    const response = await this.#client.request({
      method,
      path,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal,
    });
    const answer = (await response.body.json()) as { error?: WireError };
    if (response.statusCode !== 200) throw fromWire(answer.error!);
    return answer;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#client.destroy();
  }
}

/** The daemon that owns a root, or undefined where none runs. */
export async function findDaemon(root: string): Promise<DaemonClient | undefined> {
  const client = new DaemonClient(root);
  try {
    await client.list();
    return client;
  } catch (error) {
    await client[Symbol.asyncDispose]();
    if (error instanceof LazylayerError) throw error;
    return undefined;
  }
}

/** The daemon that owns `config.root`, started where none runs. It ends by itself when its last mount is gone. */
export async function connectDaemon(config: Config, options: { signal?: AbortSignal } = {}): Promise<DaemonClient> {
  for (const deadline = Date.now() + settleMs; ; await sleep(50, undefined, options)) {
    const running = await findDaemon(config.root);
    if (running !== undefined) return running;
    try {
      await startDaemon(config, options.signal);
    } catch (error) {
      // Another command's daemon holds the root's lock: it is about to listen, or about to end.
      if (!(error instanceof LazylayerError && error.code === 'BUSY') || Date.now() > deadline) throw error;
    }
  }
}

async function startDaemon(config: Config, signal?: AbortSignal): Promise<void> {
  const layout = layoutOf(config.root);
  await mkdir(layout.root, { recursive: true, mode: 0o700 });
  await using log = await open(layout.log, 'a', 0o600);
  const holder = spawn(process.execPath, [fileURLToPath(new URL('holder.js', import.meta.url))], {
    cwd: '/',
    detached: true,
    stdio: ['ignore', log.fd, log.fd, 'ipc'],
  });
  try {
    await leaveOnAbort(
      new Promise<void>((resolve, reject) => {
        holder.once('error', reject);
        holder.once('exit', (status, by) =>
          reject(new LazylayerError('INTERNAL', `the daemon ended at its start (${status ?? by}); see ${layout.log}`)),
        );
        holder.on('message', (report: HolderReport) =>
          report.kind === 'ready' ? resolve() : reject(fromWire(report.error)),
        );
        holder.send(config);
      }),
      signal,
    );
  } finally {
    if (holder.connected) holder.disconnect();
    holder.unref();
  }
}
