import { mkdir } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { ChunkCache, type CacheUsage, type LayerOnDisk } from '../cache/chunk-cache.js';
import type { Config } from '../config/config.js';
import type { Digest } from '../digest/digest.js';
import { describeError, LazylayerError } from '../errors.js';
import { annotationTocDigest } from '../estargz/annotations.js';
import type { Descriptor } from '../image/descriptor.js';
import { parseManifest, type Manifest } from '../image/manifest.js';
import { parsePlatform } from '../image/platform.js';
import { externalTocReference, formatReference, parseReference, type Reference } from '../image/reference.js';
import type { Layer } from '../layer/layer.js';
import type { KnownLayer } from '../layer/known.js';
import type { LayerSource } from '../layer/source.js';
import { LayerStore } from '../layer/store.js';
import { RefPool, type PoolManifest, type PoolName, type WholeAnswer } from '../pool/pool.js';
import { Registry, type RegistryOptions } from '../registry/client.js';
import { treeBytes } from '../toc/tree.js';
import { join } from 'node:path';
import { imageOf, layerOf, withUrls, type Image, type ImageLayer } from './image.js';

export type { Image, ImageLayer } from './image.js';

/** Annotation that ties a TOC in an external TOC image to the layer that it is of. */
const EXTERNAL_TOC_OF = 'containerd.io/snapshot/stargz/layer.digest';
const maxExternalTocBytes = 256 * 1024 * 1024;

/** What a workspace tells besides results. Nothing of it ends an operation. */
export interface WorkspaceHooks {
  /** Logins that go before those of the credential files. */
  readonly credentials?: RegistryOptions['credentials'];
  readonly onEvent?: (event: string, fields: object) => void;
  readonly onRequestProgress?: RegistryOptions['onRequestProgress'];
  readonly onError?: (what: string, error: unknown) => void;
  /** A reference's manifest and config are no longer kept. */
  readonly onEvict?: (name: PoolName) => void;
  /** Content of the layer in a slot, which is not open, is about to leave the cache. */
  readonly onForget?: (slot: number) => Promise<void>;
  /** Whether content of the layer in a slot leaves the cache after that of all others. */
  readonly goesLast?: (slot: number) => boolean;
}

/** A layer that cannot be lazy is being downloaded; bytes of the blob, compressed. */
export interface DownloadProgress {
  readonly layer: Digest;
  readonly reason: string;
  readonly bytes: number;
  readonly total: number;
}

export interface OpenLayerOptions {
  readonly allowNoVerification?: boolean;
  readonly onDownload?: (progress: DownloadProgress) => void;
  /** Refuse what would have to be downloaded whole, by UNSUPPORTED. */
  readonly lazyOnly?: boolean;
  /** What its landmark asks for is going to be prefetched. */
  readonly prefetch?: boolean;
  /** Called, perhaps not at once, when the TOC is verified: what is left costs no request. */
  readonly onVerified?: () => void;
  readonly signal?: AbortSignal;
}

export interface ImageOptions {
  readonly platform?: string;
  /** How its layers are going to be opened at once; absent where they are not. */
  readonly layers?: ExpectedLayers;
  /** False: what is known of a tag is the answer, without asking for it again. */
  readonly revalidate?: boolean;
  readonly signal?: AbortSignal;
}

/** How layers are going to be opened that their image is asked for. */
export interface ExpectedLayers extends Pick<OpenLayerOptions, 'allowNoVerification' | 'prefetch'> {
  /** Blobs that are likely to be eStargz, the lowest layer's first, where they are known before the manifest is. */
  readonly blobs?: readonly Digest[];
  /**
   * Containers are likely to be started from them: with `prefetch`, what their landmarks ask for and what every container's runtime reads is
   * fetched once a layer is open that the disk did not have, until this signal. Failures are told where it is asked for again.
   */
  readonly starts?: AbortSignal;
  /** Where their blobs may be had besides the registry. */
  readonly urls?: ReadonlyMap<Digest, readonly string[]>;
}

/** A layer of an image that may not be there as a whole yet. */
export interface FoundLayer {
  /** Of the image, in full. */
  readonly reference: string;
  readonly manifest: Manifest;
  readonly index: number;
  /** Asks for the config too, once. @throws what the registry says */
  readonly image: () => Promise<Image>;
}

/** How a layer is opened each time. */
export type KnownLayerOptions = Pick<OpenLayerOptions, 'allowNoVerification' | 'lazyOnly'>;

/**
 * Everything between a reference and an open layer: registry client, refPool and layer store over one root directory. Whoever
 * opens one over a root must be the only process there; `temporary` needs no root, keeps nothing, and takes no lock; `warm` is for
 * a process that lives long: it gets ready to read TOCs while the registry is asked for an image, or, with `always`, once and for all.
 */
export class Workspace implements AsyncDisposable {
  private constructor(
    readonly registry: Registry,
    readonly pool: RefPool,
    readonly cache: ChunkCache,
    readonly layers: LayerStore,
    private readonly config: Config,
    /** Get ready to read TOCs while the registry is asked for an image. */
    private readonly warms: boolean,
  ) {}

  static async open(
    config: Config,
    hooks: WorkspaceHooks & { temporary?: boolean; warm?: true | 'always' } = {},
  ): Promise<Workspace> {
    const { fetch } = config;
    const registry = new Registry({
      hosts: config.registry.hosts,
      certsDirs: config.registry.certs_dir,
      credentials: hooks.credentials,
      timeouts: {
        connectMs: fetch.connect_timeout_sec * 1000,
        headersMs: fetch.headers_timeout_sec * 1000,
        bodyMs: fetch.body_timeout_sec * 1000,
      },
      retry: {
        attempts: fetch.max_retries + 1,
        baseMs: fetch.min_wait_msec,
        maxMs: fetch.max_wait_msec,
        maxRetryAfterMs: fetch.max_retry_after_sec * 1000,
      },
      onRequest: hooks.onEvent && ((record) => hooks.onEvent!('request', record)),
      onRequestProgress: hooks.onRequestProgress,
    });
    const cacheOptions = {
      limitBytes: config.cache.max_bytes,
      onEvent: hooks.onEvent && ((event: object) => hooks.onEvent!('cache', event)),
      onForget: hooks.onForget,
      goesLast: hooks.goesLast,
    };
    if (hooks.temporary !== true) await mkdir(config.root, { recursive: true, mode: 0o700 });
    const cache =
      hooks.temporary === true
        ? await ChunkCache.openTemporary(tmpdir(), cacheOptions)
        : await ChunkCache.open(config.root, cacheOptions);
    const pool = await RefPool.open({
      dir: join(cache.root, 'pool'),
      max: config.pool.max_entries,
      holdMs: config.pool.hold_sec * 1000,
      load: (reference, { platform, ...options }) => {
        const on = platform === undefined ? undefined : parsePlatform(platform);
        const resolving = registry.resolve(parseReference(reference), { ...options, platform: on });
        options.onAsked?.();
        return resolving;
      },
      loadConfig: (reference, { manifestBytes, descriptor }, options) =>
        registry.fetchConfig(parseReference(reference), parseManifest(manifestBytes, descriptor.mediaType), options),
      onEvict: hooks.onEvict,
    });
    const layers = new LayerStore({
      cache,
      maxConcurrency: fetch.max_concurrency,
      maxMemory: fetch.max_memory,
      quietMs: fetch.background_quiet_sec * 1000,
      tocThreads: { standby: hooks.warm === 'always' ? 1 : 0 },
    });
    if (hooks.warm === 'always') layers.scheduler.inflater.prepare();
    return new Workspace(registry, pool, cache, layers, config, hooks.warm !== undefined);
  }

  /**
   * An image by the reference that a user wrote. One with a digest that was met before costs no request; a tag is asked for again,
   * and answered from disk, with a warning, while the registry cannot be reached. With `layers`, they are about to be opened by these
   * options: requests for them go out before all of the image is there.
   */
  async image(text: string, options: ImageOptions = {}): Promise<Image> {
    const { platform, signal, layers, revalidate = true } = options;
    const name = parseReference(text);
    const reference = formatReference(name);
    const onAsked = layers && (() => this.#warm());
    const onManifest =
      layers &&
      (({ manifestBytes, descriptor }: PoolManifest) =>
        this.#expect(name, parseManifest(manifestBytes, descriptor.mediaType).layers, layers));
    return wholeImage(reference, await this.pool.get(reference, { platform, revalidate, onAsked, onManifest, signal }));
  }

  /**
   * The manifest of a reference that has a certain layer, by the digest of its blob or of its TOC: as it is known where that fits, else
   * asked for again, since a tag may have moved. With the manifest's digest, that manifest and no other. With `layers`, this one and
   * those above it are about to be opened. `image` is a further request where the config is not known.
   * @throws NOT_FOUND
   */
  async manifestWithLayer(
    text: string,
    layer: Digest,
    options: { manifest?: Digest; layers?: ExpectedLayers; signal?: AbortSignal } = {},
  ): Promise<FoundLayer> {
    const { layers, signal } = options;
    const named = parseReference(text);
    // A tag beside the digest still leads to an image of external TOCs.
    const name = options.manifest === undefined ? named : { ...named, digest: options.manifest };
    const reference = formatReference(name);
    const onAsked =
      layers &&
      (() => {
        this.#warm();
        this.#expectBlindly(name, layers);
      });
    for (const revalidate of [false, true]) {
      const { manifestBytes, descriptor } = await this.pool.manifest(reference, { revalidate, onAsked, signal });
      const manifest = parseManifest(manifestBytes, descriptor.mediaType);
      const index = manifest.layers.findIndex(
        (l) => l.digest === layer || annotationTocDigest(l.annotations) === layer,
      );
      if (index < 0) continue;
      let whole: Promise<Image> | undefined;
      const image = () => {
        whole ??= this.pool.get(reference).then((known) => wholeImage(reference, known));
        whole.catch(() => (whole = undefined)); // the next time it is asked for again
        return whole;
      };
      // Clients ask for one layer after the other; opened side by side, all take the time of one.
      if (layers !== undefined) this.#expect(name, manifest.layers, layers, index);
      return { reference, manifest, index, image };
    }
    throw new LazylayerError('NOT_FOUND', `${reference}: expected an image with layer ${layer}, found one without it`);
  }

  /** Opens one layer. Close it when done. */
  async openLayer(layer: ImageLayer, options: OpenLayerOptions = {}): Promise<Layer> {
    return this.layers.open(this.#source(layer, options), {
      signal: options.signal,
      lazyOnly: options.lazyOnly,
      onVerified: options.onVerified,
      prefetch: options.prefetch,
      onProgress: ({ bytes, total, reason }) =>
        options.onDownload?.({ layer: layer.descriptor.digest, bytes, total, reason }),
    });
  }

  /** A layer that was opened, as one that can be opened again by the same options. */
  known(layer: ImageLayer, { slot, tree, lazy }: Layer, options: KnownLayerOptions = {}): KnownLayer {
    const { counts, facts } = tree;
    return this.#known(layer, { slot, counts, facts }, { ...options, whole: !lazy.lazy });
  }

  /** A lazy layer that the disk has, without opening it; undefined where it has none, or none that is sound at a look. */
  look(layer: ImageLayer, options: KnownLayerOptions = {}): KnownLayer | undefined {
    const found = this.layers.look(this.#source(layer, options));
    return found && this.#known(layer, found, { ...options, whole: false });
  }

  #known(
    layer: ImageLayer,
    { slot, counts, facts }: LayerOnDisk,
    { whole, ...options }: KnownLayerOptions & { whole: boolean },
  ): KnownLayer {
    return {
      digest: layer.descriptor.digest,
      slot,
      statistics: { bytes: facts.cacheBytes, files: counts.inodes },
      treeBytes: treeBytes(counts),
      open: () => this.openLayer(layer, options),
      looksWhole: () => this.layers.looksWhole(this.#source(layer, options)),
      keep: () => this.layers.keep(this.#source(layer, options), whole),
    };
  }

  #source({ reference, descriptor, diffId }: ImageLayer, options: OpenLayerOptions): LayerSource {
    return { ...this.#blob(parseReference(reference), descriptor, options), diffId };
  }

  #blob(name: Reference, descriptor: Descriptor, options: KnownLayerOptions): LayerSource {
    return {
      descriptor,
      tocDigest: annotationTocDigest(descriptor.annotations),
      reader: () => this.registry.openBlob(name, descriptor),
      externalToc: (signal) => this.#externalToc(name, descriptor.digest, signal),
      allowNoVerification: options.allowNoVerification ?? this.config.allow_no_verification,
    };
  }

  #warm(): void {
    if (this.warms) this.layers.warm();
  }

  /** Sends the requests for the layers' TOCs beside that for the manifest, where no authorization has to be learnt from its answer. */
  #expectBlindly(name: Reference, { blobs = [], urls }: ExpectedLayers): void {
    if (urls !== undefined || !this.registry.givesEnds(name.host)) return;
    this.layers.expectBlindly(blobs, (digest, bytes, options) =>
      this.registry.fetchBlobEnd(name, digest, bytes, options),
    );
  }

  /** The layers of a manifest are about to be opened, `from` one on. */
  #expect(
    name: Reference,
    layers: readonly Descriptor[],
    { urls, starts: signal, prefetch, ...options }: ExpectedLayers,
    from = 0,
  ): void {
    const blobs = layers.map((descriptor, index) => ({
      ...this.#blob(name, withUrls(descriptor, urls), options),
      aboveBase: index > 0,
    }));
    const fetchMarked = (layer: Layer) => void layer.prefetch({ runtime: true, signal }).catch(() => {});
    const onOpened = prefetch === true && signal !== undefined ? fetchMarked : undefined;
    this.layers.expect(blobs.slice(from), { prefetch, onOpened });
  }

  /** Opens every layer of an image, side by side, lowest first; all or none. */
  async openLayers(image: Image, options: OpenLayerOptions = {}): Promise<Layer[]> {
    const abort = new AbortController();
    const signal = options.signal === undefined ? abort.signal : AbortSignal.any([options.signal, abort.signal]);
    const opening = image.manifest.layers.map((_, index) =>
      this.openLayer(layerOf(image, index), { ...options, signal }),
    );
    try {
      return await Promise.all(opening);
    } catch (error) {
      abort.abort(error);
      for (const result of await Promise.allSettled(opening))
        if (result.status === 'fulfilled') await result.value[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** One byte of a layer's blob: whether the registry still gives it. @throws what the registry says */
  async probe(
    { reference, descriptor }: Pick<ImageLayer, 'reference' | 'descriptor'>,
    signal?: AbortSignal,
  ): Promise<void> {
    await using blob = this.registry.openBlob(parseReference(reference), descriptor);
    await blob.read(0, 1, { signal });
  }

  async #externalToc(name: Reference, layer: Digest, signal?: AbortSignal): Promise<Uint8Array> {
    const reference = externalTocReference(name);
    const { manifest } = await this.registry.resolve(reference, { signal });
    const toc = manifest.layers.find((l) => l.annotations?.[EXTERNAL_TOC_OF] === layer);
    if (toc === undefined)
      throw new LazylayerError(
        'NOT_FOUND',
        `${formatReference(reference)}: expected a layer annotated ${EXTERNAL_TOC_OF}=${layer}, found none`,
      );
    return this.registry.fetchBlob(reference, toc, { signal, limit: maxExternalTocBytes });
  }

  cacheUsage(): Promise<CacheUsage> {
    return this.cache.du();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.layers[Symbol.asyncDispose]();
    await this.pool[Symbol.asyncDispose]();
    await this.cache[Symbol.asyncDispose]();
    await this.registry[Symbol.asyncDispose]();
  }
}

/** @throws FormatError where the bytes are no manifest and config that belong together */
function wholeImage(reference: string, known: WholeAnswer): Image {
  const warning =
    known.stale === undefined
      ? undefined
      : `${reference} as it was at ${new Date(known.loadedAt).toISOString()}: the registry could not be asked (${describeError(known.stale)})`;
  return imageOf(reference, known.manifestBytes, known.configBytes, {
    mediaType: known.descriptor.mediaType,
    warning,
  });
}
