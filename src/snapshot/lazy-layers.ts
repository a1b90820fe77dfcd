import { join } from 'node:path';
import { LRUCache } from 'lru-cache';
import type { ProgramsAhead } from '../ahead/programs.js';
import type { Digest } from '../digest/digest.js';
import { codeOf, describeError, LazylayerError } from '../errors.js';
import { annotationTocDigest } from '../estargz/annotations.js';
import { LAYERS } from '../fs/served-tree.js';
import type { ServedLayers } from '../fuse/served.js';
import type { KnownLayer } from '../layer/known.js';
import type { Layer } from '../layer/layer.js';
import { ROOT } from '../toc/tree.js';
import { withUrls, type ImageLayer } from '../workspace/image.js';
import type { FoundLayer, Image, OpenLayerOptions, Workspace } from '../workspace/workspace.js';
import { servedIdmapRefusal } from './idmap.js';
import type { PreparedLayer, Refusal, RemoteLayers, RestoredLayer, RootAttributes } from './remote-layers.js';
import type { Labels, Usage } from './snapshotter.js';
import { isOfBlob, sourceOf, type LayerSourceLabels } from './source-labels.js';

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

/** Layers that are remembered for having failed late. */
const MAX_DOUBTFUL = 256;

/** Layers of images in registries as lower directories: opened by what a client's labels say, shown by the one FUSE mount. */
export class LazyLayers implements RemoteLayers {
  readonly #options: LazyLayersOptions;
  /** By digest of the blob; one for all snapshots that are made of it. */
  readonly #held = new Map<Digest, Held>();
  /** Ends the fetching for layers that nobody holds yet. */
  readonly #ending = new AbortController();
  /** Layers whose TOC was right and of which no tree could be made, or shown. */
  readonly #doubtful = new LRUCache<Digest, true>({ max: MAX_DOUBTFUL });
  /** When the registry last gave something of a layer, in milliseconds since 1970. */
  readonly #reachedAt = new Map<Digest, number>();

  constructor(options: LazyLayersOptions) {
    this.#options = options;
  }

  /** Aborted when nothing is fetched ahead any more. */
  get ending(): AbortSignal {
    return this.#ending.signal;
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

  /**
   * Answers once the TOC is verified, for then the layer is what its manifest says; the tree is made while the client goes on. A TOC that is
   * malformed although the manifest vouches for it is found out then: the next time that this layer is pulled, the answer waits for the tree,
   * and is a refusal.
   */
  async #prepare(source: LayerSourceLabels, signal?: AbortSignal): Promise<PreparedLayer> {
    const { workspace, prefetchLabel, onError } = this.#options;
    const { prefetchBytes, urls } = source;
    const found = await workspace.manifestWithLayer(source.reference, source.digest, {
      manifest: source.manifest,
      layers: {
        prefetch: this.#options.prefetch,
        starts: this.#ending.signal,
        urls,
        ...(source.tocDigest !== undefined && { blobs: source.layers }),
      },
      signal,
    });
    const record: LayerRecord = {
      reference: found.reference,
      descriptor: withUrls(found.manifest.layers[found.index], urls),
      ...(prefetchLabel === true && prefetchBytes !== undefined && { prefetchBytes }),
    };
    const { digest } = record.descriptor;
    const { verified, shown } = this.#show(record, found, signal);
    await verified;
    // What is served already may be so by another TOC; that costs no wait.
    if (this.#doubtful.has(digest) || this.#held.has(digest)) await shown;
    this.#reachedAt.set(digest, Date.now());
    shown.catch((error: unknown) => {
      this.#doubtful.set(digest, true);
      if (!this.#ending.signal.aborted) onError?.(`make the tree of layer ${digest}`, error);
    });
    return { shown, record };
  }

  isOf(labels: Labels, record: unknown): boolean {
    const { descriptor } = record as LayerRecord;
    return isOfBlob(labels, { digest: descriptor.digest, tocDigest: annotationTocDigest(descriptor.annotations) });
  }

  /** Opens a layer and shows it, from when its TOC is verified without regard to the client. */
  #show(
    record: LayerRecord,
    found: FoundLayer,
    signal?: AbortSignal,
  ): { readonly verified: Promise<void>; readonly shown: Promise<void> } {
    const leaving = new AbortController();
    const leave = () => leaving.abort(signal?.reason);
    signal?.addEventListener('abort', leave, { once: true });
    let onVerified!: () => void;
    const verified = new Promise<void>((resolve) => (onVerified = resolve));
    const shown = (async () => {
      const { prefetch } = this.#options;
      const layer = await this.#openLayer(record, { onVerified, prefetch, signal: leaving.signal });
      const first = !this.#held.has(layer.digest);
      await this.#hold(record, this.#options.workspace.known(record, layer, openOptions), layer);
      if (first || found.index === found.manifest.layers.length - 1) this.#complete(found);
    })();
    const either = Promise.race([verified, shown]);
    return { shown, verified: either.finally(() => signal?.removeEventListener('abort', leave)) };
  }

  /**
   * The layers of an image are about to be prepared, one on the other: those that can be lazy are shown at once, side by side, until this is
   * disposed. What is ahead of a start that the image as a whole tells of begins by that.
   */
  expect(image: Image, signal: AbortSignal): AsyncDisposable {
    const { reference, manifest } = image;
    const expected = manifest.layers.map(async (descriptor, index) => {
      const record: LayerRecord = { reference, descriptor };
      const { verified, shown } = this.#show(record, { reference, manifest, index, image: async () => image }, signal);
      verified.catch(() => {}); // what is wrong with it is told when it is prepared
      return shown.then(
        () => record,
        () => undefined,
      );
    });
    const release = async () => {
      for (const record of await Promise.all(expected)) if (record !== undefined) await this.release(record);
    };
    return { [Symbol.asyncDispose]: release };
  }

  /** An image is complete when all its layers are there. */
  #complete({ manifest, image }: FoundLayer): void {
    const slots = manifest.layers.flatMap(({ digest }) => this.#held.get(digest)?.layer.slot ?? []);
    if (slots.length < manifest.layers.length) return;
    void this.#options.programs?.expect(slots, async () => (await image()).config.config);
  }

  async lower(record: unknown, together: boolean): Promise<string> {
    const { slot } = this.#heldFor(digestOf(record)).layer;
    const whole = together ? undefined : await this.#options.served.lower(slot);
    return whole ?? join(this.#options.fuseRoot, LAYERS, String(slot));
  }

  #openLayer(
    record: LayerRecord,
    options: Pick<OpenLayerOptions, 'onVerified' | 'prefetch' | 'signal'> = {},
  ): Promise<Layer> {
    return this.#options.workspace.openLayer(record, { ...openOptions, ...options });
  }

  /** Resolves once the layer can be looked up in the mount. Takes over an opening of it, without which it sleeps. */
  async #hold({ reference, prefetchBytes }: LayerRecord, layer: KnownLayer, opened?: Layer): Promise<void> {
    const { served } = this.#options;
    let held = this.#held.get(layer.digest);
    const fresh = held === undefined;
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
    }
    held.uses++;
    try {
      if (!fresh) {
        await opened?.[Symbol.asyncDispose]();
        if (held.layer.slot !== layer.slot)
          throw new LazylayerError('UNSUPPORTED', `layer ${layer.digest} is served already, by another TOC of it`);
      }
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

  restore(record: unknown): RestoredLayer {
    const layer = record as LayerRecord;
    const asleep = this.#options.workspace.look(layer, openOptions);
    if (asleep === undefined) return { isLocal: false, shown: this.#openAgain(layer) };
    return { isLocal: true, shown: this.#hold(layer, asleep) };
  }

  async #openAgain(record: LayerRecord): Promise<void> {
    const layer = await this.#openLayer(record, { signal: this.#ending.signal });
    await this.#hold(record, this.#options.workspace.known(record, layer, openOptions), layer);
  }

  starting(record: unknown): void {
    const held = this.#held.get(digestOf(record));
    if (held !== undefined) void this.#options.programs?.starts(held.layer.slot);
  }

  usage(record: unknown): Usage {
    return { size: this.#held.get(digestOf(record))?.layer.treeBytes ?? 0, inodes: 0 };
  }

  async root(record: unknown): Promise<RootAttributes> {
    const { layer } = this.#heldFor(digestOf(record));
    return this.#options.served.using(layer.slot, async ({ tree }) => ({
      mode: tree.mode[ROOT] & 0o7777,
      uid: tree.uid[ROOT],
      gid: tree.gid[ROOT],
    }));
  }

  async check(record: unknown, signal?: AbortSignal): Promise<void> {
    const { reference, descriptor } = record as LayerRecord;
    const { digest } = descriptor;
    const held = this.#heldFor(digest);
    const isWhole = (layer: Layer) => layer.isWhole();
    if (await this.#options.served.using(held.layer.slot, isWhole, signal)) return;
    if (Date.now() - (this.#reachedAt.get(digest) ?? 0) < reachableMs) return;
    const bound = AbortSignal.any([AbortSignal.timeout(checkMs), ...(signal === undefined ? [] : [signal])]);
    await this.#options.workspace.probe({ reference, descriptor }, bound);
    this.#reachedAt.set(digest, Date.now());
  }

  /** Begins no fetch any more that nobody waits for: the process is about to end. */
  stopFetching(): void {
    const reason = new LazylayerError('ABORTED', 'the process is ending');
    this.#ending.abort(reason);
    for (const { fetching } of this.#held.values()) fetching.abort(reason);
  }

  /** @throws NOT_FOUND */
  #heldFor(digest: Digest): Held {
    const held = this.#held.get(digest);
    if (held === undefined) throw new LazylayerError('NOT_FOUND', `layer ${digest} is not served`);
    return held;
  }

  async release(record: unknown): Promise<void> {
    const held = this.#held.get(digestOf(record));
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

const openOptions = { lazyOnly: true } as const;

const digestOf = (record: unknown): Digest => (record as LayerRecord).descriptor.digest;
