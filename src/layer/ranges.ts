import { LazylayerError } from '../errors.js';
import { endOfMember, firstOfMember } from '../toc/members.js';
import { comesAlong, hasBegun } from './early-range.js';
import { GAP_BYTES, JOIN_BYTES, type ChunkSpan } from './read-ahead.js';
import { RangeFetch, weightOf, type RangeHost } from './range-fetch.js';
import { PREFETCH, type Admission, type Priority } from './scheduler.js';

/** Uncompressed bytes that one look for chunks on disk takes in at most, as it holds the event loop. */
const REUSE_BYTES = 1024 * 1024;

/** How a range ended: how many of its chunks came wrong, and what it failed by. */
export interface RangeOutcome {
  readonly failed: number;
  readonly error: unknown;
}

/** The ranges of a layer that are on their way, and where the next ones begin and end, so that no chunk is asked for twice. */
export class Ranges implements AsyncDisposable {
  readonly #host: RangeHost;
  /** Takes a chunk from another layer's file where the disk has it. */
  readonly #reuse: (chunk: number) => boolean;
  readonly #ranges = new Set<RangeFetch>();
  readonly #running = new Set<Promise<unknown>>();
  readonly #closing = new AbortController();

  constructor(host: RangeHost, reuse: (chunk: number) => boolean) {
    this.#host = host;
    this.#reuse = reuse;
  }

  /** The range that a chunk comes with; undefined where nobody has asked for it, or it is there. */
  covering(chunk: number): RangeFetch | undefined {
    for (const range of this.#ranges) if (range.covers(chunk)) return range;
    return undefined;
  }

  /** Compressed bytes of chunks [first, end) that were asked for and have not come yet. */
  bytesLeft({ first, end }: ChunkSpan): number {
    let bytes = 0;
    for (const range of this.#ranges) bytes += range.bytesLeft(first, end);
    return bytes;
  }

  /** Whether the chunk is there or on its way. */
  isKnown(chunk: number): boolean {
    return this.#host.target.presence.has(chunk) || this.covering(chunk) !== undefined;
  }

  /**
   * Starts ranges of up to `limit` compressed bytes for what is missing of a span, at `priority` those that have a part of what is `wanted`:
   * what nobody asked for yet is no demand.
   */
  start(span: ChunkSpan, wanted: ChunkSpan, priority: Priority, limit: number): RangeFetch[] {
    const ranges: RangeFetch[] = [];
    const next = (from: number) => {
      const found = this.#nextToFetch(from, span.end);
      if (found !== 'more on disk') return found;
      // Enough for one turn: the rest is looked for when it is read.
      return from < wanted.first ? wanted.first : span.end;
    };
    for (let at = next(span.first); at < span.end;) {
      const end = this.#extent(at, span.end, limit);
      const asked = at < wanted.end && end > wanted.first;
      ranges.push(this.#start(at, end, asked ? priority : (Math.max(priority, PREFETCH) as Priority)));
      at = next(end);
    }
    return ranges;
  }

  #start(first: number, end: number, priority: Priority): RangeFetch {
    if (priority === PREFETCH) for (const range of this.#ranges) if (this.#takesIn(range, { first, end })) return range;
    const range = new RangeFetch(this.#host, first, end, priority);
    void this.#run(range, undefined);
    return range;
  }

  /** Has a range that still waits for its turn bring more that lies near it, rather than that a second one waits beside it. */
  #takesIn(range: RangeFetch, { first, end }: ChunkSpan): boolean {
    if (!range.waits) return false;
    const { tree } = this.#host.target;
    const between = first >= range.end ? { first: range.end, end: first } : { first: end, end: range.first };
    // Also bytes that belong to no chunk, as of files that were replaced.
    if (tree.chunkOffset[between.end] - tree.chunkEnd(between.first - 1) > JOIN_BYTES) return false;
    const both = { first: Math.min(first, range.first), end: Math.max(end, range.end) };
    if (tree.compressedBytes(both.first, both.end) > this.#host.scheduler.fileRange) return false;
    for (let chunk = between.first; chunk < between.end; chunk++) if (this.isKnown(chunk)) return false;
    range.take(both);
    return true;
  }

  /** Whether a request for these chunks went out before the tree was there. */
  hasBegun({ first, end }: ChunkSpan): boolean {
    const { target, reader } = this.#host;
    return hasBegun(reader, target.tree.chunkOffset[first], target.tree.compressedBytes(first, end));
  }

  /** Whether they come with what such a request is for. Whoever had it made takes that over; one for a part in its middle would end it. */
  #comesAlong({ first, end }: ChunkSpan): boolean {
    const { target, reader } = this.#host;
    return comesAlong(reader, target.tree.chunkOffset[first], target.tree.compressedBytes(first, end));
  }

  /** Asks for what is missing of spans before anybody waits for it: near ones by one request, which brings what `more` makes of its span. */
  bring(spans: readonly ChunkSpan[], gap = JOIN_BYTES, more = (span: ChunkSpan) => span): void {
    const { tree } = this.#host.target;
    const joined: { first: number; end: number }[] = [];
    for (const { first, end } of [...spans].sort((a, b) => a.first - b.first)) {
      const last = joined.at(-1);
      if (first >= end) continue;
      if (last !== undefined && tree.chunkOffset[first] - tree.chunkEnd(last.end - 1) <= gap)
        last.end = Math.max(last.end, end);
      else joined.push({ first: firstOfMember(tree, first), end });
    }
    for (const one of joined) {
      if (this.#nextMissing(one.first, one.end) >= one.end || this.#comesAlong(one)) continue;
      const span = more(one);
      this.start(span, span, PREFETCH, this.#host.scheduler.fileRange);
    }
  }

  /** Whether the bytes between a chunk's member and the one before it are too many to fetch unused. */
  #apart(chunk: number): boolean {
    const { tree } = this.#host.target;
    return tree.chunkOffset[chunk] - tree.chunkEnd(chunk - 1) > GAP_BYTES;
  }

  /**
   * The end of one request from a missing chunk: over small gaps of chunks that are there, up to `limit` compressed bytes, and to
   * a chunk that somebody else brings; half of that more, rather than that a short rest is left. Ends with a missing chunk's member. What
   * the disk has is taken from there.
   */
  #extent(first: number, stop: number, limit: number): number {
    const { tree, presence } = this.#host.target;
    const start = tree.chunkOffset[first];
    const most = tree.chunkEnd(stop - 1) - start <= 1.5 * limit ? Infinity : limit;
    let end = endOfMember(tree, first, stop);
    for (let chunk = first + 1; chunk < end; chunk++) if (this.covering(chunk) !== undefined) return chunk;
    let local = 0;
    for (let at = end; at < stop && local < REUSE_BYTES;) {
      const next = endOfMember(tree, at, stop);
      if (tree.chunkEnd(at) - start > most || this.#apart(at)) break;
      let missing = false;
      for (let chunk = at; chunk < next; chunk++) {
        if (presence.has(chunk)) continue;
        if (this.covering(chunk) !== undefined) return end;
        if (this.#reuse(chunk)) local += tree.chunkSize[chunk];
        else missing = true;
      }
      if (missing) end = next;
      else if (tree.chunkEnd(at) - tree.chunkEnd(end - 1) > GAP_BYTES) break;
      at = next;
    }
    return end;
  }

  /** The first chunk of [from, stop) that is neither there nor on its way, or `stop`. Those before it in its member are. */
  #nextMissing(from: number, stop: number): number {
    let chunk = from;
    while (chunk < stop && this.isKnown(chunk)) chunk++;
    return chunk;
  }

  /** The first chunk of [from, stop) that only the network has, or `stop`; what the disk has is taken up to a bound for one turn. */
  #nextToFetch(from: number, stop: number): number | 'more on disk' {
    let local = 0;
    for (;;) {
      const chunk = this.#nextMissing(from, stop);
      if (chunk >= stop) return stop;
      if (local >= REUSE_BYTES) return 'more on disk';
      if (!this.#reuse(chunk)) return chunk;
      local += this.#host.target.tree.chunkSize[chunk];
    }
  }

  /**
   * One request's chunks in [from, stop) that nobody has asked for, of up to `limit` compressed bytes; undefined where there are
   * none, 'more on disk' where another turn should go on.
   */
  next(
    from: number,
    stop: number,
    limit: number,
  ): { first: number; end: number; weight: number } | 'more on disk' | undefined {
    const first = this.#nextToFetch(from, stop);
    if (first === 'more on disk') return first;
    if (first >= stop) return undefined;
    const end = this.#extent(first, stop, limit);
    return { first, end, weight: weightOf(this.#host.target, first, end) };
  }

  /** Whether what `next` gave is still so: nobody else has asked for a part of it meanwhile, or brought what it begins with. */
  isFree({ first, end }: ChunkSpan): boolean {
    if (this.#host.target.presence.has(first)) return false;
    for (let chunk = first; chunk < end; chunk++) if (this.covering(chunk) !== undefined) return false;
    return true;
  }

  /** Fetches a range that `next` gave and that is free. */
  fetch(range: { first: number; end: number }, priority: Priority, admission: Admission): Promise<RangeOutcome> {
    return this.#run(new RangeFetch(this.#host, range.first, range.end, priority), admission);
  }

  #run(range: RangeFetch, admission: Admission | undefined): Promise<RangeOutcome> {
    this.#ranges.add(range);
    const run = range.run(admission, this.#closing.signal).finally(() => {
      this.#ranges.delete(range);
      this.#running.delete(run);
    });
    this.#running.add(run);
    return run;
  }

  /** Aborted when the layer ends. */
  get closing(): AbortSignal {
    return this.#closing.signal;
  }

  /** Resolves when nothing that is in flight now is any more. */
  async idle(): Promise<void> {
    await Promise.all(this.#running);
  }

  /** Aborts what is in flight and waits until no thread writes to the cache file any more. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing.abort(new LazylayerError('ABORTED', `${this.#host.what} was closed`));
    await this.idle();
  }
}
