import { spawn } from 'node:child_process';
import { mkdir, open } from 'node:fs/promises';
import { request as sendRequest, type IncomingMessage } from 'node:http';
import { json } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { CacheUsage } from '../cache/chunk-cache.js';
import type { Config } from '../config/config.js';
import { LazylayerError } from '../errors.js';
import type { MountInfo, MountProgress, MountRequest } from '../mount/request.js';
import type { PullInfo, PullRequest } from '../pull/request.js';
import type { Given } from '../registry/auth/given.js';
import { leaveOnAbort } from '../util/singleflight.js';
import { fromWire } from './control.js';
import { layoutOf } from './layout.js';
import type { Answer, HolderReport, WireError } from './protocol.js';
import { linesOf, Recording } from './recording.js';

export type { MountInfo, MountProgress, MountRequest } from '../mount/request.js';

/** How long a command waits for another one's daemon, found starting or ending, to be there or gone. */
const settleMs = 10_000;

/** Of what takes a while. */
export interface ProgressOptions {
  readonly onProgress?: (progress: MountProgress) => void;
  readonly signal?: AbortSignal;
}

type Method = 'GET' | 'POST' | 'DELETE';

interface Ask {
  readonly body?: unknown;
  readonly signal?: AbortSignal;
  /** Somebody listens, and may answer. */
  readonly onConnect?: () => void;
}

/** Talks to the daemon of one root over its control socket. */
export class DaemonClient {
  constructor(
    private readonly root: string,
    private readonly settle = settleMs,
  ) {}

  /** Mounts an image; resolves when its files can be read. Aborting cancels it. */
  async mount(request: MountRequest, options?: ProgressOptions): Promise<MountInfo> {
    return this.#follow('/mounts', request, options);
  }

  /** Puts an image into containerd. Aborting cancels it. */
  async pull(request: PullRequest, options?: ProgressOptions): Promise<PullInfo> {
    return this.#follow('/pulls', request, options);
  }

  async #follow<V>(path: string, body: unknown, { onProgress, signal }: ProgressOptions = {}): Promise<V> {
    const ended = 'the daemon ended before it was done; see its log';
    try {
      return await this.#ask('POST', path, { body, signal }, async (response) => {
        for await (const line of linesOf(response)) {
          const answer = JSON.parse(line) as Answer<V>;
          if ('done' in answer) return answer.done;
          if ('error' in answer) throw fromWire(answer.error);
          onProgress?.(answer.progress);
        }
        throw new LazylayerError('UNAVAILABLE', ended);
      });
    } catch (error) {
      // Where nobody here gave up, the daemon did.
      const lost = ['ECONNRESET', 'ABORTED'].includes((error as NodeJS.ErrnoException).code ?? '');
      if (!lost || signal?.aborted === true) throw error;
      throw new LazylayerError('UNAVAILABLE', ended, { cause: error });
    }
  }

  /**
   * Unmounts. With the last mount a daemon that was started for it ends too, and this resolves only then, so that nothing is left
   * behind; after a lazy one it ends when nobody has files open any more.
   * @throws NOT_FOUND where nothing of ours is mounted, BUSY where it is in use (unless `lazy`).
   */
  async umount(target: string, options: { lazy?: boolean } = {}): Promise<void> {
    const path = `/mounts?${new URLSearchParams({ target, lazy: String(options.lazy === true) }).toString()}`;
    const { ends } = (await this.#call('DELETE', path)) as { ends: boolean };
    if (ends && options.lazy !== true) await this.#ended();
  }

  /** Resolves when no daemon has the root any more, or after 10 seconds. */
  async #ended(): Promise<void> {
    const { isLocked } = await import('../workspace/lock.js');
    for (const deadline = Date.now() + this.settle; isLocked(this.root) && Date.now() < deadline;) await sleep(20);
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
    let lost: number | undefined;
    const onConnect = () => (lost = undefined);
    while (lost === undefined || Date.now() - lost < this.settle) {
      try {
        await this.#call('GET', path, { signal, onConnect });
        return;
      } catch (error) {
        if (error instanceof LazylayerError || signal?.aborted === true) throw error;
        lost ??= Date.now();
        await sleep(100, undefined, { signal });
      }
    }
  }

  /** Has the daemon remember what is read and asked for, from when this resolves until `finish`. @throws BUSY */
  async trace(): Promise<Recording> {
    return Recording.begin(layoutOf(this.root).control);
  }

  async cacheUsage(): Promise<CacheUsage> {
    return (await this.#call('GET', '/cache')) as CacheUsage;
  }

  async cachePrune(options: { all: boolean; keepBytes?: number }): Promise<{ layers: number; bytes: number }> {
    return (await this.#call('POST', '/cache/prune', { body: options })) as { layers: number; bytes: number };
  }

  /** Logins by reference, for the daemon's own requests. */
  async giveCredentials(given: Given): Promise<void> {
    await this.#call('POST', '/credentials', { body: given });
  }

  async #call(method: Method, path: string, ask: Ask = {}): Promise<unknown> {
    return this.#ask(method, path, ask, async (response) => {
      const answer = (await json(response)) as { error?: WireError };
      if (response.statusCode !== 200) throw fromWire(answer.error!);
      return answer;
    });
  }

  /** A connection a request: nothing is left to be closed, and a daemon that ends waits for nobody. */
  async #ask<V>(
    method: Method,
    path: string,
    { body, signal, onConnect }: Ask,
    read: (response: IncomingMessage) => Promise<V>,
  ): Promise<V> {
    const { control: socketPath } = layoutOf(this.root);
    try {
      const response = await new Promise<IncomingMessage>((resolve, reject) => {
        const request = sendRequest({ socketPath, method, path, agent: false, signal });
        request.once('response', resolve);
        if (onConnect !== undefined) request.once('socket', (socket) => socket.once('connect', onConnect));
        // For good: an error that comes when the answer has begun comes here too, as well as to whoever reads it.
        request.on('error', reject);
        request.end(body === undefined ? undefined : JSON.stringify(body));
      });
      return await read(response);
    } catch (error) {
      signal?.throwIfAborted();
      throw error;
    }
  }
}

/** The daemon that owns a root, or undefined where none runs. */
export async function findDaemon(root: string): Promise<DaemonClient | undefined> {
  const client = new DaemonClient(root);
  try {
    await client.list();
    return client;
  } catch (error) {
    if (error instanceof LazylayerError) throw error;
    return undefined;
  }
}

/** The daemon that owns `config.root`, started where none runs. One so started ends by itself when its last mount is gone. */
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
  const holder = spawn(process.execPath, [fileURLToPath(new URL('detached.js', import.meta.url))], {
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
