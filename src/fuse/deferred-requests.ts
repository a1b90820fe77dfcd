import { readFileSync, writevSync } from 'node:fs';
import { constants } from 'node:os';
import { errnoOf, VerificationError } from '../errors.js';
import { isGone, isResent, OUT_HEADER, putHeader, uniqueOf } from './codec.js';
import type { FuseHost } from './server.js';
import type { DeferredLookup, DeferredRead, DeferredRequest, DeferredUse, DeferredWake } from './session-output.js';

interface Waiting {
  readonly request: DeferredRequest;
  readonly abort: AbortController;
  /** Replies, with 0 or an errno. */
  readonly finish: (errno: number, data?: Uint8Array) => void;
  /** Looks again whether the reader is being killed. */
  timer?: NodeJS.Timeout;
}

const lookAgainMs = 200;

/**
 * Requests that wait for the main thread. Each is answered once: with what the host gave, an errno, or EINTR once the thread that
 * waits for it is being killed. READs are answered here, by one write to the device, all others through `answer`.
 */
export class DeferredRequests {
  readonly #fd: number;
  readonly #host: FuseHost;
  readonly #answer: (request: DeferredRequest, errno: number) => void;
  readonly #waiting = new Map<number, Waiting>();
  #reads = 0;
  #closed = false;

  constructor(fd: number, host: FuseHost, answer: (request: DeferredRequest, errno: number) => void) {
    this.#fd = fd;
    this.#host = host;
    this.#answer = answer;
  }

  /** How many READs wait now. */
  get reads(): number {
    return this.#reads;
  }

  async read(read: DeferredRead): Promise<void> {
    if (this.#closed) return;
    this.#reads++;
    const work = async (signal: AbortSignal) => {
      const { slot, inode, offset, size, path, pid } = read;
      const bytes = await (path === undefined
        ? this.#host.read(slot, inode, offset, size, signal, pid)
        : this.#host.store!.read(path, offset, size, signal));
      // The kernel would take fewer bytes for the end of the file, and show zeros in their place.
      if (bytes.byteLength !== read.size)
        throw new VerificationError('bytes of a file', `${read.size} bytes`, `${bytes.byteLength} bytes`);
      return bytes;
    };
    await this.#wait(read, work, read, (errno, data) => {
      this.#reads--;
      this.#write(read, errno, data);
    });
  }

  async lookup(lookup: DeferredLookup): Promise<void> {
    if (this.#closed) return;
    const work = async (signal: AbortSignal) => this.#host.resolve?.(lookup.path, signal);
    await this.#wait(lookup, work, undefined, (errno) => this.#answer(lookup, errno));
  }

  async use(use: DeferredUse): Promise<void> {
    if (this.#closed) return;
    const { change, path, uniqueLow, uniqueHigh } = use;
    const request = { id: uniqueOf(uniqueLow, uniqueHigh), again: isResent(uniqueHigh) };
    const work = async () => this.#host.store?.[change](path, request);
    await this.#wait(use, work, undefined, (errno) => this.#answer(use, errno));
  }

  async wake(wake: DeferredWake): Promise<void> {
    if (this.#closed) return;
    const work = async (signal: AbortSignal) => this.#host.wake?.(wake.slot, signal);
    await this.#wait(wake, work, undefined, (errno) => this.#answer(wake, errno));
  }

  async #wait(
    request: DeferredRequest,
    work: (signal: AbortSignal) => Promise<Uint8Array | undefined | void>,
    read: DeferredRead | undefined,
    finish: Waiting['finish'],
  ): Promise<void> {
    const waiting: Waiting = { request, abort: new AbortController(), finish };
    this.#waiting.set(uniqueOf(request.uniqueLow, request.uniqueHigh), waiting);
    try {
      const data = await work(waiting.abort.signal);
      this.#finish(waiting, 0, data ?? undefined);
    } catch (error) {
      if (!waiting.abort.signal.aborted) this.#host.onError?.(error, read);
      this.#finish(waiting, errnoOf(error));
    }
  }

  /**
   * The kernel tells of any signal, once, and waits on. An ordinary signal must not end the request: programs do not expect EINTR
   * of a file. So only a thread that is being killed gets it, now or when it comes to that.
   */
  interrupt(uniqueLow: number, uniqueHigh: number): void {
    const waiting = this.#waiting.get(uniqueOf(uniqueLow, uniqueHigh));
    if (waiting === undefined) return;
    if (isDying(waiting.request.pid)) {
      this.#finish(waiting, constants.errno.EINTR);
      waiting.abort.abort();
    } else {
      waiting.timer = setTimeout(() => this.interrupt(uniqueLow, uniqueHigh), lookAgainMs).unref();
    }
  }

  /** No reply is written from now on: the descriptor may be closed, and its number another file's. */
  close(): void {
    this.#closed = true;
    for (const { abort, timer } of this.#waiting.values()) {
      clearTimeout(timer);
      abort.abort();
    }
    this.#waiting.clear();
    this.#reads = 0;
  }

  #finish({ request, timer, finish }: Waiting, errno: number, data?: Uint8Array): void {
    if (!this.#waiting.delete(uniqueOf(request.uniqueLow, request.uniqueHigh))) return;
    clearTimeout(timer);
    finish(errno, data);
  }

  #write(read: DeferredRead, errno: number, data?: Uint8Array): void {
    const header = new Uint32Array(OUT_HEADER / 4);
    putHeader(header, OUT_HEADER + (data?.byteLength ?? 0), -errno, read.uniqueLow, read.uniqueHigh);
    try {
      writevSync(this.#fd, data === undefined ? [header] : [header, data]);
    } catch (error) {
      if (!isGone(error)) this.#host.onError?.(error, read);
    }
  }
}

/** Whether a fatal signal is pending for the thread: the kernel then marks each thread of its process with SIGKILL. */
function isDying(pid: number): boolean {
  try {
    const pending = /^SigPnd:\s*([0-9a-f]+)$/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))?.[1];
    return pending !== undefined && (parseInt(pending.slice(-8), 16) & (1 << (constants.signals.SIGKILL - 1))) !== 0;
  } catch {
    return false;
  }
}
