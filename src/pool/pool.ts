import { mkdir, readdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { LRUCache } from 'lru-cache';
import type { Digest } from '../digest/digest.js';
import { codeOf, LazylayerError } from '../errors.js';
import { Serial } from '../util/serial.js';
import { Singleflight } from '../util/singleflight.js';
import {
  checkContent,
  directoryName,
  isEntryDirectory,
  isLeftover,
  readEntry,
  readLabel,
  removeEntry,
  touch,
  writeEntry,
  type PoolContent,
  type PoolEntry,
  type PoolManifest,
  type PoolName,
} from './entry.js';
import { UseCounts } from './uses.js';

export type { PoolContent, PoolEntry, PoolManifest, PoolName } from './entry.js';

export interface LoadOptions {
  readonly platform?: string;
  /** What the reference stood for when it was last asked for: what still holds of it need not be asked for again. */
  readonly known?: PoolManifest;
  readonly onAsked?: () => void;
  readonly signal: AbortSignal;
}

export interface RefPoolOptions {
  /** Where the entries live; made when it is missing. One pool at a time owns it. */
  readonly dir: string;
  /** Asks the registry for a reference's manifest. What it gives is checked before it is stored. */
  readonly load: (reference: string, options: LoadOptions) => Promise<PoolManifest>;
  /** The same for the config that the manifest names; `known` is one of an earlier manifest. */
  readonly loadConfig: (
    reference: string,
    manifest: PoolManifest,
    options: { known?: Uint8Array; signal: AbortSignal },
  ) => Promise<Uint8Array>;
  /** How many entries are kept that nothing uses and no hold protects. */
  readonly max?: number;
  /** How long a freshly loaded entry is safe from eviction, in milliseconds. */
  readonly holdMs?: number;
  /** Milliseconds since 1970. */
  readonly now?: () => number;
  /** Called once an evicted entry's directory is gone. */
  readonly onEvict?: (name: PoolName) => void;
}

export interface GetOptions {
  readonly platform?: string;
  /**
   * Ask the registry where the reference may have moved (it has no digest). When the registry cannot be reached, what is known
   * is the answer, with `stale` set.
   */
  readonly revalidate?: boolean;
  /** Hears that the registry was asked just now, before it has answered; not where another `get` had asked. */
  readonly onAsked?: () => void;
  /** Hears of the manifest, once, before the answer is given, and before there is a config where it can. What it throws is thrown. */
  readonly onManifest?: (manifest: PoolManifest) => void;
  readonly signal?: AbortSignal;
}

export interface PoolAnswer extends PoolEntry {
  /** Why the registry could not confirm the entry, where it was asked to. */
  readonly stale?: unknown;
}

/** An answer with the config. */
export type WholeAnswer = PoolAnswer & { readonly configBytes: Uint8Array };

/** One entry as `entries` tells it. */
export interface PoolStatus extends PoolName {
  readonly directory: string;
  /** Use counts by key. */
  readonly uses: ReadonlyMap<string, number>;
  /** Until when it is safe from eviction without being used, in milliseconds since 1970. */
  readonly heldUntil: number;
}

interface Known extends PoolName {
  readonly id: string;
  heldUntil: number;
  /** The manifest whose config was written beside it. */
  wholeOf?: Digest;
}

/**
 * Manifest and config of the references met lately, on disk: a restart asks the registry nothing, and a tag can be answered without
 * it. The config is asked for when somebody wants it. An entry is either pinned (used, or held because it was just loaded) or idle; idle ones beyond `max` are evicted, the least
 * recently asked for first. The disk is read, and digests are checked, at every `get`: a damaged entry is loaded again.
 */
export class RefPool implements AsyncDisposable {
  readonly #dir: string;
  readonly #load: RefPoolOptions['load'];
  readonly #loadConfig: RefPoolOptions['loadConfig'];
  readonly #holdMs: number;
  readonly #now: () => number;
  readonly #onEvict: RefPoolOptions['onEvict'];
  readonly #uses: UseCounts;
  /** Every entry that has a directory. */
  readonly #known = new Map<string, Known>();
  /** Those that may be evicted: neither used nor held. */
  readonly #idle: LRUCache<string, Known>;
  /** Those held, the first to be let go first. */
  readonly #held = new Map<string, Known>();
  readonly #gets = new Singleflight<string, PoolAnswer>();
  readonly #loads = new Singleflight<string, PoolManifest>();
  readonly #configs = new Singleflight<string, Uint8Array>();
  /** Reads and writes of directories. */
  readonly #disk = new Serial();
  #timer: NodeJS.Timeout | undefined;
  #closed = false;

  private constructor(options: RefPoolOptions, uses: UseCounts) {
    this.#dir = options.dir;
    this.#load = options.load;
    this.#loadConfig = options.loadConfig;
    this.#holdMs = options.holdMs ?? 120_000;
    this.#now = options.now ?? Date.now;
    this.#onEvict = options.onEvict;
    this.#uses = uses;
    this.#idle = new LRUCache({
      max: options.max ?? 30,
      dispose: (known, _id, reason) => {
        if (reason === 'evict') this.#evict(known);
      },
    });
  }

  /** Takes over what an earlier pool left in `dir`: all that is in use or held, and the most recently used others up to `max`. */
  static async open(options: RefPoolOptions): Promise<RefPool> {
    await mkdir(options.dir, { recursive: true });
    const pool = new RefPool(options, await UseCounts.open(join(options.dir, 'uses')));
    await pool.#recover();
    return pool;
  }

  async #recover(): Promise<void> {
    const found: { known: Known; usedAt: number }[] = [];
    for (const name of await readdir(this.#dir)) {
      const directory = join(this.#dir, name);
      if (isLeftover(name)) await rm(directory, { recursive: true, force: true });
      if (!isEntryDirectory(name)) continue;
      try {
        const { reference, platform, loadedAt } = await readLabel(directory);
        const heldUntil = Math.min(loadedAt, this.#now()) + this.#holdMs;
        found.push({ known: { id: name, reference, platform, heldUntil }, usedAt: (await stat(directory)).mtimeMs });
      } catch {
        await removeEntry(directory);
      }
    }
    for (const { known } of found.sort((a, b) => a.known.heldUntil - b.known.heldUntil)) {
      this.#known.set(known.id, known);
      if (known.heldUntil > this.#now()) this.#held.set(known.id, known);
    }
    for (const { known } of found.sort((a, b) => a.usedAt - b.usedAt)) this.#settle(known);
    this.#letGo();
    await this.#disk.flushed();
  }

  /**
   * The manifest of a reference, with the config where that is known: from disk, or loaded once for all who ask at the same time.
   * @throws what `load` throws; FormatError, VerificationError when it gives what does not fit together.
   */
  async manifest(reference: string, options: GetOptions = {}): Promise<PoolAnswer> {
    return this.#ask(reference, options, false);
  }

  /** Manifest and config of a reference; else as `manifest`. @throws also what `loadConfig` throws */
  async get(reference: string, options: GetOptions = {}): Promise<WholeAnswer> {
    return (await this.#ask(reference, options, true)) as WholeAnswer;
  }

  async #ask(reference: string, options: GetOptions, whole: boolean): Promise<PoolAnswer> {
    if (this.#closed) throw new LazylayerError('FAILED_PRECONDITION', 'the pool of references is closed');
    const name: PoolName = { reference, platform: options.platform };
    const id = directoryName(name);
    const again = options.revalidate === true && !reference.includes('@');
    const suffices = ({ configBytes }: PoolContent) => !whole || configBytes !== undefined;
    let told = false;
    const onManifest = (manifest: PoolManifest) => {
      told = true;
      options.onManifest?.(manifest);
    };
    const answer = await this.#gets.run(
      [id, again && 'revalidated', whole && 'whole'].join(' '),
      async (signal) => {
        this.#letGo();
        const onDisk = await this.#disk.run(() => this.#read(id));
        if (onDisk !== undefined && !again && suffices(onDisk)) return onDisk;
        try {
          return await this.#fetch(id, name, { ...options, onManifest, onDisk, again, whole, signal });
        } catch (error) {
          if (onDisk === undefined || !suffices(onDisk) || !unreachable.has(codeOf(error))) throw error;
          return { ...onDisk, stale: error };
        }
      },
      options.signal,
    );
    if (!told) onManifest(answer); // from disk, or somebody else had asked
    return answer;
  }

  /** How often a reference is in use by a key. */
  uses(reference: string, key = '', platform?: string): number {
    return this.#uses.keys(directoryName({ reference, platform })).get(key) ?? 0;
  }

  /** Counts one use, by a key of the caller's choice, and gives the reference's total. What is in use is never evicted. */
  use(reference: string, key = '', platform?: string): number {
    const name: PoolName = { reference, platform };
    const id = directoryName(name);
    const total = this.#uses.add(id, name, key);
    this.#idle.delete(id);
    return total;
  }

  /** Takes one use back and gives the reference's total; without such a use, nothing changes. */
  release(reference: string, key = '', platform?: string): number {
    const id = directoryName({ reference, platform });
    const left = this.#uses.remove(id, key);
    const known = this.#known.get(id);
    if (left === 0 && known !== undefined) this.#settle(known);
    return left ?? this.#uses.total(id);
  }

  /** Whether the manifest of a reference is kept. */
  has(reference: string, platform?: string): boolean {
    return this.#known.has(directoryName({ reference, platform }));
  }

  /** The entries on disk, in no particular order. */
  *entries(): Generator<PoolStatus> {
    this.#letGo();
    for (const { id, reference, platform, heldUntil } of this.#known.values())
      yield { reference, platform, heldUntil, directory: join(this.#dir, id), uses: this.#uses.keys(id) };
  }

  /** Resolves when use counts and evictions up to now are on disk. */
  async flushed(): Promise<void> {
    this.#letGo();
    await this.#uses.flushed();
    await this.#disk.flushed();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#timer);
    await this.flushed();
    clearTimeout(this.#timer);
  }

  async #read(id: string): Promise<PoolEntry | undefined> {
    const known = this.#known.get(id);
    if (known === undefined) return undefined;
    const directory = join(this.#dir, id);
    try {
      const entry = await readEntry(directory);
      await touch(directory, this.#now());
      this.#settle(known);
      return entry;
    } catch {
      known.wholeOf = undefined;
      return undefined; // whatever is wrong with it, loading it again is the cure
    }
  }

  async #fetch(
    id: string,
    name: PoolName,
    options: GetOptions & { onDisk?: PoolEntry; again: boolean; whole: boolean; signal: AbortSignal },
  ): Promise<PoolEntry> {
    const { reference, platform } = name;
    const { onDisk, again, whole, onAsked, onManifest, signal } = options;
    const load = (shared: AbortSignal) => this.#load(reference, { platform, known: onDisk, onAsked, signal: shared });
    const loaded = onDisk === undefined || again ? await this.#loads.run(id, load, signal) : onDisk;
    const { descriptor, manifestBytes } = loaded;
    onManifest?.(loaded);
    const loadConfig = (shared: AbortSignal) =>
      this.#loadConfig(reference, loaded, { known: onDisk?.configBytes, signal: shared });
    const configBytes = whole
      ? await this.#configs.run(`${id} ${descriptor.digest}`, loadConfig, signal)
      : onDisk?.descriptor.digest === descriptor.digest
        ? onDisk.configBytes
        : undefined;
    const directory = join(this.#dir, id);
    const loadedAt = this.#now();
    const config = configBytes !== undefined && { configBytes };
    const entry: PoolEntry = { ...name, descriptor, manifestBytes, ...config, loadedAt, directory };
    checkContent(entry);
    await this.#disk.run(async () => {
      // Somebody may have come by the config meanwhile.
      const better = configBytes === undefined && this.#known.get(id)?.wholeOf === descriptor.digest;
      if (!better) await writeEntry(entry);
      const wholeOf = (better || configBytes !== undefined) && { wholeOf: descriptor.digest };
      const known: Known = { ...name, id, heldUntil: loadedAt + this.#holdMs, ...wholeOf };
      this.#known.set(id, known);
      this.#idle.delete(id);
      this.#held.delete(id);
      this.#held.set(id, known);
      this.#letGo();
    });
    return entry;
  }

  /** Makes an entry idle, and the most recent of those, unless it is pinned. */
  #settle(known: Known): void {
    if (!this.#held.has(known.id) && this.#uses.total(known.id) === 0) this.#idle.set(known.id, known);
  }

  /** Ends the holds whose time is over, and sets the clock for the next. */
  #letGo(): void {
    const now = this.#now();
    clearTimeout(this.#timer);
    for (const [id, known] of this.#held) {
      if (known.heldUntil > now) {
        this.#timer = setTimeout(() => this.#letGo(), known.heldUntil - now).unref();
        return;
      }
      this.#held.delete(id);
      this.#settle(known);
    }
  }

  #evict(known: Known): void {
    const { id, reference, platform } = known;
    const remove = async () => {
      // Between the decision and its turn here the entry may have been asked for, used, or loaded again.
      if (this.#known.get(id) !== known || this.#idle.has(id) || this.#held.has(id) || this.#uses.total(id) > 0) return;
      this.#known.delete(id);
      await removeEntry(join(this.#dir, id));
      this.#onEvict?.({ reference, platform });
    };
    this.#disk.run(remove).catch(() => {}); // a directory that cannot be removed is met again at the next start
  }
}

/** Failures that say nothing about the reference: what was known before may still be told. */
const unreachable = new Set(['UNAVAILABLE', 'TIMEOUT']);
