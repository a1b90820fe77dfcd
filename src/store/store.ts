import { annotationTocDigest } from '../estargz/annotations.js';
import { codeOf, LazylayerError, type ErrorCode } from '../errors.js';
import type { Digest } from '../digest/digest.js';
import type { ProgramsAhead } from '../ahead/programs.js';
import type { ReferenceLayer } from '../fs/served-tree.js';
import type { ServedLayers } from '../fuse/served.js';
import type { StoreHost, UseRequest } from '../fuse/server.js';
import type { Layer } from '../layer/layer.js';
import type { KnownLayer } from '../layer/known.js';
import { parseReference } from '../image/reference.js';
import { layerOf, type Image, type ImageLayer } from '../workspace/image.js';
import type { Workspace } from '../workspace/workspace.js';
import { BlobWindows } from './blob-windows.js';
import { layerInfo } from './info.js';
import { layerDigestOf, referenceOf } from './names.js';
import { StoreUses } from './uses.js';

export interface AdditionalLayerStoreOptions {
  readonly workspace: Workspace;
  readonly served: ServedLayers;
  /** Directory that keeps which layers are in use. */
  readonly uses: string;
  /** The connection to the kernel is that of the last process. */
  readonly resumed: boolean;
  /** Brings what the images' programs need. */
  readonly programs?: ProgramsAhead;
  /** Fetch what an image's landmarks ask for, from when it is looked up: whoever uses it does so a moment later. */
  readonly prefetch: boolean;
  /** Once a layer is used, fetch the rest. */
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
  readonly layer: KnownLayer;
  readonly info: Buffer;
  readonly fetching: AbortController;
  /** What is to be fetched ahead was asked for, since the layer was last opened. */
  fetched: boolean;
}

const lazily = { lazyOnly: true } as const;

/**
 * The additional layer store of containers-storage: layers by reference and digest, opened when they are looked up, and shown until
 * their reference leaves the refPool. A layer in use keeps its reference there; uses outlive the process.
 */
export class AdditionalLayerStore implements StoreHost, AsyncDisposable {
  readonly #options: AdditionalLayerStoreOptions;
  readonly #uses: StoreUses;
  readonly #windows = new BlobWindows();
  /** By reference, then by digest of the blob. Those that are being opened are not in the mount yet. */
  readonly #references = new Map<string, Map<Digest, Promise<Shown>>>();
  /** What the mount shows of them. */
  readonly #visible = new Map<string, Map<Digest, Shown>>();
  readonly #ending = new AbortController();

  constructor(options: AdditionalLayerStoreOptions) {
    this.#options = options;
    this.#uses = new StoreUses(options.uses, options.workspace.pool, options.onError);
  }

  /**
   * Has the mount show every layer in use from the first request on, asleep where the disk has what opens it. One that fails stops
   * nothing.
   */
  async restore(): Promise<void> {
    const { workspace, onError, resumed } = this.#options;
    const restoring = (await this.#uses.open(resumed)).map(async (source) => {
      try {
        await this.#show(source, workspace.look(source, lazily));
      } catch (error) {
        onError(`restore layer ${source.descriptor.digest} of ${source.reference}`, error);
      }
    });
    await Promise.all(restoring);
  }

  /** Has the kernel read restored layers by itself, once the mount is served: whoever follows their links before has them by FUSE. */
  async mountWhole(): Promise<void> {
    for (const layers of [...this.#visible.values()])
      for (const { layer } of layers.values())
        if (!this.#ending.signal.aborted && (await layer.looksWhole())) await this.#options.served.lower(layer.slot);
  }

  /** @throws INVALID_ARGUMENT for a name that is none, UNAVAILABLE (EIO) for what cannot be served, so that the client pulls it */
  async resolve([name, digest]: readonly string[], signal?: AbortSignal): Promise<void> {
    const reference = referenceOf(name);
    if (digest === undefined) {
      try {
        const { workspace, prefetch } = this.#options;
        const layers = { prefetch, starts: this.#ending.signal };
        await workspace.image(reference, { layers, revalidate: false, signal });
      } catch (error) {
        throw unavailable(reference, error);
      }
      if (!this.#visible.has(reference)) this.#visible.set(reference, new Map());
      await this.#publish(reference);
      this.#leaveIfEvicted(reference);
    } else await this.#layer(reference, layerDigestOf(digest), signal);
  }

  /** The layer, shown from now on if it was not. The image's other layers follow, since they will be asked for. */
  async #layer(reference: string, digest: Digest, signal?: AbortSignal): Promise<Shown> {
    const visible = this.#find(reference, digest);
    if (visible !== undefined) return visible;
    const { workspace, onAnswer } = this.#options;
    try {
      const used = this.#uses.find(reference, (source) => names(source).includes(digest));
      if (used !== undefined) return await this.#show(used);
      const found = await workspace.manifestWithLayer(reference, digest, { signal });
      const image = await found.image();
      // A tag may have moved meanwhile.
      const wanted = found.manifest.layers[found.index].digest;
      const index = image.manifest.layers.findIndex((layer) => layer.digest === wanted);
      if (index < 0)
        throw new LazylayerError('NOT_FOUND', `${reference} has just moved to an image without this layer`);
      return await this.#showAll({ ...image, reference }, index);
    } catch (error) {
      signal?.throwIfAborted();
      onAnswer?.({ reference, digest, refusal: { code: codeOf(error), error } });
      throw unavailable(`layer ${digest} of ${reference}`, error);
    }
  }

  #find(reference: string, digest: Digest): Shown | undefined {
    const layers = this.#visible.get(reference);
    if (layers === undefined) return undefined;
    return layers.get(digest) ?? [...layers.values()].find(({ source }) => names(source).includes(digest));
  }

  /**
   * The layer at an index; the others follow. Whoever asks for one of them hears how it went; what cannot be lazy is asked for again
   * then.
   */
  #showAll(image: Image, index: number): Promise<Shown> {
    const showing = image.manifest.layers.map((_, i) => this.#show(layerOf(image, i)));
    void Promise.allSettled(showing).then((outcomes) => {
      const slots = outcomes.flatMap((one) => (one.status === 'fulfilled' ? one.value.layer.slot : []));
      void this.#options.programs?.expect(slots, () => image.config.config);
    });
    return showing[index];
  }

  /** `asleep`: the layer as the disk has it, which is not opened now. */
  #show(source: ImageLayer, asleep?: KnownLayer): Promise<Shown> {
    const { digest } = source.descriptor;
    const mine = this.#references.get(source.reference) ?? new Map<Digest, Promise<Shown>>();
    this.#references.set(source.reference, mine);
    let showing = mine.get(digest);
    if (showing === undefined) {
      mine.set(digest, (showing = this.#open(source, mine, asleep)));
      showing.catch(() => mine.delete(digest));
    }
    return showing;
  }

  async #open(source: ImageLayer, mine: Map<Digest, Promise<Shown>>, asleep?: KnownLayer): Promise<Shown> {
    const { workspace, served } = this.#options;
    const { reference, descriptor } = source;
    if (this.#ending.signal.aborted) throw new LazylayerError('ABORTED', 'the layer store is closing');
    const opened = asleep === undefined ? await workspace.openLayer(source, lazily) : undefined;
    const known = asleep ?? workspace.known(source, opened!, lazily);
    const shown: Shown = {
      source,
      layer: { ...known, open: () => this.#wake(shown, known) },
      info: layerInfo(source),
      fetching: new AbortController(),
      fetched: false,
    };
    try {
      await served.add(reference, [shown.layer], opened && [opened]);
    } catch (error) {
      await served.remove(reference, [shown.layer]);
      throw error;
    }
    // Dropped while it was being opened: whoever drops it waits for it, and takes it out of the mount.
    if (this.#references.get(reference) !== mine) return shown;
    const layers = this.#visible.get(reference) ?? new Map<Digest, Shown>();
    this.#visible.set(reference, layers.set(descriptor.digest, shown));
    await this.#publish(reference);
    this.#options.onAnswer?.({ reference, digest: descriptor.digest });
    this.#leaveIfEvicted(reference);
    return shown;
  }

  /** A layer that is used and wanted again goes on to fetch what it has not got yet. */
  async #wake(shown: Shown, known: KnownLayer): Promise<Layer> {
    const opened = await known.open();
    shown.fetched = false;
    const { reference, descriptor } = shown.source;
    if (this.#uses.find(reference, (used) => used.descriptor.digest === descriptor.digest)) this.#fetchAhead(shown);
    return opened;
  }

  async #publish(reference: string): Promise<void> {
    const layers = this.#visible.get(reference);
    await this.#options.served.show(reference, layers && [...layers.values()].flatMap((shown) => entriesOf(shown)));
  }

  /** How many layers are in use. */
  get layersInUse(): number {
    return this.#uses.layers;
  }

  /** Of the pool: manifest and config of a reference are gone. */
  evicted(reference: string): void {
    this.#leaveIfEvicted(reference);
  }

  /** References leave the mount with the pool. Those in use do not: a pool that lost one on disk still has its uses. */
  #leaveIfEvicted(reference: string): void {
    const { pool } = this.#options.workspace;
    if (pool.has(reference) || this.#uses.has(reference)) return;
    this.#drop(reference).catch((error: unknown) => this.#options.onError(`take ${reference} away`, error));
  }

  async #drop(reference: string): Promise<void> {
    const layers = this.#references.get(reference);
    this.#references.delete(reference);
    if (this.#visible.delete(reference)) await this.#publish(reference);
    for (const showing of layers?.values() ?? []) {
      const shown = await showing.catch(() => undefined);
      if (shown === undefined) continue;
      shown.fetching.abort(new LazylayerError('ABORTED', 'nothing uses the layer any more'));
      await this.#options.served.remove(reference, [shown.layer]);
    }
  }

  async read(
    [name, digest, file]: readonly string[],
    offset: number,
    length: number,
    signal?: AbortSignal,
  ): Promise<Uint8Array> {
    const { source, info } = await this.#layer(referenceOf(name), layerDigestOf(digest), signal);
    if (file === 'info') return info.subarray(offset, offset + length);
    const { descriptor, reference } = source;
    const blob = this.#options.workspace.registry.openBlob(parseReference(reference), descriptor);
    try {
      return await this.#windows.read(`${reference} ${descriptor.digest}`, blob, offset, length, signal);
    } catch (error) {
      throw unavailable(`blob of layer ${descriptor.digest}`, error);
    }
  }

  async use([name, digest]: readonly string[], request?: UseRequest): Promise<void> {
    const [reference, key] = [referenceOf(name), layerDigestOf(digest)];
    const { source } = await this.#layer(reference, key);
    await this.#uses.add(source, request);
    try {
      // The pool may have let the reference go before; from here on it cannot.
      this.#fetchAhead(await this.#layer(reference, key));
    } catch (error) {
      await this.#uses.remove(source);
      throw error;
    }
  }

  async release([name, digest]: readonly string[], request?: UseRequest): Promise<void> {
    const [reference, key] = [referenceOf(name), layerDigestOf(digest)];
    const used = this.#uses.find(reference, (source) => names(source).includes(key));
    if (used === undefined) return;
    await this.#uses.remove(used, request);
    this.#leaveIfEvicted(reference);
  }

  #fetchAhead(shown: Shown): void {
    if (shown.fetched || this.#ending.signal.aborted) return;
    shown.fetched = true;
    const { workspace, served, prefetch, background, onError } = this.#options;
    const { signal } = shown.fetching;
    const { digest, slot } = shown.layer;
    workspace.layers.fetchAhead([served.ahead(slot)], { prefetch, background, signal }).catch((error: unknown) => {
      if (!signal.aborted) onError(`fetch layer ${digest} ahead`, error);
    });
  }

  /** Takes no new layers and ends fetching ahead. Those that are shown stay, for the files that are read from them. */
  async [Symbol.asyncDispose](): Promise<void> {
    const reason = new LazylayerError('ABORTED', 'the process is ending');
    this.#ending.abort(reason);
    for (const layers of this.#visible.values()) for (const { fetching } of layers.values()) fetching.abort(reason);
    this.#windows[Symbol.dispose]();
    await this.#uses.flushed();
  }
}

/** The digest of a layer's blob and, where it has one, that of its TOC: clients of different age ask by either. */
function names({ descriptor }: ImageLayer): string[] {
  const toc = annotationTocDigest(descriptor.annotations);
  return toc === undefined ? [descriptor.digest] : [descriptor.digest, toc];
}

function entriesOf({ source, layer, info }: Shown): ReferenceLayer[] {
  const files = { info: info.byteLength, blob: source.descriptor.size };
  return names(source).map((digest) => ({ digest, slot: layer.slot, files }));
}

/** EIO, whatever kept the layer away: EACCES or ENOENT would speak of the file. */
function unavailable(what: string, cause: unknown): LazylayerError {
  return new LazylayerError('UNAVAILABLE', `${what} cannot be served`, { cause });
}
