import { Worker } from 'node:worker_threads';
import { LazylayerError } from '../errors.js';
import type { LayerView, SleepingLayer } from '../fs/layer-nodes.js';
import { MAX_SLOT } from '../fs/nodes.js';
import type { ReferenceLayer } from '../fs/served-tree.js';
import { checkByteOrder, type Negotiated } from './codec.js';
import { DeferredRequests } from './deferred-requests.js';
import { Count, shared, type ToMain, type ToWorker, type WorkerSetup } from './messages.js';
import { setReadAhead, type FuseConnection } from './mount.js';
import type { ReadRing } from './read-ring.js';
import type { FuseHost, FuseServer, FuseStats, ServeOptions } from './server.js';

/**
 * Serves a connection from a worker thread. With `resume`, one that an earlier process negotiated and served: the kernel sends what that one
 * left unanswered again, so `layers` must hold all that it had attached. Takes the descriptor over: it is closed in this process
 * when the server is disposed, or after the unmount. Disposing does not unmount: whoever holds the connection does.
 */
export async function serveConnection(
  connection: FuseConnection,
  host: FuseHost,
  options: ServeOptions & { readonly resume?: Negotiated } = {},
): Promise<FuseServer> {
  checkByteOrder();
  const server = new KernelServer(connection, host, options);
  await server.ready;
  return server;
}

class KernelServer implements FuseServer {
  readonly ready: Promise<void>;
  readonly ended: Promise<void>;
  negotiated: Negotiated | undefined;
  readonly #worker: Worker;
  readonly #deferred: DeferredRequests;
  readonly #counts = new Uint32Array(new SharedArrayBuffer(4 * Count.size));
  /** Only the pages of slots that are used take memory. */
  readonly #touched = new Uint8Array(new SharedArrayBuffer(MAX_SLOT + 1));
  readonly #calls = new Map<number, { resolve: () => void; reject: (error: unknown) => void }>();
  #calling = 0;
  #stopped = false;

  constructor(connection: FuseConnection, host: FuseHost, options: ServeOptions & { readonly resume?: Negotiated }) {
    this.#deferred = new DeferredRequests(connection.fd, host, ({ uniqueLow: low, uniqueHigh: high }, errno) =>
      this.#say({ type: 'look-again', low, high, errno }),
    );
    this.negotiated = options.resume;
    const resume = options.resume !== undefined;
    const workerData: WorkerSetup = {
      fd: connection.fd,
      counts: this.#counts.buffer,
      touched: this.#touched.buffer,
      pool: options.pool,
      resolves: host.resolve !== undefined,
      layers: (options.layers ?? []).map(shared),
      asleep: options.asleep ?? [],
      references: options.references ?? [],
      stayAwake: options.stayAwake ?? false,
      looks: host.lookedUp !== undefined,
      tellsOfNewcomers: host.newcomer !== undefined,
      resume,
    };
    this.#worker = new Worker(new URL('./worker.js', import.meta.url), {
      workerData,
      name: 'fuse',
      resourceLimits: { maxYoungGenerationSizeMb: 2 },
    });
    this.ready = new Promise((resolve, reject) => {
      if (resume) this.#worker.once('online', resolve);
      this.#worker.on('message', (message: ToMain) => {
        if (message.type === 'negotiated') {
          this.negotiated = message.negotiated;
          setReadAhead(connection.mountpoint).then(resolve, reject);
        } else this.#hear(message, host);
      });
      this.#worker.once('exit', () =>
        reject(new LazylayerError('UNAVAILABLE', `${connection.mountpoint} was unmounted before it was served`)),
      );
    });
    this.ended = new Promise((resolve, reject) => {
      this.#worker.once('error', (error) => {
        host.onError?.(error);
        reject(error);
      });
      this.#worker.once('exit', () => {
        this.#stop();
        resolve();
      });
    });
    this.ended.catch(() => {}); // not everybody looks at it
  }

  get stats(): FuseStats {
    const [requests, cachedReads, deferredReads] = this.#counts;
    return { requests, cachedReads, deferredReads, waitingReads: this.#deferred.reads };
  }

  attach(view: LayerView): Promise<void> {
    return this.#call((id) => ({ type: 'attach', id, layer: shared(view) }));
  }

  sleep(layer: SleepingLayer): Promise<void> {
    return this.#call((id) => ({ type: 'sleep', id, layer }));
  }

  touched(slot: number): boolean {
    return Atomics.exchange(this.#touched, slot, 0) === 1;
  }

  detach(slot: number): Promise<void> {
    return this.#call((id) => ({ type: 'detach', id, slot }));
  }

  setReference(reference: string, layers: readonly ReferenceLayer[] | undefined): Promise<void> {
    return this.#call((id) => ({ type: 'reference', id, reference, layers }));
  }

  trace(ring: ReadRing | undefined): Promise<void> {
    return this.#call((id) => ({ type: 'trace', id, ring: ring?.buffer }));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop();
    this.#say({ type: 'close' });
    await this.ended;
  }

  #say(message: ToWorker): void {
    this.#worker.postMessage(message);
  }

  #call(message: (id: number) => ToWorker): Promise<void> {
    if (this.#stopped) return Promise.reject(notServed());
    const id = this.#calling++;
    return new Promise((resolve, reject) => {
      this.#calls.set(id, { resolve, reject });
      this.#say(message(id));
    });
  }

  #hear(message: ToMain, host: FuseHost): void {
    switch (message.type) {
      case 'read':
        void this.#deferred.read(message.read);
        break;
      case 'lookup':
        void this.#deferred.lookup(message.lookup);
        break;
      case 'use':
        void this.#deferred.use(message.use);
        break;
      case 'wake':
        void this.#deferred.wake(message.wake);
        break;
      case 'looked-up':
        host.lookedUp?.(message.slot, message.wanted);
        break;
      case 'newcomer':
        host.newcomer?.(message.slot, message.pid);
        break;
      case 'interrupt':
        this.#deferred.interrupt(message.low, message.high);
        break;
      case 'done': {
        const call = this.#calls.get(message.id);
        this.#calls.delete(message.id);
        if (message.error === undefined) call?.resolve();
        else call?.reject(new LazylayerError(message.error.code, message.error.message));
        break;
      }
      case 'error':
        host.onError?.(new LazylayerError('INTERNAL', message.message));
        break;
      case 'ended':
        if (message.error !== undefined) host.onError?.(new LazylayerError('UNAVAILABLE', message.error));
        // Only now, when no thread writes to it any more, may the worker close the descriptor.
        this.#stop();
        this.#say({ type: 'close' });
    }
  }

  #stop(): void {
    this.#stopped = true;
    this.#deferred.close();
    for (const { reject } of this.#calls.values()) reject(notServed());
    this.#calls.clear();
  }
}

function notServed(): LazylayerError {
  return new LazylayerError('UNAVAILABLE', 'the filesystem is no longer served');
}
