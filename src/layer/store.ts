import { rm } from 'node:fs/promises';
import type { CachedLayer } from '../cache/cached-layer.js';
import type { ChunkCache, LayerOnDisk } from '../cache/chunk-cache.js';
import { digestOfName, nameOf, type LayerKey } from '../cache/key.js';
import type { Digest } from '../digest/digest.js';
import { codeOf, describeError, LazylayerError, VerificationError } from '../errors.js';
import {
  blindSuffixBytes,
  readEstargzTree,
  type OpenedToc,
  type OpenedTree,
  type OpenOptions,
} from '../estargz/open.js';
import type { BlobEnd, EndOptions, RandomAccessReader } from '../io/reader.js';
import { PrioritySemaphore } from '../util/semaphore.js';
import { leaveOnAbort } from '../util/singleflight.js';
import { EarlyReader } from './early-range.js';
import { EarlyRanges, TINY_BYTES } from './early-ranges.js';
import { ChunkFetcher } from './chunk-fetcher.js';
import { countingEnd, countingReader, type Meter } from './counting-reader.js';
import { Layer } from './layer.js';
import { downloadPlain } from './plain.js';
import { FetchScheduler } from './scheduler.js';
import type { Laziness, LayerSource, Progress } from './source.js';
import type { Tree } from '../toc/tree.js';
import { TocsAhead } from './toc-ahead.js';
import { TocThreads, type TocThreadsOptions } from './toc-threads.js';

export interface LayerStoreOptions {
  /** Left open by the store. */
  readonly cache: ChunkCache;
  /** Requests in flight over all layers; 8 by default. */
  readonly maxConcurrency?: number;
  /** Bytes in flight over all layers; 32 MiB by default. */
  readonly maxMemory?: number;
  /** How long nobody must have read before background work goes on, in milliseconds; 5000 by default. */
  readonly quietMs?: number;
  readonly tocThreads?: TocThreadsOptions;
  /** Bytes of inflated TOCs in memory over all layers, until their trees are there; 64 MiB by default. A TOC that is larger goes alone. */
  readonly maxTocBytes?: number;
  /** How long a layer that was opened ahead waits for somebody to open it, in milliseconds; 30,000 by default. */
  readonly expectedMs?: number;
}

export interface OpenLayerOptions {
  readonly signal?: AbortSignal;
  /** Called while a layer that cannot be served lazily is downloaded. */
  readonly onProgress?: (progress: Progress) => void;
  /** Refuse a layer that would have to be downloaded whole, by an UNSUPPORTED error that says why. */
  readonly lazyOnly?: boolean;
  /** What its landmark asks for is going to be prefetched: that begins before the tree is there. */
  readonly prefetch?: boolean;
  /** Called, perhaps not at once, when the TOC is known to be what the source vouches for: what is left is to read it, which costs no request. */
  readonly onVerified?: () => void;
}

interface Entry {
  /** It may fail for those who want the layer at any price. */
  readonly lazyOnly: boolean;
  opening: Promise<Layer>;
  /** Resolves when the TOC is verified; never where that fails. */
  verified: Promise<void>;
  readonly controller: AbortController;
  readonly listeners: Set<(progress: Progress) => void>;
  holders: number;
}

/** The layers that are open, each once. */
export class LayerStore implements AsyncDisposable {
  readonly #entries = new Map<string, Entry>();
  readonly #ending = new Map<string, Promise<void>>();
  readonly #cache: ChunkCache;
  readonly #ahead = new TocsAhead();
  readonly #early: EarlyRanges;
  /** How to give back layers that were opened ahead, by name. */
  readonly #expected = new Map<string, () => void>();
  readonly #threads: TocThreads;
  readonly #tocBytes: PrioritySemaphore;
  readonly #expectedMs: number;
  #closed = false;
  /** What the layers share for fetching: to look at what is in flight. */
  readonly scheduler: FetchScheduler;

  constructor(options: LayerStoreOptions) {
    this.#cache = options.cache;
    this.#threads = new TocThreads(options.tocThreads);
    this.#tocBytes = new PrioritySemaphore(options.maxTocBytes ?? MAX_TOCS_BYTES, { priorities: 1 });
    this.#expectedMs = options.expectedMs ?? 30_000;
    const { maxConcurrency: maxRequests, maxMemory: memoryBytes, quietMs } = options;
    this.scheduler = new FetchScheduler({ maxRequests, memoryBytes, quietMs });
    this.#early = new EarlyRanges(this.scheduler, (digest) => this.#cache.mayHave(digest));
  }

  /** Gets threads ready to read TOCs: layers will be opened that the disk may not have. */
  warm(): void {
    this.#threads.warm(Infinity);
  }

  /**
   * Opens these layers, side by side, for somebody who is about to, except those that are on disk or cannot be lazy: their TOCs are asked for
   * and their trees made meanwhile. Who does not open them after all loses nothing but that. `onOpened` hears of each that is there.
   */
  expect(
    blobs: readonly LayerSource[],
    { prefetch, onOpened }: Pick<OpenLayerOptions, 'prefetch'> & { onOpened?: (layer: Layer) => void } = {},
  ): void {
    const wanted = blobs.flatMap((blob) => {
      const key = keyOf(blob);
      const name = nameOf(key);
      if (this.#entries.has(name)) return [];
      // What nothing vouches for may be no eStargz at all: it is opened by who knows what to do then.
      if (blob.tocDigest !== undefined && this.#cache.look(key, () => true) === undefined) return { blob, key, name };
      this.#ahead.drop(key.digest);
      return [];
    });
    this.#cache.expect(wanted.map(({ key }) => key));
    this.#threads.warm(wanted.filter(({ blob }) => blob.descriptor.size > LARGE_BYTES).length);
    for (const { blob, name } of wanted) {
      const controller = new AbortController();
      const opening = this.open(blob, { lazyOnly: true, prefetch, signal: controller.signal });
      let timer: NodeJS.Timeout | undefined;
      let given = false;
      const giveBack = () => {
        clearTimeout(timer);
        if (given) return;
        given = true;
        if (this.#expected.get(name) === giveBack) this.#expected.delete(name);
        controller.abort(new LazylayerError('ABORTED', 'nobody opens the layer that this was asked for'));
        void opening.then((layer) => layer[Symbol.asyncDispose]()).catch(() => {});
      };
      this.#expected.set(name, giveBack);
      opening.then((layer) => {
        timer = setTimeout(giveBack, this.#expectedMs).unref();
        onOpened?.(layer);
      }, giveBack); // why it failed is told to whoever opens it
    }
  }

  /**
   * Asks for the ends of blobs of which nothing but the digests is known yet, the lowest layer's first, if they are not many: they are likely
   * to be eStargz. `read` brings the last bytes of one; where it fails, the layer is opened as if nobody had asked.
   */
  expectBlindly(
    digests: readonly Digest[],
    read: (digest: Digest, bytes: number, options: EndOptions) => Promise<BlobEnd>,
  ): void {
    const open = new Set([...this.#entries.keys()].map(digestOfName));
    for (const [index, digest] of digests.slice(0, MAX_BLIND).entries()) {
      if (open.has(digest) || this.#cache.hasBlob(digest)) continue;
      this.#ahead.ask(digest, (how) => read(digest, blindSuffixBytes(index > 0), { ...how, reason: 'toc' }));
    }
  }

  /**
   * Opens a layer, or joins those who have it open. Costs no request where the cache has the tree; one for an eStargz layer (two
   * where its TOC is long); one download of the whole for any other, whose diffID must be known. Who opens a layer disposes it once.
   * @throws UNSUPPORTED where the layer cannot be lazy and `lazyOnly` is set; VerificationError where TOC, blob or diffID are not what the source vouches for; what the reader throws
   */
  async open(source: LayerSource, options?: OpenLayerOptions): Promise<Layer> {
    options?.signal?.throwIfAborted();
    if (this.#closed) throw new LazylayerError('ABORTED', 'the layer store is closed');
    const key = keyOf(source);
    const name = nameOf(key);
    let entry = this.#entries.get(name);
    if (entry === undefined) {
      const controller = new AbortController();
      const listeners: Entry['listeners'] = new Set();
      const onProgress = (progress: Progress) => listeners.forEach((listen) => listen(progress));
      const lazyOnly = options?.lazyOnly === true;
      const started: Entry = { lazyOnly, controller, listeners, holders: 0, opening: undefined!, verified: undefined! };
      const giveBack = () => this.#giveBack(name, started);
      started.verified = new Promise((onVerified) => {
        const prefetch = options?.prefetch === true;
        const how = { signal: controller.signal, onProgress, onVerified, giveBack, lazyOnly, prefetch };
        started.opening = this.#open(source, key, name, how);
      });
      started.opening.catch(() => {
        if (this.#entries.get(name) === started) this.#entries.delete(name);
      });
      this.#entries.set(name, (entry = started));
    }
    const joined = entry;
    joined.holders++;
    this.#expected.get(name)?.();
    if (options?.onProgress !== undefined) joined.listeners.add(options.onProgress);
    if (options?.onVerified !== undefined) void joined.verified.then(options.onVerified);
    try {
      const layer = await leaveOnAbort(joined.opening, options?.signal);
      if (!accepts(source, layer.tree.facts.source))
        throw new VerificationError(`layer ${key.digest}, opened before`, key.source ?? 'any', layer.tree.facts.source);
      return layer;
    } catch (error) {
      await this.#giveBack(name, joined);
      if (joined.lazyOnly && options?.lazyOnly !== true && codeOf(error) === 'UNSUPPORTED')
        return this.open(source, options);
      throw error;
    } finally {
      if (options?.onProgress !== undefined) joined.listeners.delete(options.onProgress);
    }
  }

  /**
   * What the disk has of a layer that can be opened lazily without asking the registry, by a look at the head of its tree alone;
   * undefined where there is no such.
   */
  look(source: LayerSource): LayerOnDisk | undefined {
    const found = this.#cache.look(keyOf(source), (toc) => accepts(source, toc));
    // A plain layer is there only if all its content is.
    return found?.facts.source === source.diffId ? undefined : found;
  }

  /** Whether the disk seems to have all content of a layer. */
  looksWhole(source: LayerSource): Promise<boolean> {
    return this.#cache.looksWhole(keyOf(source));
  }

  /** Until the returned function is called, the layer's tree stays on disk; with `whole`, its content too. */
  keep(source: LayerSource, whole: boolean): () => void {
    return this.#cache.keep(keyOf(source), whole);
  }

  async #giveBack(name: string, entry: Entry): Promise<void> {
    if (entry.holders === 0 || --entry.holders > 0) return;
    if (this.#entries.get(name) === entry) this.#entries.delete(name);
    entry.controller.abort(new LazylayerError('ABORTED', 'nobody waits for this layer any more'));
    const end = (async () => {
      const layer = await entry.opening.catch(() => undefined);
      await layer?.end();
    })();
    const ending = Promise.all([this.#ending.get(name), end]).then(() => {});
    this.#ending.set(name, ending);
    try {
      await ending;
    } finally {
      if (this.#ending.get(name) === ending) this.#ending.delete(name);
    }
  }

  async #open(
    source: LayerSource,
    key: LayerKey,
    name: string,
    options: {
      signal: AbortSignal;
      onProgress: (progress: Progress) => void;
      onVerified: () => void;
      giveBack: () => Promise<void>;
      lazyOnly: boolean;
      prefetch: boolean;
    },
  ): Promise<Layer> {
    await using early = this.#early.expect(source, options.prefetch);
    await this.#ending.get(name)?.catch(() => {});
    this.#ahead.watch(key.digest, early.onEnd); // by now all layers that are opened together are expected
    const meter: Meter = { requests: 0, bytes: 0 };
    let reason = refusal(source);
    let cached = await this.#fromDisk(source, key);
    let content: Uint8Array | undefined;
    if (cached !== undefined || reason !== undefined) this.#ahead.drop(key.digest);
    else {
      try {
        await using reader = countingReader(source.reader(), meter);
        const end = countingEnd(this.#ahead.take(key.digest), meter);
        const how = { ...source, end, onEnd: early.onEnd, signal: options.signal, reason: 'toc' } as const;
        const opened = await this.#readTree(reader, how, (toc) => {
          options.onVerified();
          early.known(toc);
          return this.#threads.tree(toc);
        });
        cached = await this.#cache.create(key, opened.tree);
        content = opened.content;
      } catch (error) {
        if (codeOf(error) !== 'UNSUPPORTED') throw error;
        reason = describeError(error);
      }
    }
    if (cached === undefined) {
      await early[Symbol.asyncDispose]();
      reason ??= NO_ESTARGZ;
      const { diffId } = source;
      if (options.lazyOnly || diffId === undefined) throw new LazylayerError('UNSUPPORTED', reason);
      const { tree, path, bytes } = await downloadPlain({ ...source, diffId }, this.#cache, reason, options);
      try {
        cached = await this.#cache.create(key, tree, path);
      } catch (error) {
        await rm(path, { force: true });
        throw error;
      }
      meter.requests++;
      meter.bytes += bytes;
    }
    const plain = cached.tree.facts.source === source.diffId;
    const lazy: Laziness = plain ? { lazy: false, reason: reason ?? NO_ESTARGZ } : { lazy: true };
    const dropped = (bytes: number) => {
      fetcher.stats.requests++;
      fetcher.stats.fetchedBytes += bytes;
    };
    const reader = early
      .take()
      .reduce<RandomAccessReader>((blob, range) => new EarlyReader(blob, range, dropped), source.reader());
    const fetcher = new ChunkFetcher(cached, this.#cache, this.scheduler, reader, key.source === undefined);
    fetcher.stats.requests += meter.requests;
    fetcher.stats.fetchedBytes += meter.bytes;
    // A shortcut: what does not come in by it is fetched when it is read.
    if (content !== undefined && content.byteLength <= TINY_BYTES) await fetcher.take(content).catch(() => {});
    return new Layer(cached, this.#cache, fetcher, source.descriptor.size, lazy, options.giveBack);
  }

  /**
   * Fetches for layers that will be read: with `prefetch`, what their landmarks ask for, and the first `unmarkedBytes` of blobs without
   * a landmark, all layers side by side; then, with `background`, the rest, layer by layer and behind every reader. Settles when all is
   * done or has failed.
   * @throws the first failure; the other layers are seen to all the same
   */
  async fetchAhead(
    layers: readonly Pick<Layer, 'prefetch' | 'background'>[],
    options: { prefetch: boolean; unmarkedBytes?: number; background: boolean; signal?: AbortSignal },
  ): Promise<void> {
    this.scheduler.stir(); // they were opened to be read
    const outcomes = await Promise.allSettled(options.prefetch ? layers.map((layer) => layer.prefetch(options)) : []);
    if (options.background)
      for (const layer of layers) {
        if (options.signal?.aborted === true) break;
        outcomes.push(...(await Promise.allSettled([layer.background(options.signal)])));
      }
    const failure = outcomes.find((outcome) => outcome.status === 'rejected');
    if (failure !== undefined) throw failure.reason;
  }

  /** Ends the fetching for good. Layers that nobody gave back end too. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    await Promise.all([...this.#entries].map(([name, entry]) => ((entry.holders = 1), this.#giveBack(name, entry))));
    for (const giveBack of this.#expected.values()) giveBack();
    this.#ahead.dropAll();
    await Promise.all(this.#ending.values());
    await this.#threads[Symbol.asyncDispose]();
    await this.scheduler[Symbol.asyncDispose]();
  }

  /** Reads a TOC once there is room for it, and makes its tree. */
  async #readTree(
    reader: RandomAccessReader,
    options: OpenOptions,
    build: (toc: OpenedToc) => Promise<Tree>,
  ): Promise<OpenedTree> {
    let release: (() => void) | undefined;
    const onInflate = async (bytes: number) => {
      release?.();
      release = await this.#tocBytes.acquire(0, bytes, options.signal);
    };
    try {
      return await readEstargzTree(reader, { ...options, onInflate }, build);
    } finally {
      release?.();
    }
  }

  /** What the cache has of the layer, if this source's claims vouch for it. */
  async #fromDisk(source: LayerSource, key: LayerKey): Promise<CachedLayer | undefined> {
    const cached = await this.#cache.acquire(key, (found) => accepts(source, found));
    if (cached === undefined || cached.tree.facts.source !== source.diffId) return cached;
    // A plain layer cannot be fetched in part: it is whole, or it is downloaded again.
    let whole: boolean;
    try {
      whole = await cached.isWhole();
    } catch (error) {
      await this.#cache.release(cached);
      throw error;
    }
    if (whole) return cached;
    await this.#cache.release(cached);
    await this.#cache.drop(key);
    return undefined;
  }
}

function keyOf(source: LayerSource): LayerKey {
  const { descriptor, tocDigest, diffId, allowNoVerification } = source;
  return { digest: descriptor.digest, source: tocDigest ?? (allowNoVerification === true ? undefined : diffId) };
}

/** Whether the source vouches for a tree that was made from `found`: its TOC, or the whole of its tar. */
function accepts(source: LayerSource, found: Digest): boolean {
  if (found === source.diffId || found === source.tocDigest) return true;
  return source.tocDigest === undefined && source.allowNoVerification === true;
}

/** Several times what the TOCs of a large image take: what has to wait would have had to wait for a thread. */
const MAX_TOCS_BYTES = 64 * 1024 * 1024;
/** Bytes of a blob from which on its TOC may be worth a thread. */
const LARGE_BYTES = 2 * 1024 * 1024;
/** Ends of blobs that are asked for side by side before the manifest tells more. */
const MAX_BLIND = 8;
const NO_ESTARGZ = 'the blob is no eStargz';

/** Why a source cannot be served lazily, as far as that is plain before the first request. */
function refusal(source: LayerSource): string | undefined {
  if (source.tocDigest !== undefined || source.allowNoVerification === true) return undefined;
  return 'no TOC digest in its annotations, so nothing could be verified by parts (--allow-no-verification takes an eStargz layer all the same)';
}
