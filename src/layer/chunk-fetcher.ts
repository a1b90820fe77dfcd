import type { CachedLayer } from '../cache/cached-layer.js';
import { blocks, type ChunkCache } from '../cache/chunk-cache.js';
import type { Digest } from '../digest/digest.js';
import { codeOf, VerificationError } from '../errors.js';
import type { RandomAccessReader } from '../io/reader.js';
import { endOfMember, firstOfMember } from '../toc/members.js';
import { leaveOnAbort } from '../util/singleflight.js';
import type { Batch, BatchResult, ChunkTarget } from './chunk-writer.js';
import { MANY_JOIN_BYTES, ReadAhead, type ChunkSpan } from './read-ahead.js';
import type { Arrival, RangeFetch, RangeHost } from './range-fetch.js';
import { Ranges } from './ranges.js';
import { DEMAND, type FetchScheduler, type Priority } from './scheduler.js';

/** What a layer's fetching has cost and given. */
export interface FetchStats {
  /** Compressed bytes that came over the network. */
  fetchedBytes: number;
  requests: number;
  /** Uncompressed bytes taken from disk: other layers' chunks, and chunks believed again after an unclean end. */
  reusedBytes: number;
  /** Chunks whose bytes were not what the TOC claims, each time they came. */
  badChunks: number;
  /** Chunks that were served though the disk had no room for them. */
  unwrittenChunks: number;
}

/** Where bytes came from: from disk, or from a range that this read, another read, or nobody yet had asked for. */
export type ReadSource = 'cache' | 'network' | 'shared' | 'prefetch';

function sourceOf(waits: readonly { readonly range: RangeFetch; readonly joined: boolean }[]): ReadSource {
  if (waits.length === 0) return 'cache';
  if (waits.some(({ joined }) => !joined)) return 'network';
  return waits.some(({ range }) => range.demanded) ? 'shared' : 'prefetch';
}

/** A chunk that came wrong, or whose range somebody else gave up, is asked for so many times in all. */
const TRIES = 2;

/**
 * Brings a layer's chunks to its cache file, each once however many wait for it. Keeps no state a chunk: what is there is in the
 * presence bits, what is coming is in the few ranges in flight.
 */
export class ChunkFetcher {
  readonly stats: FetchStats = { fetchedBytes: 0, requests: 0, reusedBytes: 0, badChunks: 0, unwrittenChunks: 0 };
  readonly target: ChunkTarget;
  /** What is on its way. */
  readonly ranges: Ranges;
  readonly #ahead: ReadAhead;

  constructor(
    private readonly cached: CachedLayer,
    private readonly cache: ChunkCache,
    readonly scheduler: FetchScheduler,
    private readonly reader: RandomAccessReader,
    trusting: boolean,
  ) {
    const { tree, presence, fd } = cached;
    this.target = { tree, presence, fd, trusting };
    this.#ahead = new ReadAhead(
      tree,
      (chunk) => this.ranges.isKnown(chunk),
      () => scheduler.rate,
      scheduler.misses,
    );
    const host: RangeHost = {
      target: this.target,
      scheduler,
      reader,
      what: `layer ${cached.digest}`,
      counted: (bytes) => (this.stats.fetchedBytes += bytes),
      requested: () => this.stats.requests++,
      arrived: (batch, result) => this.#arrived(batch, result),
    };
    this.ranges = new Ranges(host, (chunk) => this.#reuse(chunk));
  }

  /**
   * Resolves when chunks [first, end) of a file are in the cache file. Those that the full disk did not take are in the map that it
   * resolves to. For a reader that waits, what is likely to be read next is brought along.
   * @throws VerificationError where a chunk came wrong twice; what the reader throws
   */
  async ensure(
    inode: number,
    { first, end }: ChunkSpan,
    options?: { priority?: Priority; signal?: AbortSignal; onSource?: (source: ReadSource) => void },
  ): Promise<Map<number, Uint8Array> | undefined> {
    const priority = options?.priority ?? DEMAND;
    const signal = options?.signal;
    const held = new Map<number, Uint8Array>();
    const demandEnds = priority === DEMAND ? this.scheduler.demandStarts() : undefined;
    try {
      let alone = false;
      for (let attempt = 1; ; attempt++) {
        signal?.throwIfAborted();
        this.ranges.closing.throwIfAborted();
        const waits = this.#plan(inode, { first, end }, held, priority, alone);
        if (attempt === 1 && priority === DEMAND && waits.length > 0) this.#bringAlong(inode, { first, end });
        if (attempt === 1) options?.onSource?.(sourceOf(waits));
        if (waits.length === 0) return held.size === 0 ? undefined : held;
        const error = await this.#await(waits, held, signal);
        if (error === undefined) return held.size === 0 ? undefined : held;
        signal?.throwIfAborted();
        const bad = error.reason instanceof VerificationError;
        if (attempt >= TRIES || !(bad || error.joined)) throw error.reason;
        alone = bad;
      }
    } finally {
      demandEnds?.();
    }
  }

  /** What a chunk that is on its way begins with: see `RangeFetch.glimpse`. Undefined also where it is there, or nobody has asked for it. */
  async glimpse(chunk: number, bytes: number): Promise<Uint8Array | undefined> {
    return this.target.presence.has(chunk) ? undefined : this.ranges.covering(chunk)?.glimpse(chunk, bytes);
  }

  /** Waits for all, and gives the first failure. */
  async #await(
    waits: { chunk: number; range: RangeFetch; joined: boolean; arrival: Promise<Arrival> }[],
    held: Map<number, Uint8Array>,
    signal: AbortSignal | undefined,
  ): Promise<{ reason: unknown; joined: boolean } | undefined> {
    let failure: { reason: unknown; joined: boolean } | undefined;
    let gaveUp = false;
    for (const { chunk, range, joined, arrival } of waits) {
      try {
        // After the first failure the others are still waited for, so that a second try is for what is really missing.
        const bytes = gaveUp ? undefined : await leaveOnAbort(arrival, signal);
        if (bytes !== undefined) held.set(chunk, bytes);
      } catch (reason) {
        failure ??= { reason, joined };
        gaveUp ||= signal?.aborted === true;
      } finally {
        range.leave(gaveUp);
      }
    }
    return failure;
  }

  /** Makes sure that every missing chunk of [first, end) is on its way, and gives what to wait for. */
  #plan(inode: number, { first, end }: ChunkSpan, held: Map<number, Uint8Array>, priority: Priority, alone: boolean) {
    const { presence } = this.target;
    const waits: { chunk: number; range: RangeFetch; joined: boolean; arrival: Promise<Arrival> }[] = [];
    const wait = (chunk: number, range: RangeFetch, joined: boolean) =>
      waits.push({ chunk, range, joined, arrival: range.join(chunk, priority === DEMAND) });
    let ranges: RangeFetch[] = [];
    for (let chunk = first; chunk < end; chunk++) {
      if (presence.has(chunk) || held.has(chunk)) continue;
      const own = ranges.find((r) => r.covers(chunk));
      if (own !== undefined) {
        wait(chunk, own, false);
        continue;
      }
      const coming = this.ranges.covering(chunk);
      if (coming !== undefined && this.#worthWaiting(coming, chunk)) {
        wait(chunk, coming, true);
        continue;
      }
      if (this.#reuse(chunk)) continue;
      const missing = { first: chunk, end };
      if (alone || priority !== DEMAND) ranges = ranges.concat(this.#startOwn(missing, priority, alone));
      else ranges = ranges.concat(this.#startWithMore(inode, missing, first));
      wait(
        chunk,
        ranges.find((r) => r.covers(chunk))!,
        false,
      );
    }
    return waits;
  }

  /** Near ones come soonest by waiting. A far one is taken out of its range, so that it is fetched once all the same. */
  #worthWaiting(range: RangeFetch, chunk: number): boolean {
    if (range.distanceTo(chunk) <= this.scheduler.nearBytes) return true;
    return !range.cutBefore(firstOfMember(this.target.tree, chunk));
  }

  /** Starts ranges for missing chunks and no others, `alone` for the first one's member and no other. */
  #startOwn(wanted: ChunkSpan, priority: Priority, alone: boolean): RangeFetch[] {
    const { tree } = this.target;
    const first = firstOfMember(tree, wanted.first);
    const end = alone ? endOfMember(tree, first, tree.counts.chunks) : wanted.end;
    return this.ranges.start({ first, end }, wanted, priority, this.scheduler.maxRange);
  }

  /**
   * Starts ranges for missing chunks that a reader waits for, and for what is likely to be read with them. The rest of a file follows on
   * what is waited for in the same request: a request of its own would take half of the network from it.
   */
  #startWithMore(inode: number, wanted: ChunkSpan, missed: number): RangeFetch[] {
    const window = this.#ahead.window(wanted.first, wanted.end);
    const file = this.#ahead.wholeFile(inode, missed);
    const rest = file !== undefined && file.end > window.end;
    const span = rest ? { first: window.first, end: file.end } : window;
    return this.ranges.start(span, wanted, DEMAND, rest ? this.scheduler.fileRange : this.scheduler.maxRange);
  }

  /** For a reader that waits for a part of a file: what is likely to be wanted after it. */
  #bringAlong(inode: number, { first, end }: ChunkSpan): void {
    this.readAhead(end);
    const file = this.#ahead.wholeFile(inode, first);
    if (file !== undefined) this.ranges.bring([file]);
  }

  /** Asks for programs or libraries that are about to be run. */
  bringPrograms(inodes: readonly number[]): void {
    this.ranges.bring(
      inodes.map((inode) => this.#ahead.program(inode)),
      undefined,
      (span) => this.#ahead.withRow(span),
    );
  }

  /** Asks for small files of which many are about to be read. */
  bringMany(inodes: readonly number[], around: number): void {
    const spans: ChunkSpan[] = [];
    const { first } = this.target.tree;
    // In their order, each that has come along with the one before is left out.
    for (const inode of [...inodes].sort((a, b) => first[a] - first[b]))
      if (first[inode] >= (spans.at(-1)?.end ?? 0)) spans.push(this.#ahead.oneOfMany(inode, around));
    this.ranges.bring(spans, MANY_JOIN_BYTES);
  }

  /** Only the first `bytes` of a program or library are loaded. Gives up the rest where it alone is still on its way, and nobody waits for it. */
  loads(inode: number, bytes: number): void {
    const { tree } = this.target;
    const behind = this.#ahead.loads(inode, bytes);
    const end = tree.first[inode] + tree.count[inode];
    const range = behind < end ? this.ranges.covering(behind) : undefined;
    if (range !== undefined && range.end <= end) range.cutBefore(firstOfMember(tree, behind));
  }

  /** Keeps the pipe filled for a reader that has come to `chunk` in order: asks for more once half of what lay ahead is used. */
  readAhead(chunk: number): void {
    const span = this.#ahead.next(chunk);
    if (span !== undefined) this.ranges.bring([span]);
  }

  /** The same, for one that says that it reads in order. */
  readInOrder(chunk: number): void {
    this.#ahead.inOrder(chunk);
    this.readAhead(chunk);
  }

  get name(): Digest {
    return this.cached.digest;
  }

  /** Brings all chunks to the cache from the blob's content, which is short and has come already. */
  async take(content: Uint8Array): Promise<void> {
    const { tree } = this.target;
    const input = new Uint8Array(new SharedArrayBuffer(content.byteLength)); // as whoever inflates may be another thread
    input.set(content);
    const batch = { first: 0, end: tree.counts.chunks, base: 0, input };
    if (batch.end > 0) await this.#arrived(batch, await this.scheduler.inflater.run(this.target, batch, DEMAND, true));
  }

  #reuse(chunk: number): boolean {
    const bytes = this.cache.reuse(this.cached, chunk);
    this.stats.reusedBytes += bytes;
    return bytes > 0;
  }

  async #arrived(batch: Batch, result: BatchResult): Promise<void> {
    this.stats.badChunks += result.failed.length;
    if (result.unwritten.length > 0) await this.#writeAgain(result);
    if (result.written > 0) this.cache.wrote(this.cached, batch.first, batch.end, blocks(result.written));
  }

  /** A second try for what the disk did not take, once layers that nobody uses have made room. */
  async #writeAgain(result: BatchResult): Promise<void> {
    const unwritten = result.unwritten.splice(0);
    const bytes = unwritten.reduce((sum, u) => sum + blocks(u.bytes.byteLength), 0);
    await this.cache.makeRoom(bytes, result.diskError);
    for (const piece of unwritten) {
      try {
        this.cached.store(piece.chunk, piece.bytes);
        result.written += piece.bytes.byteLength;
      } catch (error) {
        if (codeOf(error) !== 'RESOURCE_EXHAUSTED') this.cache.report(error);
        this.stats.unwrittenChunks++;
        result.unwritten.push(piece);
      }
    }
  }

  /** Aborts what is in flight and waits until no thread writes to the cache file any more. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.ranges[Symbol.asyncDispose]();
    this.scheduler.inflater.detach(this.target);
    await this.reader[Symbol.asyncDispose]();
  }
}
