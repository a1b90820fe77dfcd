import { annotationTocDigest } from '../estargz/annotations.js';
import { codeOf, LazylayerError, type ErrorCode } from '../errors.js';
import type { Digest } from '../digest/digest.js';
import type { ReferenceLayer } from '../fs/served-tree.js';
import type { ServedLayers } from '../fuse/served.js';
import type { StoreHost } from '../fuse/server.js';
import type { Layer } from '../layer/layer.js';
import { parseReference } from '../image/reference.js';
import { layerOf, type Image, type ImageLayer } from '../workspace/image.js';
import type { Workspace } from '../workspace/workspace.js';
import { BlobWindows } from './blob-windows.js';
import { layerInfo } from './info.js';
import { layerDigestOf, referenceOf } from './names.js';
import { StoreRecords } from './records.js';

export interface AdditionalLayerStoreOptions {
  readonly workspace: Workspace;
  readonly served: ServedLayers;
  /** Directory of the records of layers in use. */
  readonly records: string;
  /** Once a layer is used, fetch what its landmark asks for. */
  readonly prefetch: boolean;
  /** Then fetch the rest. */
  readonly background: boolean;
  /** What came of a layer: shown, be it asked for or ahead of that, or left to the client, and why. */
  readonly onAnswer?: (answer: LayerAnswer) => void;
  /** Hears of what failed while nobody waits. */
  readonly onError: (what: string, error: unknown) => void;
}

export interface LayerAnswer {
  readonly reference: string;
  readonly digest: Digest;
  /** Why it is not served. */
  readonly refusal?: { readonly code: ErrorCode; readonly error: unknown };
}

/** A layer of a reference that can be looked up. */
interface Shown {
  readonly source: ImageLayer;
  readonly layer: Layer;
  readonly info: Buffer;
  readonly fetching: AbortController;
  fetched: boolean;
}

const useKey = (digest: Digest) => `${usePrefix}${digest}`;
const usePrefix = 'store:';

/**
 * The additional layer store of containers-storage: layers by reference and digest, opened when they are looked up, and shown until
 * their reference leaves the refPool. A layer in use keeps its reference there; uses outlive the process.
 */
export class AdditionalLayerStore implements StoreHost, AsyncDisposable {
  readonly #options: AdditionalLayerStoreOptions;
  readonly #records: StoreRecords;
  readonly #windows = new BlobWindows();
  /** By reference, then by digest of the blob. Those that are being opened are not in the mount yet. */
  readonly #references = new Map<string, Map<Digest, Promise<Shown>>>();
  /** What the mount shows of them. */
  readonly #visible = new Map<string, Map<Digest, Shown>>();
  /** The last of the changes to records and uses: they happen one after another. */
  #changes: Promise<unknown> = Promise.resolve();
  #closed = false;

  constructor(options: AdditionalLayerStoreOptions) {
    this.#options = options;
    this.#records = new StoreRecords(options.records);
  }

  /** Opens every layer in use, by its record, so that the mount shows it from the first request on. One that fails stops nothing. */
  async restore(): Promise<void> {
    const { workspace, onError } = this.#options;
    const known = new Set<string>();
    const restoring: Promise<unknown>[] = [];
    for (const source of await this.#records.all()) {
      const { digest } = source.descriptor;
      if (workspace.pool.uses(source.reference, useKey(digest)) === 0) {
        await this.#records.remove(source);
        continue;
      }
      known.add(`${source.reference} ${useKey(digest)}`);
      const shown = this.#show(source).then((s) => this.#fetchAhead(s));
      restoring.push(shown.catch((error: unknown) => onError(`restore layer ${digest} of ${source.reference}`, error)));
    }
    for (const { reference, platform, uses } of [...workspace.pool.entries()])
      for (const [key, count] of uses)
        if (key.startsWith(usePrefix) && !known.has(`${reference} ${key}`))
          for (let i = 0; i < count; i++) workspace.pool.release(reference, key, platform);
    await Promise.all(restoring);
  }

  /** @throws INVALID_ARGUMENT for a name that is none, UNAVAILABLE (EIO) for what cannot be served, so that the client pulls it */
  async resolve([name, digest]: readonly string[], signal?: AbortSignal): Promise<void> {
    const reference = referenceOf(name);
    if (digest === undefined) {
      try {
        await this.#options.workspace.pool.get(reference, { signal });
      } catch (error) {
        throw unavailable(reference, error);
      }
      if (!this.#visible.has(reference)) this.#visible.set(reference, new Map());
      await this.#publish();
      this.#leaveIfEvicted(reference);
    } else await this.#layer(reference, layerDigestOf(digest), signal);
  }

  /** The layer, shown from now on if it was not. The image's other layers follow, since they will be asked for. */
  async #layer(reference: string, digest: Digest, signal?: AbortSignal): Promise<Shown> {
    const visible = this.#find(reference, digest);
    if (visible !== undefined) return visible;
    const { workspace, onAnswer } = this.#options;
    try {
      const { image, index } = await workspace.imageWithLayer(reference, digest, { signal });
      const shown = this.#show(layerOf({ ...image, reference }, index));
      this.#showOthers({ ...image, reference }, index);
      return await shown;
    } catch (error) {
      signal?.throwIfAborted();
      onAnswer?.({ reference, digest, refusal: { code: codeOf(error), error } });
      throw unavailable(`layer ${digest} of ${reference}`, error);
    }
  }

  #find(reference: string, digest: Digest): Shown | undefined {
    const layers = this.#visible.get(reference);
    if (layers === undefined) return undefined;
    return layers.get(digest) ?? [...layers.values()].find(({ source }) => tocDigestOf(source) === digest);
  }

  /** Whoever asks for one of them hears how it went; what cannot be lazy is asked for again then. */
  #showOthers(image: Image, index: number): void {
    for (let other = 0; other < image.manifest.layers.length; other++)
      if (other !== index) this.#show(layerOf(image, other)).catch(() => {});
  }

  #show(source: ImageLayer): Promise<Shown> {
    const { digest } = source.descriptor;
    const mine = this.#references.get(source.reference) ?? new Map<Digest, Promise<Shown>>();
    this.#references.set(source.reference, mine);
    let showing = mine.get(digest);
    if (showing === undefined) {
      mine.set(digest, (showing = this.#open(source, mine)));
      showing.catch(() => mine.delete(digest));
    }
    return showing;
  }

  async #open(source: ImageLayer, mine: Map<Digest, Promise<Shown>>): Promise<Shown> {
    const { workspace, served } = this.#options;
    const { reference, descriptor } = source;
    if (this.#closed) throw new LazylayerError('ABORTED', 'the layer store is closing');
    const layer = await workspace.openLayer(source, { lazyOnly: true });
    await served.add(reference, [layer]);
    const shown: Shown = {
      source,
      layer,
      info: layerInfo(source),
      fetching: new AbortController(),
      fetched: false,
    };
    // Dropped while it was being opened: whoever drops it waits for it, and takes it out of the mount.
    if (this.#references.get(reference) !== mine) return shown;
    const layers = this.#visible.get(reference) ?? new Map<Digest, Shown>();
    this.#visible.set(reference, layers.set(descriptor.digest, shown));
    await this.#publish();
    this.#options.onAnswer?.({ reference, digest: descriptor.digest });
    this.#leaveIfEvicted(reference);
    return shown;
  }

  async #publish(): Promise<void> {
    const references = [...this.#visible].map(([reference, layers]) => ({
      reference,
      layers: [...layers.values()].flatMap((shown) => entriesOf(shown)),
    }));
    await this.#options.served.show(references);
  }

  /** Of the pool: manifest and config of a reference are gone. */
  evicted(reference: string): void {
    this.#leaveIfEvicted(reference);
  }

  /** References leave the mount with the pool. Those in use do not: a pool that lost one on disk still has its uses. */
  #leaveIfEvicted(reference: string): void {
    const { pool } = this.#options.workspace;
    if (pool.has(reference) || this.#inUse(reference)) return;
    this.#drop(reference).catch((error: unknown) => this.#options.onError(`take ${reference} away`, error));
  }

  #inUse(reference: string): boolean {
    const { pool } = this.#options.workspace;
    for (const { source } of this.#visible.get(reference)?.values() ?? [])
      if (pool.uses(reference, useKey(source.descriptor.digest)) > 0) return true;
    return false;
  }

  async #drop(reference: string): Promise<void> {
    const layers = this.#references.get(reference);
    this.#references.delete(reference);
    if (this.#visible.delete(reference)) await this.#publish();
    for (const showing of layers?.values() ?? []) {
      const shown = await showing.catch(() => undefined);
      if (shown === undefined) continue;
      shown.fetching.abort(new LazylayerError('ABORTED', 'nothing uses the layer any more'));
      await this.#options.served.remove(reference, [shown.layer]);
    }
  }

  async read([name, digest, file]: readonly string[], offset: number, length: number): Promise<Uint8Array> {
    const { source, info } = await this.#layer(referenceOf(name), layerDigestOf(digest));
    if (file === 'info') return info.subarray(offset, offset + length);
    const { descriptor, reference } = source;
    const blob = this.#options.workspace.registry.openBlob(parseReference(reference), descriptor);
    try {
      return await this.#windows.read(`${reference} ${descriptor.digest}`, blob, offset, length);
    } catch (error) {
      throw unavailable(`blob of layer ${descriptor.digest}`, error);
    }
  }

  async use([name, digest]: readonly string[]): Promise<void> {
    const { pool } = this.#options.workspace;
    const [reference, key] = [referenceOf(name), layerDigestOf(digest)];
    const { source } = await this.#layer(reference, key);
    pool.use(reference, useKey(source.descriptor.digest));
    // The pool may have let the reference go before; from here on it cannot.
    const shown = await this.#layer(reference, key);
    await this.#serially(async () => {
      // Whichever of the two a crash leaves alone is taken back at the next start: nobody was told of it.
      await this.#records.put(source);
      await pool.flushed();
    });
    this.#fetchAhead(shown);
  }

  async release([name, digest]: readonly string[]): Promise<void> {
    const { pool } = this.#options.workspace;
    const reference = referenceOf(name);
    const shown = this.#find(reference, layerDigestOf(digest));
    if (shown === undefined) return;
    const { source } = shown;
    const key = useKey(source.descriptor.digest);
    await this.#serially(async () => {
      pool.release(reference, key);
      await pool.flushed();
      if (pool.uses(reference, key) === 0) await this.#records.remove(source);
    });
    this.#leaveIfEvicted(reference);
  }

  #fetchAhead(shown: Shown): void {
    if (shown.fetched || this.#closed) return;
    shown.fetched = true;
    const { workspace, prefetch, background, onError } = this.#options;
    const { signal } = shown.fetching;
    workspace.layers.fetchAhead([shown.layer], { prefetch, background, signal }).catch((error: unknown) => {
      if (!signal.aborted) onError(`fetch layer ${shown.layer.digest} ahead`, error);
    });
  }

  #serially<V>(work: () => Promise<V>): Promise<V> {
    const turn = this.#changes.then(work);
    this.#changes = turn.catch(() => {});
    return turn;
  }

  /** Takes no new layers and ends fetching ahead. Those that are shown stay, for the files that are read from them. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    for (const layers of this.#visible.values())
      for (const { fetching } of layers.values())
        fetching.abort(new LazylayerError('ABORTED', 'the process is ending'));
    await this.#changes;
  }
}

const tocDigestOf = ({ descriptor }: ImageLayer) => annotationTocDigest(descriptor.annotations);

/** The layer under the digest of its blob and, where it has one, under that of its TOC: clients of different age ask by either. */
function entriesOf({ source, layer, info }: Shown): ReferenceLayer[] {
  const toc = tocDigestOf(source);
  const { digest, size } = source.descriptor;
  const entry = { slot: layer.slot, files: { info: info.byteLength, blob: size } };
  return [digest, ...(toc === undefined ? [] : [toc])].map((name) => ({ digest: name, ...entry }));
}

/** EIO, whatever kept the layer away: EACCES or ENOENT would speak of the file. */
function unavailable(what: string, cause: unknown): LazylayerError {
  return new LazylayerError('UNAVAILABLE', `${what} cannot be served`, { cause });
}
