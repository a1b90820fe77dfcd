import { randomInt } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { codeOf, LazylayerError } from '../errors.js';
import type { Digest } from '../digest/digest.js';
import { loadTree, readTreeHeader, saveTree } from '../toc/persist.js';
import type { Tree, TreeCounts, TreeFacts } from '../toc/tree.js';
import { roundUp } from '../util/bytes.js';
import { countBitmap } from './bitmap-file.js';
import { CachedLayer, FILES, readVerified } from './cached-layer.js';
import { ChunkIndex } from './chunk-index.js';
import { digestOfName, nameOf, type LayerKey } from './key.js';
import { LentFiles } from './lent-files.js';
import { LayerDirectories, type CacheEvent } from './layer-directories.js';

export type { CacheEvent } from './layer-directories.js';

export interface ChunkCacheOptions {
  /** Bytes on disk over all layers; none when absent. Layers that are open are never dropped, so they may lie above it. */
  readonly limitBytes?: number;
  readonly onEvent?: (event: CacheEvent) => void;
  /** Content of the layer in a slot, which is not open, is about to go. */
  readonly onForget?: (slot: number) => Promise<void>;
  /** Whether content of the layer in a slot goes after that of all others. */
  readonly goesLast?: (slot: number) => boolean;
  /** How often bitmaps are saved while chunks come in, in milliseconds. */
  readonly saveEveryMs?: number;
}

/** One layer's part of the cache. */
export interface LayerUsage {
  readonly digest: Digest;
  /** Name of its directory below `layers`. */
  readonly name: string;
  /** Bytes on disk. */
  readonly bytes: number;
  readonly chunks: number;
  readonly presentChunks: number;
  readonly lastUsed: Date;
  readonly inUse: boolean;
}

export interface CacheUsage {
  readonly bytes: number;
  readonly limitBytes: number | undefined;
  readonly layers: readonly LayerUsage[];
}

/** What the disk has of a layer, as far as it is known without reading its tree. */
export interface LayerOnDisk {
  readonly slot: number;
  readonly counts: TreeCounts;
  readonly facts: TreeFacts;
}

/** Slots from here on are for layers that got no durable one. Times 2^32 it is still an exact number. */
const VOLATILE_SLOTS = 2 ** 20;

/**
 * The chunk cache below one root directory: `layers/<name>/{tree,data,present,open}` and `index/`. One process at a time (its
 * owner holds a lock); within it, a layer is open once, and whoever opened it closes it by `release`.
 */
export class ChunkCache implements AsyncDisposable {
  readonly #open = new Map<string, CachedLayer>();
  readonly #lent = new LentFiles();
  readonly #timer: NodeJS.Timeout;
  #directories!: LayerDirectories;

  private constructor(
    readonly root: string,
    private readonly index: ChunkIndex,
    private readonly options: ChunkCacheOptions,
    private readonly temporary: boolean,
  ) {
    this.#timer = setInterval(() => void this.#saveAll(), options.saveEveryMs ?? 5000).unref();
  }

  /** The caller must be the only process that uses `root`. */
  static async open(root: string, options: ChunkCacheOptions = {}): Promise<ChunkCache> {
    return ChunkCache.#start(root, options, false);
  }

  /** A cache in a new directory below `parent`, removed when it is closed: for a process beside the one that owns the root. */
  static async openTemporary(parent: string, options: ChunkCacheOptions = {}): Promise<ChunkCache> {
    return ChunkCache.#start(await mkdtemp(join(parent, 'lazylayer-cache-')), options, true);
  }

  static async #start(root: string, options: ChunkCacheOptions, temporary: boolean): Promise<ChunkCache> {
    await mkdir(root, { recursive: true });
    const index = await ChunkIndex.open(join(root, 'index'), (error) =>
      options.onEvent?.({ type: 'damaged', what: 'index', error }),
    );
    const cache = new ChunkCache(root, index, options, temporary);
    cache.#directories = await LayerDirectories.open(join(root, 'layers'), {
      ...options,
      isOpen: (name) => cache.#open.has(name),
      forget: (name) => cache.#forget(name),
      goesLast: (name) => cache.#goesLast(name),
    });
    return cache;
  }

  /** Whether the limit leaves room for more, once what can be dropped is dropped. */
  hasRoom(): Promise<boolean> {
    return this.#directories.hasRoom();
  }

  /** Bytes on disk over all layers, as counted. */
  get usedBytes(): number {
    return this.#directories.usedBytes;
  }

  /** Whether the byte limit is reached and only layers in use are left. */
  get overLimit(): boolean {
    return this.#directories.overLimit;
  }

  /**
   * Whether `acquire` will find the layer, by the head of its tree and the tree's length: cheap, and not yet a proof.
   * What cannot be read is not there.
   */
  look(key: LayerKey, accepts: (source: Digest) => boolean): LayerOnDisk | undefined {
    const name = nameOf(key);
    const slot = this.#directories.has(name) ? this.index.knownSlot(name) : undefined;
    if (slot === undefined) return undefined;
    try {
      const header = readTreeHeader(this.#path(name, FILES.tree));
      return accepts(header.facts.source) ? { slot, ...header } : undefined;
    } catch {
      return undefined;
    }
  }

  /** Whether a layer ended cleanly with all its content, as its bitmap says. What cannot be read is not there. */
  async looksWhole(key: LayerKey): Promise<boolean> {
    const name = nameOf(key);
    if (existsSync(this.#path(name, FILES.open))) return false;
    const count = await countBitmap(this.#path(name, FILES.present));
    return count !== undefined && count.present === count.chunks;
  }

  /** Whether the disk has anything of a blob, whatever vouches for it. */
  hasBlob(digest: Digest): boolean {
    for (const [name] of this.#directories.entries()) if (digestOfName(name) === digest) return true;
    return false;
  }

  /**
   * Until the returned function is called, the tree of the layer stays on disk, so that it can be opened at any time without the
   * registry; with `whole`, its content too. Else that may go while the layer is not open, last of all.
   */
  keep(key: LayerKey, whole: boolean): () => void {
    return this.#directories.keep(nameOf(key), whole);
  }

  /**
   * Opens what the disk has of a layer; undefined where it has no tree that is sound and made from a source that `accepts`
   * takes. Costs no more than reading the tree and the bitmap.
   */
  async acquire(key: LayerKey, accepts: (source: Digest) => boolean): Promise<CachedLayer | undefined> {
    const name = nameOf(key);
    return this.#directories.entered(name, async () => {
      if (!this.#directories.has(name)) return undefined;
      const path = this.#path(name, FILES.tree);
      let tree: Tree;
      try {
        tree = await loadTree(path);
        if (!accepts(tree.facts.source)) return undefined;
      } catch (error) {
        if (codeOf(error) !== 'NOT_FOUND') this.options.onEvent?.({ type: 'damaged', what: path, error });
        return undefined;
      }
      return this.#enter(key, name, tree, false);
    });
  }

  /**
   * Opens a layer whose tree was just made, and keeps the tree. Chunks that an earlier tree's cache file holds are taken over as
   * suspects. With `data`, that file (whole and verified by the caller) becomes the cache file and every chunk is present.
   */
  async create(key: LayerKey, tree: Tree, data?: string): Promise<CachedLayer> {
    const name = nameOf(key);
    return this.#directories.entered(name, async () => {
      const directory = this.#directories.path(name);
      await this.#directories.withRoom(() => mkdir(directory, { recursive: true }));
      if (data !== undefined) {
        await this.#directories.forget(name);
        await rm(directory, { recursive: true, force: true });
        await mkdir(directory);
        await rename(data, join(directory, FILES.data));
      }
      // Without room for the tree the layer is served all the same; the next process will ask for it again.
      await this.#directories
        .withRoom(() => saveTree(tree, join(directory, FILES.tree)))
        .catch((error: unknown) => {
          if (codeOf(error) !== 'RESOURCE_EXHAUSTED') throw error;
        });
      const layer = await this.#enter(key, name, tree, true);
      if (data !== undefined) {
        for (let chunk = 0; chunk < tree.counts.chunks; chunk++) layer.presence.set(chunk);
        this.wrote(layer, 0, tree.counts.chunks, 0);
      }
      return layer;
    });
  }

  /** A path on the cache's disk for a file that is being made: under a name that the next start removes. */
  scratchPath(): string {
    return this.#directories.scratchPath();
  }

  async #enter(key: LayerKey, name: string, tree: Tree, treeIsNew: boolean): Promise<CachedLayer> {
    if (this.#open.has(name)) throw new LazylayerError('BUSY', `layer ${name}: open already`);
    const slot = await this.#slotOf(name);
    const layer = await CachedLayer.open(key, name, this.#directories.path(name), slot, tree, treeIsNew);
    this.#lent.close(name);
    this.#open.set(name, layer);
    await layer.touch();
    this.#directories.learn(name, await layer.measure(), Date.now());
    return layer;
  }

  /** These layers are about to be created: their slots are written down together, while there is time. */
  expect(keys: readonly LayerKey[]): void {
    try {
      this.index.giveSlots(keys.map(nameOf));
    } catch {
      // A disk that takes none is made room on when the layers are created.
    }
  }

  /**
   * The layer's durable slot. Where the disk takes none, a number so high, and so random, that it will not be met again: node
   * ids of another process's life must not lead to another layer.
   */
  async #slotOf(name: string): Promise<number> {
    const known = this.index.knownSlot(name);
    if (known !== undefined) return known;
    for (let tries = 0; ; tries++) {
      try {
        return this.index.slotOf(name);
      } catch (error) {
        if (tries > 0 || !(await this.makeRoom(1 << 20, error))) return VOLATILE_SLOTS + randomInt(VOLATILE_SLOTS);
      }
    }
  }

  /** Gives an open layer back: a clean end on disk. Nobody may use its view any more. */
  async release(layer: CachedLayer): Promise<void> {
    await this.#directories.inLine(layer.name, async () => {
      await this.index.flush();
      try {
        this.#directories.learn(layer.name, await layer.measure(), Date.now());
      } finally {
        this.#open.delete(layer.name);
        await layer.close().catch((error: unknown) => this.options.onEvent?.({ type: 'full', error }));
      }
    });
    this.#directories.enforceLimit();
  }

  /** Drops a layer that is not open, kept or not. */
  async drop(key: LayerKey): Promise<void> {
    await this.#directories.drop(nameOf(key));
  }

  /** Says that chunks in [first, end) were written to an open layer's file and are present, `bytes` of them anew. */
  wrote(layer: CachedLayer, first: number, end: number, bytes: number): void {
    layer.noteWritten();
    this.index.add(layer.tree, layer.slot, first, end);
    this.#directories.grow(layer.name, bytes);
  }

  /**
   * A chunk from what is on disk already: the layer's own file after an unclean end, or another layer that has the same bytes.
   * Verified, and present afterwards. Synchronous; gives the bytes that were taken, 0 for none.
   */
  reuse(layer: CachedLayer, chunk: number): number {
    const { tree } = layer;
    try {
      if (layer.hasSuspects && layer.recover(chunk)) return tree.chunkSize[chunk];
      const hint = this.index.find(tree, chunk);
      if (hint === undefined || (hint.slot === layer.slot && hint.place === tree.chunkCache[chunk])) return 0;
      const fd = this.#fdOfSlot(hint.slot);
      const bytes = fd === undefined ? undefined : readVerified(fd, hint.place, tree, chunk);
      if (bytes === undefined) return 0;
      layer.store(chunk, bytes);
      this.wrote(layer, chunk, chunk + 1, blocks(bytes.byteLength));
      return bytes.byteLength;
    } catch {
      return 0; // a bad sector, a hint that leads nowhere, or a full disk: the registry has the chunk too
    }
  }

  /** Whether some layer on disk is likely to have a chunk, by its digest, raw. */
  mayHave(digest: Uint8Array): boolean {
    return this.index.has(digest);
  }

  /** Writes down at once which chunks are where, so that other layers find them. Else that waits for a quiet moment. */
  async flushHints(): Promise<void> {
    await this.index.flush();
  }

  #fdOfSlot(slot: number): number | undefined {
    const name = this.index.nameOfSlot(slot);
    if (name === undefined) return undefined;
    const fd = this.#open.get(name)?.fd;
    if (fd !== undefined || !this.#directories.has(name)) return fd;
    return this.#lent.open(name, this.#path(name, FILES.data));
  }

  /** Passes on a failure of the disk that no reader shall notice. */
  report(error: unknown): void {
    this.options.onEvent?.({ type: 'full', error });
  }

  /** Makes room for `bytes` after a write found the disk full, by dropping what nobody has open. False when there is nothing. */
  makeRoom(bytes: number, error: unknown): Promise<boolean> {
    return this.#directories.makeRoom(bytes, error);
  }

  #goesLast(name: string): boolean {
    const slot = this.index.knownSlot(name);
    return slot !== undefined && this.options.goesLast?.(slot) === true;
  }

  /** Makes descriptor and hints forget a layer whose content is about to go. */
  async #forget(name: string): Promise<void> {
    this.#lent.close(name);
    const tree = await loadTree(this.#path(name, FILES.tree)).catch(() => undefined);
    const slot = this.index.knownSlot(name);
    if (slot !== undefined) await this.options.onForget?.(slot);
    if (tree === undefined || slot === undefined) return;
    await this.index.forget(tree, slot).catch(() => {}); // hints that stay are harmless
  }

  async du(): Promise<CacheUsage> {
    const layers: LayerUsage[] = [];
    for (const [name, known] of this.#directories.entries()) {
      const open = this.#open.get(name);
      const bytes = open === undefined ? known.bytes : await open.measure();
      const count =
        open === undefined
          ? await countBitmap(this.#path(name, FILES.present))
          : { chunks: open.tree.counts.chunks, present: open.presence.count() };
      layers.push({
        digest: digestOfName(name)!,
        name,
        bytes,
        chunks: count?.chunks ?? 0,
        presentChunks: count?.present ?? 0,
        lastUsed: new Date(known.lastUsed),
        inUse: open !== undefined || this.#directories.isKept(name),
      });
    }
    layers.sort((a, b) => b.lastUsed.getTime() - a.lastUsed.getTime());
    return { bytes: layers.reduce((sum, l) => sum + l.bytes, 0), limitBytes: this.options.limitBytes, layers };
  }

  /** Drops layers that are not in use: all, or the least recently used until `keepBytes` (default: the limit) are left. */
  async prune(options: { all?: boolean; keepBytes?: number } = {}): Promise<{ layers: number; bytes: number }> {
    const before = this.usedBytes;
    const target = options.all === true ? 0 : (options.keepBytes ?? this.options.limitBytes ?? Infinity);
    const layers = await this.#directories.evictTo(target, { content: false });
    return { layers, bytes: before - this.usedBytes };
  }

  async #saveAll(): Promise<void> {
    for (const layer of this.#open.values())
      await layer.save().catch((error: unknown) => this.options.onEvent?.({ type: 'full', error }));
  }

  #path(name: string, file: string): string {
    return join(this.#directories.path(name), file);
  }

  /** Every layer must have been released. */
  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#timer);
    for (const layer of [...this.#open.values()]) await this.release(layer);
    await this.#directories.idle();
    this.#lent.closeAll();
    await this.index[Symbol.asyncDispose]();
    if (this.temporary) await rm(this.root, { recursive: true, force: true });
  }
}

/** Bytes that so many take on disk. */
export function blocks(bytes: number): number {
  return roundUp(bytes, 4096);
}
