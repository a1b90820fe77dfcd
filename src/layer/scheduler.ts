import { setTimeout as sleep } from 'node:timers/promises';
import { PrioritySemaphore } from '../util/semaphore.js';
import { BufferPool } from './buffers.js';
import { Inflater } from './inflater.js';
import type { Misses } from './read-ahead.js';

/** A reader waits for it. */
export const DEMAND = 0;
/** Likely to be read soon: a landmark's prefetch, read-ahead. */
export const PREFETCH = 1;
/** The rest of the layer. */
export const BACKGROUND = 2;
export type Priority = 0 | 1 | 2;

export interface FetchSchedulerOptions {
  /** Requests at once over all layers. Default 8. */
  readonly maxRequests?: number;
  /** Of these, at most so many that nobody waits for. Default 6. */
  readonly maxBulkRequests?: number;
  /** Bytes of compressed data (and of chunks too large for the worker's own buffer) held at once. Default 32 MiB. */
  readonly memoryBytes?: number;
  /** How long nobody must have read before background work goes on, in milliseconds. Default 5000. */
  readonly quietMs?: number;
}

/** Leave to send one request and to hold its bytes. */
export interface Admission {
  /** The body has ended: another request may start. */
  requestDone(): void;
  /** The bytes are gone. Gives back everything. */
  release(): void;
}

const KIB = 1024;
const MIB = 1024 * KIB;
/** Quiet times after which background work sends a request although readers never pause. */
const PATIENCE = 6;
/** Assumed until something was measured, in bytes per second. */
const FIRST_RATE = 16 * MIB;

/** What all layers share: requests in flight, memory in flight, the inflate worker, and how fast the network was of late. */
export class FetchScheduler implements AsyncDisposable {
  readonly inflater = new Inflater();
  readonly buffers: BufferPool;
  /** What readers have missed of late. */
  readonly misses: Misses = { count: 0, at: -Infinity };
  readonly #requests: PrioritySemaphore;
  readonly #bulk: PrioritySemaphore;
  readonly #memory: PrioritySemaphore;
  #rate = FIRST_RATE;
  /** Bytes of all transfers. */
  #came = 0;
  #demands = 0;
  #stirredAt = -Infinity;
  readonly #quietMs: number;

  constructor(options: FetchSchedulerOptions = {}) {
    const requests = options.maxRequests ?? 8;
    const memory = options.memoryBytes ?? 32 * MIB;
    this.#quietMs = options.quietMs ?? 5000;
    this.#requests = new PrioritySemaphore(requests, { priorities: 3 });
    this.#bulk = new PrioritySemaphore(Math.min(options.maxBulkRequests ?? 6, Math.max(1, requests - 1)), {
      priorities: 3,
    });
    this.#memory = new PrioritySemaphore(memory, { priorities: 3 });
    this.buffers = new BufferPool(memory / 4);
    this.maxRange = Math.min(2 * MIB, Math.max(64 * KIB, Math.floor(memory / 4)));
    this.fileRange = Math.min(16 * MIB, Math.max(64 * KIB, Math.floor(memory / 2)));
    this.landmarkRange = Math.min(8 * MIB, Math.max(64 * KIB, Math.floor(memory / 4)));
  }

  /** Compressed bytes that one request asks for at most (one member may be longer). */
  readonly maxRange: number;

  /** The same of a file that is brought whole: what is read of it first is at its beginning, mostly, and need not share the network. */
  readonly fileRange: number;

  /** The same of what a landmark asks for: all of it is wanted, in the order in which it lies. */
  readonly landmarkRange: number;

  /** Bytes reserved by what is in flight. */
  get memoryInUse(): number {
    return this.#memory.used;
  }

  /** Requests in flight. */
  get requestsInUse(): number {
    return this.#requests.used;
  }

  /** Bytes per second of late, of all transfers together: of one, where it is alone. */
  get rate(): number {
    return this.#rate;
  }

  /** Size of a request that nobody waits for: about a quarter of a second, so that it is soon out of a reader's way. */
  get bulkRange(): number {
    return Math.min(this.maxRange, Math.max(512 * KIB, this.#rate / 4));
  }

  /** Bytes up to which complete members are handed on together: some 10 ms of transfer. */
  get batchBytes(): number {
    return this.#rate < 6 * MIB ? 64 * KIB : this.#rate < 12 * MIB ? 128 * KIB : 256 * KIB;
  }

  /**
   * Bytes that a reader rather waits for than sends a request of its own, which takes a round trip and a part of the network, and ends
   * another before its time: about 250 ms of transfer, and never many.
   */
  get nearBytes(): number {
    return Math.min(4 * MIB, Math.max(256 * KIB, this.#rate / 4));
  }

  /** Something of a transfer came. */
  came(bytes: number): void {
    this.#came += bytes;
  }

  /** A transfer begins: what comes from now on, for whomever, until the returned function is called, tells how fast the network is. */
  measure(): () => void {
    const began = performance.now();
    const before = this.#came;
    return () => {
      const bytes = this.#came - before;
      if (bytes < 64 * KIB) return;
      const seconds = Math.max(0.1, performance.now() - began) / 1000;
      this.#rate = 0.7 * this.#rate + 0.3 * (bytes / seconds);
    };
  }

  /**
   * Waits for leave in order of priority. Everything is taken before anything is held and waited with. `weigh` tells the bytes that it takes,
   * once it is the request's turn.
   */
  async admit(priority: Priority, weigh: () => number, signal?: AbortSignal): Promise<Admission> {
    const held: (() => void)[] = [];
    const release = () => held.splice(0).forEach((give) => give());
    try {
      if (priority !== DEMAND) held.push(await this.#bulk.acquire(priority, 1, signal));
      const memory = await this.#memory.acquire(priority, weigh(), signal);
      held.push(memory);
      const request = await this.#requests.acquire(priority, 1, signal);
      held.push(request);
      return { requestDone: request, release };
    } catch (error) {
      release();
      throw error;
    }
  }

  /** Counts a reader in until the returned function is called. */
  demandStarts(): () => void {
    this.#demands++;
    return () => {
      this.#demands--;
      this.stir();
    };
  }

  /** Somebody is about to read: what can wait begins its wait anew. */
  stir(): void {
    this.#stirredAt = performance.now();
  }

  /**
   * Resolves when nobody has read from the network for a while: a program that starts pauses between its reads, and every byte that it did
   * not ask for delays those that it will. Also after a longer while in any case, so that the work goes on where readers never
   * pause.
   * @throws the signal's reason
   */
  async politely(signal?: AbortSignal): Promise<void> {
    const patience = performance.now() + PATIENCE * this.#quietMs;
    for (;;) {
      const now = performance.now();
      const quietFor = this.#demands > 0 ? 0 : now - this.#stirredAt;
      const wait = Math.min(this.#quietMs - quietFor, patience - now);
      if (wait <= 0) return;
      await sleep(wait, undefined, { signal });
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.inflater[Symbol.asyncDispose]();
  }
}
