import { mkdir, readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { hash } from 'node:crypto';
import { hexOf, type Digest } from '../digest/digest.js';
import type { UseRequest } from '../fuse/server.js';
import type { RefPool } from '../pool/pool.js';
import { syncDirectory, writeFileAtomic } from '../util/atomic-file.js';
import { Serial } from '../util/serial.js';
import type { ImageLayer } from '../workspace/image.js';

/** Requests that are remembered: many more than clients have under way when a serving process dies. */
const rememberedRequests = 256;

const keyPrefix = 'store:';
const keyOf = (digest: Digest) => `${keyPrefix}${digest}`;

interface Used {
  /** What opens the layer after a restart without the registry, wherever its tag points by then. */
  readonly layer: ImageLayer;
  readonly count: number;
}

/** As it lies on disk. */
interface SavedUse extends Used {
  /** Requests that were counted lately. */
  readonly requests: readonly number[];
}

/**
 * How often each layer is in use, one file a layer. The files are what counts: the pool's counts, which keep references from being
 * evicted, follow them at the start.
 *
 * A serving process that dies between counting a request and answering it leaves it to the next, to which the kernel sends it again.
 * So the file that has the count has the request's number too, and what was counted is not counted twice.
 */
export class StoreUses {
  readonly #used = new Map<string, Used>();
  /** The requests that were counted last, in order, with the file that has them. */
  #requests: { readonly file: string; readonly id: number }[] = [];
  readonly #changes = new Serial();

  constructor(
    private readonly directory: string,
    private readonly pool: RefPool,
    /** Hears of files that stay as they are though they could not be read or renewed. */
    private readonly onError: (what: string, error: unknown) => void,
  ) {}

  /**
   * Takes over what is on disk; what is no use is removed. `resumed`: the connection to the kernel is the same as the last
   * process's, so that its requests may come again; another one numbers its requests anew.
   * @returns the layers in use
   */
  async open(resumed: boolean): Promise<ImageLayer[]> {
    await mkdir(this.directory, { recursive: true, mode: 0o700 });
    for (const entry of await readdir(this.directory, { withFileTypes: true })) {
      const path = join(this.directory, entry.name);
      try {
        const saved = entry.isFile() ? parseUse(entry.name, await readFile(path, 'utf8')) : undefined;
        if (saved === undefined) await rm(path, { recursive: true, force: true });
        else await this.#takeOver(entry.name, saved, resumed);
      } catch (error) {
        this.onError(`use of a layer: ${path}`, error);
      }
    }
    this.#lead();
    return [...this.#used.values()].map(({ layer }) => layer);
  }

  async #takeOver(file: string, { layer, count, requests }: SavedUse, resumed: boolean): Promise<void> {
    this.#used.set(file, { layer, count });
    if (resumed) this.#requests.push(...requests.map((id) => ({ file, id })));
    else if (requests.length > 0) await this.#save(file);
  }

  /** Makes the pool's counts what they are here. */
  #lead(): void {
    const { pool } = this;
    for (const { reference, platform, uses } of [...pool.entries()])
      for (const [key, count] of [...uses])
        if (key.startsWith(keyPrefix)) for (let i = 0; i < count; i++) pool.release(reference, key, platform);
    for (const { layer, count } of this.#used.values())
      while (pool.uses(layer.reference, keyOf(layer.descriptor.digest)) < count)
        pool.use(layer.reference, keyOf(layer.descriptor.digest));
  }

  /** A layer that is in use, by a test of it. */
  find(reference: string, test: (layer: ImageLayer) => boolean): ImageLayer | undefined {
    for (const { layer } of this.#used.values()) if (layer.reference === reference && test(layer)) return layer;
    return undefined;
  }

  /** Whether any layer of a reference is in use. */
  has(reference: string): boolean {
    return this.find(reference, () => true) !== undefined;
  }

  /** Layers in use. */
  get layers(): number {
    return this.#used.size;
  }

  /** Counts one use. The reference is safe from eviction at once; resolves when the count is on disk. */
  async add(layer: ImageLayer, request?: UseRequest): Promise<void> {
    const file = fileOf(layer);
    if (this.#counted(file, request)) return;
    const key = keyOf(layer.descriptor.digest);
    this.pool.use(layer.reference, key);
    await this.#changes.run(async () => {
      try {
        await this.#count(file, { layer, count: (this.#used.get(file)?.count ?? 0) + 1 }, request);
      } catch (error) {
        this.pool.release(layer.reference, key);
        throw error;
      }
    });
  }

  /** Takes one use back; without one, nothing changes. Resolves when the disk has it. */
  async remove({ reference, descriptor }: ImageLayer, request?: UseRequest): Promise<void> {
    const file = fileOf({ reference, descriptor });
    if (this.#counted(file, request)) return;
    await this.#changes.run(async () => {
      const used = this.#used.get(file);
      if (used === undefined) return;
      const key = keyOf(descriptor.digest);
      let released = false;
      try {
        // The pool may let go of the reference as soon as it is told.
        await this.#count(file, { layer: used.layer, count: used.count - 1 }, request, () => {
          this.pool.release(reference, key);
          released = true;
        });
      } catch (error) {
        if (released) this.pool.use(reference, key);
        throw error;
      }
    });
  }

  #counted(file: string, request: UseRequest | undefined): boolean {
    return request?.again === true && this.#requests.some((r) => r.id === request.id && r.file === file);
  }

  /** Sets a layer's count here and on disk; where the disk does not take it, nothing is counted. */
  async #count(file: string, used: Used, request: UseRequest | undefined, saved = () => {}): Promise<void> {
    const before = { used: this.#used.get(file), requests: this.#requests };
    this.#set(file, used);
    if (request !== undefined)
      this.#requests = [...before.requests, { file, id: request.id }].slice(-rememberedRequests);
    try {
      await this.#save(file);
      saved();
      await this.pool.flushed();
    } catch (error) {
      this.#set(file, before.used);
      this.#requests = before.requests;
      // The file may have the new count by now.
      await this.#save(file).catch((failure: unknown) => this.onError(`use of a layer: ${file}`, failure));
      throw error;
    }
  }

  #set(file: string, used: Used | undefined): void {
    if (used === undefined || used.count === 0) this.#used.delete(file);
    else this.#used.set(file, used);
  }

  async #save(file: string): Promise<void> {
    const used = this.#used.get(file);
    if (used === undefined) {
      await rm(join(this.directory, file), { force: true });
      return syncDirectory(this.directory);
    }
    const requests = this.#requests.filter((r) => r.file === file).map(({ id }) => id);
    const saved: SavedUse = { ...used, requests };
    await writeFileAtomic(join(this.directory, file), JSON.stringify(saved), { mode: 0o600 });
  }

  /** Resolves when the changes up to now are on disk. */
  async flushed(): Promise<void> {
    await this.#changes.flushed();
  }
}

function fileOf({ reference, descriptor }: Pick<ImageLayer, 'reference' | 'descriptor'>): string {
  return `${hash('sha256', reference, 'hex')}-${hexOf(descriptor.digest)}`;
}

/** What a file of this name says; undefined where it is no use, or one of another name. */
function parseUse(name: string, text: string): SavedUse | undefined {
  try {
    const { layer, count, requests } = JSON.parse(text) as SavedUse;
    return fileOf(layer) === name && count > 0 && Array.isArray(requests) ? { layer, count, requests } : undefined;
  } catch {
    return undefined;
  }
}
