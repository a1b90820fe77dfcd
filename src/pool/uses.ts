import { readFile } from 'node:fs/promises';
import { writeFileAtomic } from '../util/atomic-file.js';
import { directoryName, type PoolName } from './entry.js';

interface Use extends PoolName {
  /** Counts by key, each above zero. */
  readonly keys: Map<string, number>;
  total: number;
}

/**
 * How often each reference is in use, by a key of the user's choice (a layer digest, a mount point), kept in one small file so
 * that counts outlive the process. Counts change in memory at once; `flushed` tells when the file has them.
 */
export class UseCounts {
  readonly #uses = new Map<string, Use>();
  #dirty = false;
  #failure: unknown;
  #writing: Promise<void> | undefined;

  private constructor(private readonly path: string) {}

  /** A file that cannot be understood counts as none: a lost pin costs a load, nothing else. */
  static async open(path: string): Promise<UseCounts> {
    const counts = new UseCounts(path);
    let saved: unknown;
    try {
      saved = JSON.parse(await readFile(path, 'utf8'));
    } catch (error) {
      if (!(error instanceof SyntaxError) && (error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    }
    for (const { reference, platform, keys } of Array.isArray(saved) ? (saved as Partial<SavedUse>[]) : []) {
      if (typeof reference !== 'string' || typeof keys !== 'object') continue;
      const valid = Object.entries(keys).filter(([, n]) => Number.isSafeInteger(n) && n > 0);
      if (valid.length === 0) continue;
      const name = { reference, platform: typeof platform === 'string' ? platform : undefined };
      counts.#uses.set(directoryName(name), {
        ...name,
        keys: new Map(valid),
        total: valid.reduce((sum, [, n]) => sum + n, 0),
      });
    }
    return counts;
  }

  /** The sum over all keys. */
  total(id: string): number {
    return this.#uses.get(id)?.total ?? 0;
  }

  /** Counts by key. */
  keys(id: string): ReadonlyMap<string, number> {
    return this.#uses.get(id)?.keys ?? new Map<string, number>();
  }

  /** Adds one and gives the new total. */
  add(id: string, name: PoolName, key: string): number {
    let use = this.#uses.get(id);
    if (use === undefined) this.#uses.set(id, (use = { ...name, keys: new Map(), total: 0 }));
    use.keys.set(key, (use.keys.get(key) ?? 0) + 1);
    use.total++;
    this.#save();
    return use.total;
  }

  /** Takes one away and gives the new total, or undefined where there was none to take. */
  remove(id: string, key: string): number | undefined {
    const use = this.#uses.get(id);
    const count = use?.keys.get(key);
    if (use === undefined || count === undefined) return undefined;
    if (count === 1) use.keys.delete(key);
    else use.keys.set(key, count - 1);
    if (--use.total === 0) this.#uses.delete(id);
    this.#save();
    return use.total;
  }

  /** Resolves once the file holds every count as it was when this was called; throws what keeps it from being written. */
  async flushed(): Promise<void> {
    await this.#writing;
    if (this.#dirty) {
      this.#save();
      await this.#writing;
    }
    if (this.#dirty) throw this.#failure;
  }

  #save(): void {
    this.#dirty = true;
    this.#writing ??= this.#drain();
  }

  async #drain(): Promise<void> {
    try {
      while (this.#dirty) {
        this.#dirty = false;
        await writeFileAtomic(this.path, this.#encode());
      }
    } catch (error) {
      this.#failure = error;
      this.#dirty = true;
    } finally {
      this.#writing = undefined;
    }
  }

  #encode(): string {
    const saved: SavedUse[] = [];
    for (const { reference, platform, keys } of this.#uses.values())
      saved.push({ reference, platform, keys: Object.fromEntries(keys) });
    return JSON.stringify(saved);
  }
}

interface SavedUse extends PoolName {
  readonly keys: Record<string, number>;
}
