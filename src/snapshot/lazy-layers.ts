import { join } from 'node:path';
import type { ProgramsAhead } from '../ahead/programs.js';
import type { Digest } from '../digest/digest.js';
import { codeOf, describeError, LazylayerError } from '../errors.js';
import type { ServedLayers } from '../fuse/served.js';
import type { KnownLayer } from '../layer/known.js';
import type { Layer } from '../layer/layer.js';
import { ROOT } from '../toc/tree.js';
import { layerOf, withUrls, type Image } from '../workspace/image.js';
import type { ImageLayer, Workspace } from '../workspace/workspace.js';
import { servedIdmapRefusal } from './idmap.js';
import type { PreparedLayer, Refusal, RemoteLayers } from './remote-layers.js';
import type { Labels } from './snapshotter.js';
import { sourceOf, type LayerSourceLabels } from './source-labels.js';

/** How long a layer that was opened ahead waits to be asked for, in milliseconds. */
const aheadMs = 60_000;
/** How long a registry that answered counts as reachable, in milliseconds. */
const reachableMs = 30_000;
/** How long a registry has to answer when a container is about to start, in milliseconds. */
const checkMs = 10_000;

export interface LazyLayersOptions {
  readonly workspace: Workspace;
  readonly served: ServedLayers;
  /** Mount point of the one FUSE mount. */
  readonly fuseRoot: string;
  /** Fetch what layers' landmarks ask for. */
  readonly prefetch: boolean;
  /** Brings what the images' programs need. */
  readonly programs?: ProgramsAhead;
  /** With it, also what clients' labels ask for, of layers without a landmark. */
  readonly prefetchLabel?: boolean;
  /** Then fetch the rest. */
  readonly background: boolean;
  /** Hears of fetching ahead that failed. */
  readonly onError?: (what: string, error: unknown) => void;
}

/** What brings a layer back: kept in the snapshot's metadata. */
interface LayerRecord extends ImageLayer {
  readonly skipVerify?: boolean;
  /** Of the blob, to prefetch where no landmark says how many. */
  readonly prefetchBytes?: number;
}

interface Held {
  readonly layer: KnownLayer;
  readonly unmarkedBytes?: number;
  readonly reference: string;
  readonly fetching: AbortController;
  /** Resolves once the layer is in the mount. */
  readonly shown: Promise<void>;
  uses: number;
}

/** Layers of images in registries as lower directories: opened by what a client's labels say, shown by the one FUSE mount. */
export class LazyLayers implements RemoteLayers {
  readonly #options: LazyLayersOptions;
  /** By digest of the blob; one for all snapshots that are made of it. */
  readonly #held = new Map<Digest, Held>();
  /** Layers of images of which one was asked for, opened before their turn. */
  readonly #ahead = new Map<Digest, Promise<Layer>>();
  /** When the registry last gave something of a layer, in milliseconds since 1970. */
  readonly #reachedAt = new Map<Digest, number>();

  constructor(options: LazyLayersOptions) {
    this.#options = options;
  }

  get idmapRefusal(): string | undefined {
    return servedIdmapRefusal(this.#options.served.negotiated);
  }

  async prepare(labels: Labels, signal?: AbortSignal): Promise<PreparedLayer | Refusal> {
    const source = sourceOf(labels);
    if ('reason' in source) return source;
    try {
      return await this.#prepare(source, signal);
    } catch (error) {
      signal?.throwIfAborted();
      return { reason: describeError(error), code: codeOf(error) };
    }
  }

  async #prepare(source: LayerSourceLabels, signal?: AbortSignal): Promise<PreparedLayer> {
    const { workspace, fuseRoot, prefetchLabel } = this.#options;
    const { skipVerify, prefetchBytes, urls } = source;
    const { image, index } = await workspace.imageWithLayer(source.reference, source.digest, {
      manifest: source.manifest,
      layers: {
        ...openOptions(source),
        ...(source.tocDigest !== undefined && { blobs: source.layers }),
        onOpened: (layer) => this.#fetchMarked(layer),
        urls,
      },
      signal,
    });
    for (let next = index + 1; next < image.manifest.layers.length; next++)
      this.#openAhead(labelled(layerOf(image, next), source), skipVerify);
    const record: LayerRecord = {
      ...labelled(layerOf(image, index), source),
      ...(skipVerify === true && { skipVerify }),
      ...(prefetchLabel === true && prefetchBytes !== undefined && { prefetchBytes }),
    };
    const layer = await this.#open(record, signal);
    this.#reachedAt.set(layer.digest, Date.now());
    const { tree } = layer;
    await this.#hold(record, workspace.known(record, layer, openOptions(record)), layer);
    if (index === image.manifest.layers.length - 1) this.#complete(image);
    return {
      lower: join(fuseRoot, 'l', String(layer.slot)),
      usage: { size: tree.buffer.byteLength, inodes: 0 },
      root: { mode: tree.mode[ROOT] & 0o7777, uid: tree.uid[ROOT], gid: tree.gid[ROOT] },
      record,
    };
  }

  /** With its last layer an image is complete. */
  #complete({ manifest, config }: Image): void {
    const slots = manifest.layers.flatMap(({ digest }) => this.#held.get(digest)?.layer.slot ?? []);
    void this.#options.programs?.expect(slots, config.config);
  }

  /** The layer opened ahead, if there is one, else opened now. */
  async #open(record: LayerRecord, signal?: AbortSignal): Promise<Layer> {
    const { digest } = record.descriptor;
    const ahead = this.#ahead.get(digest);
    this.#ahead.delete(digest);
    return ahead ?? this.#openLayer(record, signal);
  }

  #openLayer(record: LayerRecord, signal?: AbortSignal): Promise<Layer> {
    return this.#options.workspace.openLayer(record, { ...openOptions(record), signal });
  }

  /** Clients ask for one layer after the other; opened side by side, all take the time of one. */
  #openAhead(layer: ImageLayer, skipVerify?: boolean): void {
    const { digest } = layer.descriptor;
    if (this.#held.has(digest) || this.#ahead.has(digest)) return;
    const opening = this.#openLayer({ ...layer, skipVerify });
    this.#ahead.set(digest, opening);
    opening.then(
      (opened) => this.#fetchMarked(opened),
      () => {}, // told to whoever asks for the layer
    );
    setTimeout(() => {
      if (this.#ahead.get(digest) !== opening) return;
      this.#ahead.delete(digest);
      void opening.then((opened) => opened[Symbol.asyncDispose]()).catch(() => {});
    }, aheadMs).unref();
  }

  /** What its landmark asks for is wanted by whoever wants the layer: it need not wait for the layer's turn. */
  #fetchMarked(layer: Layer): void {
    const { prefetch, onError } = this.#options;
    if (!prefetch) return;
    layer.prefetch().catch((error: unknown) => {
      if (codeOf(error) !== 'ABORTED') onError?.(`fetch layer ${layer.digest} ahead`, error);
    });
  }

  /** Resolves once the layer can be looked up in the mount. Takes over an opening of it, without which it sleeps. */
  async #hold({ reference, prefetchBytes }: LayerRecord, layer: KnownLayer, opened?: Layer): Promise<void> {
    const { served } = this.#options;
    let held = this.#held.get(layer.digest);
    if (held === undefined) {
      const wakes = { ...layer, open: () => this.#wake(layer) };
      held = {
        layer,
        reference,
        unmarkedBytes: prefetchBytes,
        fetching: new AbortController(),
        uses: 0,
        shown: served.add(reference, [wakes], opened && [opened]),
      };
      this.#held.set(layer.digest, held);
      if (opened !== undefined) this.#fetchAhead(held);
    } else {
      await opened?.[Symbol.asyncDispose]();
      if (held.layer.slot !== layer.slot)
        throw new LazylayerError('UNSUPPORTED', `layer ${layer.digest} is served already, by another TOC of it`);
    }
    held.uses++;
    try {
      await held.shown;
    } catch (error) {
      await this.#giveBack(held);
      throw error;
    }
  }

  /** A layer that a snapshot has and that is wanted again goes on to fetch what it has not got yet. Others may show it after us. */
  async #wake(layer: KnownLayer): Promise<Layer> {
    const opened = await layer.open();
    const held = this.#held.get(layer.digest);
    if (held !== undefined) this.#fetchAhead(held);
    return opened;
  }

  #fetchAhead({ layer, unmarkedBytes, fetching: { signal } }: Held): void {
    const { workspace, served, prefetch, background, onError } = this.#options;
    if (!prefetch && !background) return;
    const ahead = served.ahead(layer.slot);
    workspace.layers.fetchAhead([ahead], { prefetch, unmarkedBytes, background, signal }).catch((error: unknown) => {
      if (!signal.aborted) onError?.(`fetch layer ${layer.digest} ahead`, error);
    });
  }

  async restore(record: unknown): Promise<{ readonly lower: string }> {
    const { workspace, fuseRoot } = this.#options;
    const layer = record as LayerRecord;
    const asleep = workspace.look(layer, openOptions(layer));
    if (asleep !== undefined) {
      await this.#hold(layer, asleep);
      return { lower: join(fuseRoot, 'l', String(asleep.slot)) };
    }
    const opened = await this.#openLayer(layer);
    await this.#hold(layer, workspace.known(layer, opened, openOptions(layer)), opened);
    return { lower: join(fuseRoot, 'l', String(opened.slot)) };
  }

  async check(record: unknown, signal?: AbortSignal): Promise<void> {
    const { reference, descriptor } = record as LayerRecord;
    const { digest } = descriptor;
    const held = this.#held.get(digest);
    if (held === undefined) throw new LazylayerError('NOT_FOUND', `layer ${digest} is not served`);
    const isWhole = (layer: Layer) => layer.isWhole();
    if (await this.#options.served.using(held.layer.slot, isWhole, signal)) return;
    if (Date.now() - (this.#reachedAt.get(digest) ?? 0) < reachableMs) return;
    const bound = AbortSignal.any([AbortSignal.timeout(checkMs), ...(signal === undefined ? [] : [signal])]);
    await this.#options.workspace.probe({ reference, descriptor }, bound);
    this.#reachedAt.set(digest, Date.now());
  }

  /** Begins no fetch any more that nobody waits for: the process is about to end. */
  stopFetching(): void {
    for (const { fetching } of this.#held.values())
      fetching.abort(new LazylayerError('ABORTED', 'the process is ending'));
  }

  async release(record: unknown): Promise<void> {
    const held = this.#held.get((record as LayerRecord).descriptor.digest);
    if (held !== undefined) await this.#giveBack(held);
  }

  async #giveBack(held: Held): Promise<void> {
    if (--held.uses > 0) return;
    const { digest } = held.layer;
    this.#held.delete(digest);
    this.#reachedAt.delete(digest);
    held.fetching.abort(new LazylayerError('ABORTED', 'no snapshot needs the layer any more'));
    await this.#options.served.remove(held.reference, [held.layer]);
  }
}

function openOptions({ skipVerify }: Pick<LayerRecord, 'skipVerify'>) {
  return { lazyOnly: true, allowNoVerification: skipVerify };
}

function labelled(layer: ImageLayer, { urls }: LayerSourceLabels): ImageLayer {
  return { ...layer, descriptor: withUrls(layer.descriptor, urls) };
}
