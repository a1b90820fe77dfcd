import { mkdir, readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { hash } from 'node:crypto';
import { hexOf, type Digest } from '../digest/digest.js';
import type { UseRequest } from '../fuse/server.js';
import type { RefPool } from '../pool/pool.js';
import { syncDirectory, writeFileAtomic } from '../util/atomic-file.js';
import type { ImageLayer } from '../workspace/image.js';

/** Requests that are remembered: many more than clients have under way when a serving process dies. */
const rememberedRequests = 256;

const keyPrefix = 'store:';
const keyOf = (digest: Digest) => `${keyPrefix}${digest}`;

interface Used {
  /** What opens the layer after a restart without the registry, wherever its tag points by then. */
  readonly layer: ImageLayer;
  count: number;
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
  /** The last of the changes: they happen one after another. */
  #changes: Promise<unknown> = Promise.resolve();

  constructor(
    private readonly directory: string,
    private readonly pool: RefPool,
  ) {}

  /**
   * Takes over what is on disk; what cannot be read is removed. `resumed`: the connection to the kernel is the same as the last
   * process's, so that its requests may come again; another one numbers its requests anew.
   * @returns the layers in use
   */
  async open(resumed: boolean): Promise<ImageLayer[]> {
    await mkdir(this.directory, { recursive: true, mode: 0o700 });
    for (const name of await readdir(this.directory)) {
      try {
        const { layer, count, requests } = JSON.parse(await readFile(join(this.directory, name), 'utf8')) as SavedUse;
        if (fileOf(layer) !== name || !(count > 0)) throw new Error('not a use, or not of this name');
        this.#used.set(name, { layer, count });
        if (resumed) this.#requests.push(...requests.map((id) => ({ file: name, id })));
        else if (requests.length > 0) await this.#save(name);
      } catch {
        await rm(join(this.directory, name), { recursive: true, force: true });
      }
    }
    this.#lead();
    return [...this.#used.values()].map(({ layer }) => layer);
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
    await this.#serially(async () => {
      const used = this.#used.get(file) ?? { layer, count: 0 };
      used.count++;
      this.#used.set(file, used);
      this.#remember(file, request);
      try {
        await this.#save(file);
      } catch (error) {
        if (--used.count === 0) this.#used.delete(file);
        this.#requests = this.#requests.filter(({ id }) => id !== request?.id);
        this.pool.release(layer.reference, key);
        throw error;
      }
      await this.pool.flushed();
    });
  }

  /** Takes one use back; without one, nothing changes. Resolves when the disk has it. */
  async remove({ reference, descriptor }: ImageLayer, request?: UseRequest): Promise<void> {
    const file = fileOf({ reference, descriptor });
    if (this.#counted(file, request)) return;
    await this.#serially(async () => {
      const used = this.#used.get(file);
      if (used === undefined) return;
      used.count--;
      this.#remember(file, request);
      if (used.count > 0) await this.#save(file);
      else {
        this.#used.delete(file);
        await rm(join(this.directory, file), { force: true });
        await syncDirectory(this.directory);
      }
      this.pool.release(reference, keyOf(descriptor.digest));
      await this.pool.flushed();
    });
  }

  #counted(file: string, request: UseRequest | undefined): boolean {
    return request?.again === true && this.#requests.some((r) => r.id === request.id && r.file === file);
  }

  #remember(file: string, request: UseRequest | undefined): void {
    if (request === undefined) return;
    this.#requests.push({ file, id: request.id });
    if (this.#requests.length > rememberedRequests) this.#requests.shift();
  }

  async #save(file: string): Promise<void> {
    const requests = this.#requests.filter((r) => r.file === file).map(({ id }) => id);
    const saved: SavedUse = { ...this.#used.get(file)!, requests };
    await writeFileAtomic(join(this.directory, file), JSON.stringify(saved), { mode: 0o600 });
  }

  #serially<V>(work: () => Promise<V>): Promise<V> {
    const turn = this.#changes.then(work);
    this.#changes = turn.catch(() => {});
    return turn;
  }

  /** Resolves when the changes up to now are on disk. */
  async flushed(): Promise<void> {
    await this.#changes;
  }
}

function fileOf({ reference, descriptor }: Pick<ImageLayer, 'reference' | 'descriptor'>): string {
  return `${hash('sha256', reference, 'hex')}-${hexOf(descriptor.digest)}`;
}
