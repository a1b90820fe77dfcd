import { readFileSync, writevSync } from 'node:fs';
import { constants } from 'node:os';
import { errnoOf, VerificationError } from '../errors.js';
import { OUT_HEADER, putHeader } from './codec.js';
import type { FuseHost } from './server.js';
import type { DeferredRead } from './session.js';

interface Waiting {
  readonly read: DeferredRead;
  readonly abort: AbortController;
  /** Looks again whether the reader is being killed. */
  timer?: NodeJS.Timeout;
}

const lookAgainMs = 200;

/**
 * READs that wait for bytes on the main thread. Each is answered by one write to the device: its data, an errno, or EINTR once
 * its reader is being killed.
 */
export class DeferredReads {
  readonly #fd: number;
  readonly #host: FuseHost;
  readonly #waiting = new Map<number, Waiting>();
  #closed = false;

  constructor(fd: number, host: FuseHost) {
    this.#fd = fd;
    this.#host = host;
  }

  /** How many wait now. */
  get size(): number {
    return this.#waiting.size;
  }

  async answer(read: DeferredRead): Promise<void> {
    if (this.#closed) return;
    const waiting: Waiting = { read, abort: new AbortController() };
    this.#waiting.set(keyOf(read.uniqueLow, read.uniqueHigh), waiting);
    try {
      const bytes = await this.#host.read(read.slot, read.inode, read.offset, read.size, waiting.abort.signal);
      // The kernel would take fewer bytes for the end of the file, and show zeros in their place.
      if (bytes.byteLength !== read.size)
        throw new VerificationError('bytes of a file', `${read.size} bytes`, `${bytes.byteLength} bytes`);
      this.#reply(waiting, 0, bytes);
    } catch (error) {
      if (!waiting.abort.signal.aborted) this.#host.onError?.(error, read);
      this.#reply(waiting, errnoOf(error));
    }
  }

  /**
   * The kernel tells of any signal, once, and waits on. An ordinary signal must not end the read: programs do not expect EINTR
   * of a file. So only a reader that is being killed gets it, now or when it comes to that.
   */
  interrupt(uniqueLow: number, uniqueHigh: number): void {
    const waiting = this.#waiting.get(keyOf(uniqueLow, uniqueHigh));
    if (waiting === undefined) return;
    if (isDying(waiting.read.pid)) {
      this.#reply(waiting, constants.errno.EINTR);
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
  }

  #reply({ read, timer }: Waiting, errno: number, data?: Uint8Array): void {
    if (this.#closed || !this.#waiting.delete(keyOf(read.uniqueLow, read.uniqueHigh))) return;
    clearTimeout(timer);
    const header = new Uint32Array(OUT_HEADER / 4);
    putHeader(header, OUT_HEADER + (data?.byteLength ?? 0), -errno, read.uniqueLow, read.uniqueHigh);
    try {
      writevSync(this.#fd, data === undefined ? [header] : [header, data]);
    } catch (error) {
      // ENOENT: who asked is gone. ENODEV: so is the mount, and the worker will say so.
      const { code } = error as NodeJS.ErrnoException;
      if (code !== 'ENOENT' && code !== 'ENODEV') this.#host.onError?.(error, read);
    }
  }
}

/** Uniques count up from 0 and bit 63 marks a request that is sent again: without it they are exact as a double. */
function keyOf(uniqueLow: number, uniqueHigh: number): number {
  return (uniqueHigh & 0x7fff_ffff) * 2 ** 32 + uniqueLow;
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
