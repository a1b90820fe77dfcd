import { read as readCallback, readSync } from 'node:fs';
import { promisify } from 'node:util';
import type { CachedLayer, LayerView } from '../cache/cached-layer.js';
import type { ChunkCache } from '../cache/chunk-cache.js';
import type { Digest } from '../digest/digest.js';
import { LazylayerError, VerificationError } from '../errors.js';
import type { ReadOptions } from '../io/reader.js';
import type { Tree } from '../toc/tree.js';
import type { ChunkFetcher, FetchStats, ReadSource } from './chunk-fetcher.js';
import { landmarkSpans, markedSpans, runtimeSpans } from './landmark.js';
import type { ChunkSpan } from './read-ahead.js';
import { BACKGROUND, PREFETCH, type Priority } from './scheduler.js';
import type { Laziness } from './source.js';
import { sweep, type SweepOptions } from './sweep.js';

const readFd = promisify(readCallback);

/** Reads up to this size are made at once after a fetch: the bytes lie in the page cache, and a turn through the pool costs more. */
const SYNC_READ_BYTES = 1024 * 1024;
/** Pieces of a stream, in bytes. */
const PIECE = 1024 * 1024;

/** Numbers of a layer, all in bytes or counts since it was opened. */
export interface LayerStats extends FetchStats {
  /** Uncompressed bytes of files that are in the cache now. */
  readonly presentBytes: number;
  /** Uncompressed bytes of all files. */
  readonly totalBytes: number;
}

/**
 * An open layer: its tree, and its files' bytes, which come from the cache, or from the registry and then stay. Shared by all who
 * opened the same layer; each of them disposes it once.
 */
export class Layer implements AsyncDisposable {
  readonly digest: Digest;
  readonly tree: Tree;
  readonly slot: number;
  /** What another thread needs to serve what is cached. Its descriptor is good until the layer is disposed by the last holder. */
  readonly view: LayerView;
  readonly #totalBytes: number;
  #reads = 0;
  #drained: (() => void) | undefined;
  #closed = false;

  /** Made by `LayerStore`, which passes what ends the layer's life. */
  constructor(
    private readonly cached: CachedLayer,
    private readonly cache: ChunkCache,
    private readonly fetcher: ChunkFetcher,
    /** Bytes of the blob. */
    readonly size: number,
    readonly lazy: Laziness,
    private readonly giveBack: () => Promise<void>,
  ) {
    this.digest = cached.digest;
    this.tree = cached.tree;
    this.slot = cached.slot;
    this.view = cached;
    let total = 0;
    for (const bytes of this.tree.chunkSize) total += bytes;
    this.#totalBytes = total;
  }

  /**
   * Bytes [offset, offset + length) of a regular file, fewer where the file ends before. What is missing is fetched first.
   * `onSource` hears where they come from, unless all are in the cache.
   * @throws INVALID_ARGUMENT for what is no regular file; VerificationError; what the registry throws. Errors are not kept:
   * the next read tries again.
   */
  async read(
    inode: number,
    offset: number,
    length: number,
    options?: ReadOptions & { readonly priority?: Priority; readonly onSource?: (source: ReadSource) => void },
  ): Promise<Uint8Array> {
    const { tree } = this;
    if (!(inode >= 0 && inode < tree.counts.inodes && tree.isRegular(inode)))
      throw new LazylayerError('INVALID_ARGUMENT', `layer ${this.digest}: inode ${inode} is no regular file`);
    if (!(offset >= 0 && length >= 0))
      throw new LazylayerError('INVALID_ARGUMENT', `read: expected a range, found ${length} bytes from ${offset}`);
    const stop = Math.min(offset + length, tree.size[inode]);
    if (offset >= stop) return Buffer.alloc(0);
    this.#enter();
    try {
      const { first, end } = tree.chunksOf(inode, offset, stop - offset);
      const place = tree.cacheOffset(inode) + offset;
      if (this.view.presence.hasAll(first, end)) return await this.#pread(place, stop - offset, false);
      const held = await this.fetcher.ensure(inode, { first, end }, options);
      return await this.#pread(place, stop - offset, true, held);
    } finally {
      this.#leave();
    }
  }

  /** A regular file's bytes [start, end) in order, fetched ahead of the reader. */
  async *stream(
    inode: number,
    options?: ReadOptions & { readonly start?: number; readonly end?: number },
  ): AsyncGenerator<Uint8Array, void, undefined> {
    const { tree } = this;
    const end = Math.min(options?.end ?? Infinity, tree.size[inode]);
    for (let at = options?.start ?? 0; at < end; at += PIECE) {
      const piece = await this.read(inode, at, Math.min(PIECE, end - at), options);
      if (at + PIECE < end && !this.#closed) this.fetcher.readInOrder(tree.chunksOf(inode, at + PIECE, 1).first);
      yield piece;
    }
  }

  /**
   * Asks for files that are likely to be read soon, those that lie together by one request: wholly, but of very large ones only the
   * beginning. Waits for nothing.
   */
  bring(inodes: readonly number[]): void {
    if (this.#closed) return;
    this.fetcher.bringPrograms(inodes.filter((inode) => this.tree.isRegular(inode)));
  }

  /** The same for small files of which many are about to be read, such as modules: others like them come along. */
  bringMany(inodes: readonly number[], around: number): void {
    if (this.#closed) return;
    this.fetcher.bringMany(
      inodes.filter((inode) => this.tree.isRegular(inode)),
      around,
    );
  }

  /**
   * Only the first `bytes` of a program or library are loaded when it is run: what is behind them, such as symbols for debuggers, is not
   * brought along with it any more. Whoever reads it gets it all the same.
   */
  loads(inode: number, bytes: number): void {
    if (!this.#closed && bytes > 0) this.fetcher.loads(inode, bytes);
  }

  /** How long what was asked for of a regular file and has not come yet will take, by how fast the network was of late. */
  secondsLeft(inode: number): number {
    return this.#closed
      ? 0
      : this.fetcher.ranges.bytesLeft(this.tree.chunksOf(inode, 0, Infinity)) / this.fetcher.scheduler.rate;
  }

  /**
   * What a large regular file that is on its way begins with, once `bytes` compressed bytes of it have come and long before they can be
   * verified. UNVERIFIED: it may decide what is asked for next, and nothing else; no reader ever gets it. Undefined where it is there
   * already, or will be as soon, or is not coming.
   */
  async glimpse(inode: number, bytes: number): Promise<Uint8Array | undefined> {
    const { tree } = this;
    if (this.#closed || !tree.isRegular(inode) || tree.count[inode] === 0) return undefined;
    return this.fetcher.glimpse(tree.first[inode], bytes);
  }

  /**
   * Brings what the layer's landmark asks for to the cache; of a layer without one, `unmarkedBytes` of the blob (default 0), and asks, with
   * `runtime`, for what every container's runtime reads. Of very large files only the beginning: a trace names whole files, of which programs read parts.
   */
  async prefetch(
    options: ReadOptions & { readonly unmarkedBytes?: number; readonly runtime?: boolean } = {},
  ): Promise<void> {
    const marked = this.tree.facts.prefetchBytes !== undefined;
    if ((marked || options.runtime === true) && !this.#closed) {
      const files = runtimeSpans(this.tree);
      // Of a layer with a landmark they come with what that asks for, unless they were asked for apart before the tree was there.
      const apart = marked ? files.findIndex((span) => this.fetcher.ranges.hasBegun(span)) : 0;
      if (apart >= 0) this.fetcher.ranges.bring(files.slice(apart));
    }
    const spans = marked ? markedSpans(this.tree) : landmarkSpans(this.tree, options.unmarkedBytes ?? 0);
    const rangeBytes = this.fetcher.scheduler.landmarkRange;
    const { signal } = options;
    await Promise.all(spans.map((span) => this.#sweep(span, { priority: PREFETCH, rangeBytes, signal })));
  }

  /** Brings everything to the cache; gives up after a few failures of the network. See `sweep` for the errors. */
  async fetchAll(signal?: AbortSignal): Promise<void> {
    await this.#sweep(this.#all, { priority: PREFETCH, signal });
  }

  /** Brings everything to the cache behind all readers' backs, and goes on after failures of the network until the signal. */
  async background(signal?: AbortSignal): Promise<void> {
    await this.#sweep(this.#all, { priority: BACKGROUND, signal, patient: true });
  }

  get #all(): ChunkSpan {
    return { first: 0, end: this.tree.counts.chunks };
  }

  async #sweep(span: ChunkSpan, options: Omit<SweepOptions, 'hasRoom'>): Promise<void> {
    this.#enter();
    try {
      const closing = this.fetcher.ranges.closing;
      const signal = options.signal === undefined ? closing : AbortSignal.any([options.signal, closing]);
      await sweep(this.fetcher, span, { ...options, signal, hasRoom: () => this.cache.hasRoom() });
    } finally {
      this.#leave();
    }
  }

  /** Whether all its content is on disk: after an unclean end, it is verified for that. */
  async isWhole(): Promise<boolean> {
    this.#enter();
    try {
      return await this.cached.isWhole();
    } finally {
      this.#leave();
    }
  }

  /** Whether every chunk is known to be in the cache file. */
  get isPresent(): boolean {
    return this.view.presence.hasAll(0, this.tree.counts.chunks);
  }

  /** Whether it is being read, or fetched ahead. */
  get busy(): boolean {
    return this.#reads > 0;
  }

  get stats(): LayerStats {
    return { ...this.fetcher.stats, presentBytes: this.#presentBytes(), totalBytes: this.#totalBytes };
  }

  #presentBytes(): number {
    const { chunkSize, counts } = this.tree;
    let present = 0;
    for (let chunk = 0; chunk < counts.chunks; chunk++) if (this.view.presence.has(chunk)) present += chunkSize[chunk];
    return present;
  }

  /** Bytes from the cache file, with what the full disk did not take laid over them. */
  async #pread(place: number, length: number, fresh: boolean, held?: Map<number, Uint8Array>): Promise<Uint8Array> {
    const bytes = Buffer.allocUnsafeSlow(length);
    for (let done = 0; done < length;) {
      const n =
        fresh && length <= SYNC_READ_BYTES
          ? readSync(this.view.fd, bytes, done, length - done, place + done)
          : (await readFd(this.view.fd, bytes, done, length - done, place + done)).bytesRead;
      if (n === 0)
        throw new VerificationError(`cache of layer ${this.digest}`, `${length} bytes at ${place}`, `${done} bytes`);
      done += n;
    }
    if (held !== undefined)
      for (const [chunk, chunkBytes] of held) {
        const at = this.tree.chunkCache[chunk] - place; // may lie before the range
        const from = Math.max(0, -at);
        bytes.set(chunkBytes.subarray(from, Math.max(from, length - at)), at + from);
      }
    return bytes;
  }

  #enter(): void {
    if (this.#closed) throw new LazylayerError('ABORTED', `layer ${this.digest} was closed`);
    this.#reads++;
  }

  #leave(): void {
    if (--this.#reads === 0) this.#drained?.();
  }

  /** Gives back one `open`. The last holder's ends the layer: what is in flight is aborted, the bitmap saved. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.giveBack();
  }

  /** For `LayerStore`: ends everything that uses the cache file. */
  async end(): Promise<void> {
    this.#closed = true;
    await this.fetcher[Symbol.asyncDispose]();
    if (this.#reads > 0) await new Promise<void>((resolve) => (this.#drained = resolve));
    await this.cache.release(this.cached);
  }
}
