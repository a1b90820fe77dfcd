import { readdirSync, statSync } from 'node:fs';
import { mkdir, readdir, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { Digest } from '../digest/digest.js';
import { codeOf } from '../errors.js';
import { FILES } from './cached-layer.js';
import { digestOfName } from './key.js';

/** What an owner may want to log or count. The cache itself goes on in every case. */
export type CacheEvent =
  | { readonly type: 'evicted'; readonly digest: Digest; readonly bytes: number }
  | { readonly type: 'full'; readonly error: unknown }
  | { readonly type: 'damaged'; readonly what: string; readonly error: unknown };

export interface LayerDirectoriesOptions {
  readonly limitBytes?: number;
  readonly onEvent?: (event: CacheEvent) => void;
  /** Whether a layer is open: such a one stays. */
  readonly isOpen: (name: string) => boolean;
  /** Called in the layer's line before its content goes. */
  readonly forget: (name: string) => Promise<void>;
  /** Whether its content goes after that of all others. */
  readonly goesLast?: (name: string) => boolean;
}

interface Known {
  /** Bytes on disk. For an open layer they count on. */
  bytes: number;
  /** Milliseconds since 1970. */
  lastUsed: number;
  /** Its content went already, and its tree was kept. */
  bare: boolean;
}

const DEAD = '.dead-';

/**
 * The directories of layers, one each: what they take on disk, who works in them, and which go when room is wanted. A layer that is
 * kept is one that somebody may open at any time: its tree stays, so that this needs no registry, and its content goes last.
 */
export class LayerDirectories {
  readonly #known = new Map<string, Known>();
  /** How often a layer is kept, and how often with its content. */
  readonly #kept = new Map<string, { times: number; whole: number }>();
  /** One operation at a time for a layer's directory. */
  readonly #lines = new Map<string, Promise<unknown>>();
  /** Layers that are being opened, or wait for it: whoever makes room for that must not wait for them in turn. */
  readonly #entering = new Map<string, number>();
  #evicting: Promise<void> | undefined;
  /** Since the eviction under way looked at what may go. */
  #changed = false;
  #used = 0;
  #tick = 0;

  private constructor(
    private readonly root: string,
    private readonly options: LayerDirectoriesOptions,
  ) {}

  /** Learns what there is, and removes what a dead process left half done. Synchronous calls: an owner starts with it. */
  static async open(root: string, options: LayerDirectoriesOptions): Promise<LayerDirectories> {
    await mkdir(root, { recursive: true });
    const directories = new LayerDirectories(root, options);
    for (const name of readdirSync(root)) {
      const path = join(root, name);
      if (name.startsWith(DEAD)) await rm(path, { recursive: true, force: true });
      else if (digestOfName(name) !== undefined) await directories.#find(name, path);
    }
    return directories;
  }

  async #find(name: string, path: string): Promise<void> {
    let bytes = 0;
    let lastUsed: number | undefined;
    for (const file of readdirSync(path)) {
      if (file.endsWith('.tmp')) {
        await rm(join(path, file), { force: true });
        continue;
      }
      const { blocks, mtimeMs } = statSync(join(path, file));
      bytes += blocks * 512;
      if (file === FILES.tree) lastUsed = mtimeMs;
    }
    this.learn(name, bytes, lastUsed ?? statSync(path).mtimeMs);
  }

  path(name: string): string {
    return join(this.root, name);
  }

  /** A path beside the layers for a file that is being made: under a name that the next start removes. */
  scratchPath(): string {
    return join(this.root, `${DEAD}${process.pid}-${++this.#tick}`);
  }

  has(name: string): boolean {
    return this.#known.has(name);
  }

  /** Every layer on disk. */
  entries(): IterableIterator<[name: string, known: Readonly<Known>]> {
    return this.#known.entries();
  }

  learn(name: string, bytes: number, lastUsed: number): void {
    this.#used += bytes - (this.#known.get(name)?.bytes ?? 0);
    this.#known.set(name, { bytes, lastUsed, bare: false });
  }

  grow(name: string, bytes: number): void {
    const known = this.#known.get(name);
    if (known !== undefined) known.bytes += bytes;
    this.#used += bytes;
    this.enforceLimit();
  }

  /** Takes a layer that is about to go out of the books. In its line. */
  async forget(name: string): Promise<void> {
    // At once: from now on nobody finds it, and keeps it.
    this.#used -= this.#known.get(name)?.bytes ?? 0;
    this.#known.delete(name);
    await this.options.forget(name);
  }

  /** Bytes on disk over all layers, as counted. */
  get usedBytes(): number {
    return this.#used;
  }

  /** Whether the byte limit is reached and only what is in use is left. */
  get overLimit(): boolean {
    return this.#used > (this.options.limitBytes ?? Infinity);
  }

  /** Whether the limit leaves room for more, once what can be dropped is dropped. */
  async hasRoom(): Promise<boolean> {
    await this.#evicting;
    return !this.overLimit;
  }

  /** Until the returned function is called the layer's tree stays on disk; with `whole`, its content too. */
  keep(name: string, whole: boolean): () => void {
    const kept = this.#kept.get(name) ?? { times: 0, whole: 0 };
    this.#kept.set(name, kept);
    kept.times++;
    if (whole) kept.whole++;
    let done = false;
    return () => {
      if (done) return;
      done = true;
      if (whole) kept.whole--;
      if (--kept.times === 0) this.#kept.delete(name);
      this.enforceLimit();
    };
  }

  isKept(name: string): boolean {
    return this.#kept.has(name);
  }

  /** Drops what the limit leaves no room for, without waiting for it; called when there is more on disk, and when more of it may go. */
  enforceLimit(): void {
    if (!this.overLimit) return;
    this.#changed = true;
    this.#evicting ??= this.#enforceLimit();
  }

  async #enforceLimit(): Promise<void> {
    while (this.#changed && this.overLimit) {
      this.#changed = false;
      await this.evictTo(this.options.limitBytes!, { content: true }).catch((error: unknown) => {
        this.options.onEvent?.({ type: 'damaged', what: 'layers', error });
      });
    }
    this.#evicting = undefined;
  }

  /**
   * Drops layers that nobody uses, the one longest not used first, until `target` bytes are left; with `content`, then the content of
   * those that are kept, of some last. Gives how many were dropped.
   */
  async evictTo(target: number, options: { content: boolean }): Promise<number> {
    let dropped = 0;
    const idle = [...this.#known]
      .filter(([name]) => !this.options.isOpen(name))
      .map(([name, { lastUsed }]) => ({ name, lastUsed, last: this.options.goesLast?.(name) === true }))
      .sort((a, b) => Number(a.last) - Number(b.last) || a.lastUsed - b.lastUsed);
    const evict = async (kept: boolean, drop: (name: string) => Promise<boolean>) => {
      for (const { name } of idle) {
        if (this.#used <= target) break;
        if (this.isKept(name) === kept && !this.#entering.has(name) && (await drop(name))) dropped++;
      }
    };
    await evict(false, (name) => this.drop(name, { unlessKept: true }));
    if (options.content) await evict(true, (name) => this.#dropContent(name));
    return dropped;
  }

  /** Drops a layer that is not open, kept or not, unless that is asked for. */
  drop(name: string, { unlessKept = false } = {}): Promise<boolean> {
    return this.inLine(name, async () => {
      const known = this.#known.get(name);
      if (known === undefined || this.options.isOpen(name) || (unlessKept && this.isKept(name))) return false;
      await this.forget(name);
      const dead = this.scratchPath();
      await rename(this.path(name), dead); // gone in one step, whatever happens during the removal
      await rm(dead, { recursive: true, force: true });
      this.options.onEvent?.({ type: 'evicted', digest: digestOfName(name)!, bytes: known.bytes });
      return true;
    });
  }

  #dropContent(name: string): Promise<boolean> {
    return this.inLine(name, async () => {
      const known = this.#known.get(name);
      const isWanted = () => (this.#kept.get(name)?.whole ?? 0) > 0;
      if (known === undefined || known.bare || this.options.isOpen(name) || isWanted()) return false;
      await this.options.forget(name);
      if (isWanted()) return false;
      // The bits first: without them what is left of the content is held against its digests, should the process die here.
      for (const file of [FILES.present, FILES.data]) await rm(join(this.path(name), file), { force: true });
      const bytes = await sizeOf(this.path(name));
      this.learn(name, bytes, known.lastUsed);
      this.#known.get(name)!.bare = true;
      this.options.onEvent?.({ type: 'evicted', digest: digestOfName(name)!, bytes: known.bytes - bytes });
      return true;
    });
  }

  /** In line, and not for eviction from now on. */
  async entered<V>(name: string, work: () => Promise<V>): Promise<V> {
    this.#entering.set(name, (this.#entering.get(name) ?? 0) + 1);
    try {
      return await this.inLine(name, work);
    } finally {
      const left = this.#entering.get(name)! - 1;
      if (left > 0) this.#entering.set(name, left);
      else this.#entering.delete(name);
    }
  }

  async inLine<V>(name: string, work: () => Promise<V>): Promise<V> {
    const before = this.#lines.get(name);
    const turn = (async () => {
      await before?.catch(() => {});
      return work();
    })();
    this.#lines.set(name, turn);
    try {
      return await turn;
    } finally {
      if (this.#lines.get(name) === turn) this.#lines.delete(name);
    }
  }

  /** Makes room for `bytes` after a write found the disk full. False when there is none to be made. */
  async makeRoom(bytes: number, error: unknown): Promise<boolean> {
    this.options.onEvent?.({ type: 'full', error });
    return (await this.evictTo(Math.max(0, this.#used - bytes), { content: true })) > 0;
  }

  /** Does what takes room on the disk, and where there is none, makes some and does it again. */
  async withRoom<V>(work: () => Promise<V>): Promise<V> {
    try {
      return await work();
    } catch (error) {
      // A want of descriptors is of the same code, but dropping layers does not help it.
      const full = ['ENOSPC', 'EDQUOT'].includes((error as NodeJS.ErrnoException).code ?? '');
      if (!full || !(await this.makeRoom(16 << 20, error))) throw error;
      return work();
    }
  }

  /** Resolves when nothing is being dropped. */
  async idle(): Promise<void> {
    await this.#evicting;
  }
}

async function sizeOf(directory: string): Promise<number> {
  let bytes = 0;
  for (const file of await readdir(directory)) {
    const found = await stat(join(directory, file)).catch((error: unknown) => {
      if (codeOf(error) !== 'NOT_FOUND') throw error;
    });
    bytes += (found?.blocks ?? 0) * 512;
  }
  return bytes;
}
