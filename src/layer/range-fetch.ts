import { LazylayerError, VerificationError } from '../errors.js';
import { inflateBeginning } from '../estargz/member.js';
import type { RandomAccessReader, ReadReason } from '../io/reader.js';
import { endOfMember } from '../toc/members.js';
import { hasBegun } from './early-range.js';
import type { Batch, BatchResult, ChunkTarget } from './chunk-writer.js';
import type { ChunkSpan } from './read-ahead.js';
import { DEMAND, type Admission, type FetchScheduler, type Priority } from './scheduler.js';

/** What a range needs of the layer it belongs to. */
export interface RangeHost {
  readonly target: ChunkTarget;
  readonly scheduler: FetchScheduler;
  readonly reader: RandomAccessReader;
  /** Names the layer in errors. */
  readonly what: string;
  counted(bytes: number): void;
  requested(): void;
  /**
   * Chunks of a batch are present. Where the disk took some not, gives those that still are not, after a second try: their
   * bytes are for those who wait.
   */
  arrived(batch: Batch, result: BatchResult): Promise<void>;
}

const reasons = ['demand', 'prefetch', 'background'] as const satisfies Record<Priority, ReadReason>;

/** What a waiter gets: nothing when the chunk is in the cache file, its bytes when the disk had no room. */
export type Arrival = Uint8Array | undefined;

interface Wait {
  readonly promise: Promise<Arrival>;
  readonly resolve: (bytes: Arrival) => void;
  readonly reject: (error: unknown) => void;
}

/** Somebody wants to see the first `bytes` compressed bytes of the member at blob offset `from` before the rest has come. */
interface Glimpse {
  readonly from: number;
  readonly bytes: number;
  readonly chunk: number;
  readonly resolve: (beginning: Uint8Array | undefined) => void;
}

interface Filling {
  readonly first: number;
  readonly end: number;
  readonly from: number;
  readonly to: number;
  readonly buffer: SharedArrayBuffer;
}

/**
 * One request for neighbouring chunks [first, end). Its bytes are inflated batch by batch as they come, so that who waits for
 * the first chunk does not wait for the last. Chunks that are present already ride along unused.
 */
export class RangeFetch {
  readonly #waits = new Map<number, Wait>();
  #glimpses: Glimpse[] = [];
  /** Chunks that came and are not in the cache file: bad ones, and those that the disk had no room for. */
  readonly #missed = new Set<number>();
  readonly #controller = new AbortController();
  readonly #urged = new AbortController();
  #filling: Filling | undefined;
  /** Compressed bytes up to here have come. */
  #received: number;
  #next: number;
  #waiters = 0;
  /** Until it is its turn. */
  #queued = false;
  #useful = false;
  #over = false;
  /** Begun for a reader: when nobody reads any more, it is for nothing. */
  readonly demanded: boolean;

  constructor(
    private readonly host: RangeHost,
    public first: number,
    /** Shrinks where a reader takes over the rest. */
    public end: number,
    private priority: Priority,
  ) {
    this.#received = host.target.tree.chunkOffset[first];
    this.#next = first;
    this.demanded = priority === DEMAND;
  }

  /** Whether the chunk will come with this range. */
  covers(chunk: number): boolean {
    return !this.#over && chunk >= this.first && chunk < this.end && !this.#missed.has(chunk);
  }

  /** Whether it is not its turn yet, nor does a reader wait for it: more may come with it. */
  get waits(): boolean {
    return this.#queued && this.priority !== DEMAND;
  }

  /** Brings these chunks, which hold its own, while it `waits`. */
  take({ first, end }: ChunkSpan): void {
    this.first = this.#next = first;
    this.end = end;
    this.#received = this.host.target.tree.chunkOffset[first];
  }

  /** Compressed bytes still to come before the chunk's own. */
  distanceTo(chunk: number): number {
    return this.host.target.tree.chunkOffset[chunk] - this.#received;
  }

  /** Compressed bytes of chunks [first, end) that are still to come with this range. */
  bytesLeft(first: number, end: number): number {
    const { tree } = this.host.target;
    const [from, stop] = [Math.max(first, this.first), Math.min(end, this.end)];
    if (this.#over || from >= stop) return 0;
    return Math.max(0, tree.chunkEnd(stop - 1) - Math.max(tree.chunkOffset[from], this.#received));
  }

  /** Leaves the chunks from `chunk` on, the first of a member, to somebody else. False when they are about to come anyway. */
  cutBefore(chunk: number): boolean {
    if (chunk <= (this.#filling?.end ?? this.#next)) return false;
    for (const waited of this.#waits.keys()) if (waited >= chunk) return false;
    this.end = chunk;
    return true;
  }

  /** Waits for one chunk of the range. `urgent` waits make the range's work urgent. */
  join(chunk: number, urgent: boolean): Promise<Arrival> {
    if (urgent && this.priority !== DEMAND) {
      this.priority = DEMAND;
      this.#urged.abort();
    }
    let wait = this.#waits.get(chunk);
    if (wait === undefined) {
      let resolve!: (bytes: Arrival) => void;
      let reject!: (error: unknown) => void;
      const promise = new Promise<Arrival>((yes, no) => ((resolve = yes), (reject = no)));
      promise.catch(() => {}); // whoever waited may have left
      wait = { promise, resolve, reject };
      this.#waits.set(chunk, wait);
    }
    this.#waiters++;
    return wait.promise;
  }

  /**
   * What a long member begins with, a chunk's first bytes, as soon as `bytes` compressed ones have come: UNVERIFIED, to guess by what comes
   * next, and for nothing else. Undefined where the whole of it comes about as soon.
   */
  glimpse(chunk: number, bytes: number): Promise<Uint8Array | undefined> {
    const { tree } = this.host.target;
    const from = tree.chunkOffset[chunk];
    const length = tree.chunkEnd(chunk) - from;
    if (length < GLIMPSED_BYTES || bytes >= length || tree.chunkInner[chunk] > 0 || chunk < this.#next || this.#over)
      return Promise.resolve(undefined);
    return new Promise((resolve) => {
      this.#glimpses.push({ from, bytes, chunk, resolve });
      this.#show();
    });
  }

  /** Answers those who wait for a glimpse of what has come. */
  #show(): void {
    this.#glimpses = this.#glimpses.filter(({ from, bytes, chunk, resolve }) => {
      const filling = this.#filling;
      if (this.#received - from < bytes || filling === undefined || chunk < filling.first || chunk >= filling.end) {
        const gone = this.#over || chunk < this.#next;
        if (gone) resolve(undefined);
        return !gone;
      }
      const most = Math.min(this.host.target.tree.chunkSize[chunk], bytes * GLIMPSE_RATIO);
      try {
        const part = new Uint8Array(filling.buffer, from - filling.from, this.#received - from);
        resolve(inflateBeginning(part, new Uint8Array(most)));
      } catch {
        resolve(undefined); // who verifies it tells of it
      }
      return false;
    });
  }

  /** Ends one `join`. The request is aborted when its last waiter gave up before any was served. */
  leave(gaveUp: boolean): void {
    this.#waiters--;
    if (!gaveUp) this.#useful = true;
    if (this.#waiters === 0 && !this.#useful && this.demanded)
      this.#controller.abort(new LazylayerError('ABORTED', 'nobody waits for this range any more'));
  }

  /** Fetches. Settles when all batches are through and never rejects: failures go to the waiters, and are returned. */
  async run(admission: Admission | undefined, signal: AbortSignal): Promise<{ failed: number; error: unknown }> {
    const { scheduler } = this.host;
    const aborted = AbortSignal.any([signal, this.#controller.signal]);
    const batches: Promise<number>[] = [];
    let leave = admission;
    let error: unknown;
    try {
      leave ??= await this.#admission(aborted);
      await this.#receive(batches, aborted);
    } catch (e) {
      error = e;
    }
    leave?.requestDone();
    if (this.#filling !== undefined) scheduler.buffers.give(this.#filling.buffer);
    this.#filling = undefined;
    // Each batch reports its own failure to its waiters; what never came is reported below.
    const settled = await Promise.allSettled(batches);
    leave?.release();
    this.#over = true;
    this.#show();
    let failed = 0;
    for (const outcome of settled) {
      if (outcome.status === 'fulfilled') failed += outcome.value;
      else error ??= outcome.reason;
    }
    if (error !== undefined) for (const wait of this.#waits.values()) wait.reject(error);
    else for (const [chunk, wait] of this.#waits) this.#answer(chunk, wait);
    return { failed, error };
  }

  /** Leave to start. Asked for again, as urgent, once a reader waits for a range that has none yet. */
  async #admission(signal: AbortSignal): Promise<Admission> {
    const { scheduler, target } = this.host;
    const weigh = () => {
      this.#queued = false;
      return weightOf(target, this.first, this.end);
    };
    if (this.priority !== DEMAND) {
      const urged = this.#urged.signal;
      this.#queued = true;
      try {
        return await scheduler.admit(this.priority, weigh, AbortSignal.any([signal, urged]));
      } catch (error) {
        if (!urged.aborted) throw error;
      }
    }
    return scheduler.admit(DEMAND, weigh, signal);
  }

  #answer(chunk: number, wait: Wait): void {
    if (this.host.target.presence.has(chunk)) wait.resolve(undefined);
    else wait.reject(new LazylayerError('INTERNAL', `${this.host.what}, chunk ${chunk}: its range ended without it`));
  }

  async #receive(batches: Promise<number>[], signal: AbortSignal): Promise<void> {
    const { host } = this;
    const { tree } = host.target;
    const start = this.#received;
    const stop = tree.chunkEnd(this.end - 1);
    let measured: (() => void) | undefined;
    host.requested();
    host.scheduler.inflater.prepare(stop - start);
    // What has come before tells nothing of the network now, and was counted then.
    const ahead = hasBegun(host.reader, start, stop - start);
    for await (const piece of host.reader.stream(start, stop - start, { signal, reason: reasons[this.priority] })) {
      if (!ahead) {
        measured ??= host.scheduler.measure();
        host.scheduler.came(piece.byteLength);
      }
      host.counted(piece.byteLength);
      this.#accept(piece, batches);
      // Cut short by a reader that wanted a later part sooner: the rest of the body is not worth its time. Where all has come,
      // the loop ends by itself, and the connection stays good.
      if (this.#next >= this.end && this.#received < stop) break;
    }
    measured?.();
    if (this.#next < this.end)
      throw new VerificationError(host.what, `${stop - start} bytes from ${start}`, `${this.#received - start} bytes`);
  }

  #accept(piece: Uint8Array, batches: Promise<number>[]): void {
    for (let at = 0; at < piece.byteLength && this.#next < this.end;) {
      const filling = (this.#filling ??= this.#startBatch());
      if (this.#received < filling.from) {
        // Bytes between members that belong to no chunk.
        const gap = Math.min(piece.byteLength - at, filling.from - this.#received);
        at += gap;
        this.#received += gap;
        continue;
      }
      const length = Math.min(piece.byteLength - at, filling.to - this.#received);
      new Uint8Array(filling.buffer, this.#received - filling.from, length).set(piece.subarray(at, at + length));
      at += length;
      this.#received += length;
      if (this.#glimpses.length > 0) this.#show();
      if (this.#received < filling.to) return;
      this.#filling = undefined;
      this.#next = filling.end;
      const batch = this.#process(filling);
      batch.catch(() => {}); // looked at when the range ends
      batches.push(batch);
    }
  }

  /** Whole members that are worth handing on together. The first batch ends with the member that is waited for. */
  #startBatch(): Filling {
    const { target, scheduler } = this.host;
    const { tree } = target;
    const first = this.#next;
    const from = tree.chunkOffset[first];
    const limit = from + scheduler.batchBytes; // a power of two, as buffers are: filled, not just exceeded
    let end = endOfMember(tree, first, this.end);
    let stop = tree.chunkEnd(first);
    while (end < this.end && !(first === this.first && this.#waits.has(end - 1))) {
      const next = endOfMember(tree, end, this.end);
      const nextStop = tree.chunkEnd(end);
      if (nextStop > limit || tree.chunkCache[next - 1] - tree.chunkCache[first] > MAX_BATCH_OUTPUT) break;
      end = next;
      stop = nextStop;
    }
    return { first, end, from, to: stop, buffer: scheduler.buffers.take(stop - from) };
  }

  /** @returns how many chunks failed */
  async #process(filling: Filling): Promise<number> {
    const { host } = this;
    const { buffers, inflater } = host.scheduler;
    const { first, end, from, to, buffer } = filling;
    const batch: Batch = { first, end, base: from, input: new Uint8Array(buffer, 0, to - from) };
    // The beginning of an urgent range is what a reader waits for; and so is whatever is waited for, if only to know what comes next.
    const near = to - this.host.target.tree.chunkOffset[this.first] <= NOW_BYTES;
    const now = near && (this.priority === DEMAND || this.#waitedFor(first, end));
    let result: BatchResult;
    try {
      result = await inflater.run(host.target, batch, this.priority, now);
    } finally {
      buffers.give(buffer);
    }
    await host.arrived(batch, result);
    this.#settle(batch, result);
    return result.failed.length;
  }

  #settle(batch: Batch, result: BatchResult): void {
    for (const { chunk } of result.failed) this.#missed.add(chunk);
    for (const { chunk } of result.unwritten) this.#missed.add(chunk);
    if (this.#waits.size === 0) return;
    for (const { chunk, expected, found } of result.failed) {
      const error = new VerificationError(`${this.host.what}, chunk ${chunk}`, expected, found);
      this.#take(chunk)?.reject(error);
    }
    for (const { chunk, bytes } of result.unwritten) this.#take(chunk)?.resolve(bytes);
    for (let chunk = batch.first; chunk < batch.end && this.#waits.size > 0; chunk++) {
      const wait = this.#take(chunk);
      if (wait !== undefined) this.#answer(chunk, wait);
    }
  }

  #waitedFor(first: number, end: number): boolean {
    for (const chunk of this.#waits.keys()) if (chunk >= first && chunk < end) return true;
    return false;
  }

  #take(chunk: number): Wait | undefined {
    const wait = this.#waits.get(chunk);
    this.#waits.delete(chunk);
    return wait;
  }
}

/** Compressed bytes of an urgent range that are inflated at once where the batches are small. */
const NOW_BYTES = 128 * 1024;
/** Compressed bytes of a member from which on its beginning is worth a look before the rest has come: some 5 ms of transfer. */
const GLIMPSED_BYTES = 128 * 1024;
/** Times that a glimpse may be larger than what it was inflated from. */
const GLIMPSE_RATIO = 8;
/** Output of a batch beyond which it is cut, in bytes. */
const MAX_BATCH_OUTPUT = 2 * 1024 * 1024;
/** Chunks beyond this do not fit the worker's own buffer. */
const LARGE_CHUNK = 4 * 1024 * 1024;

/** Memory that a range of these chunks takes while it is in flight, in bytes. */
export function weightOf(target: ChunkTarget, first: number, end: number): number {
  const { tree } = target;
  let largest = 0;
  for (let chunk = first; chunk < end; chunk++) largest = Math.max(largest, tree.chunkSize[chunk]);
  return tree.compressedBytes(first, end) + (largest > LARGE_CHUNK ? largest : 0);
}
