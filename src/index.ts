import type { Config } from './config/config.js';
import { defaultConfig } from './config/config.js';
import { codeOf, LazylayerError } from './errors.js';
import { MergedTree } from './fs/merged.js';
import type { ImageConfig } from './image/config.js';
import type { Manifest } from './image/manifest.js';
import type { Digest } from './digest/digest.js';
import type { Layer } from './layer/layer.js';
import { layerOf } from './workspace/image.js';
import { lockRoot, type RootLock } from './workspace/lock.js';
import { Workspace, type DownloadProgress, type Image } from './workspace/workspace.js';

export { LazylayerError, VerificationError, FormatError, type ErrorCode } from './errors.js';
export { RegistryError } from './registry/errors.js';
export type { Config } from './config/config.js';
export type { Digest } from './digest/digest.js';
export type { ImageConfig } from './image/config.js';
export type { Manifest } from './image/manifest.js';
export type { MergedTree } from './fs/merged.js';
export type { DownloadProgress } from './workspace/workspace.js';

export interface OpenImageOptions {
  /** `os/arch[/variant]`; this machine's where absent. */
  readonly platform?: string;
  /**
   * Directory that keeps what was fetched for the next time. Where another process uses it, or where there is none, what is
   * fetched is kept in a temporary directory until the image is closed.
   */
  readonly root?: string;
  /** Everything else, as config.toml has it; `root` above goes before its own. */
  readonly config?: Config;
  /** Read layers that carry no digest of their TOC: nothing then says that what they hold is what was built. */
  readonly allowNoVerification?: boolean;
  /** Hears of layers that cannot be read lazily, and so are downloaded. */
  readonly onDownload?: (progress: DownloadProgress) => void;
  readonly signal?: AbortSignal;
}

/**
 * Opens an image without downloading it: after a handful of requests, its whole tree is known and every file can be read, fetched
 * and verified on demand.
 * @throws RegistryError, VerificationError, FormatError, all of them LazylayerErrors
 */
export async function openImage(reference: string, options: OpenImageOptions = {}): Promise<LazyImage> {
  const image = await LazyImage.resolve(reference, options, options);
  try {
    await image.openLayers(options);
    return image;
  } catch (error) {
    await image[Symbol.asyncDispose]();
    throw error;
  }
}

/** An image of one platform. Close it when done. */
export class LazyImage implements AsyncDisposable {
  #layers: readonly Layer[] = [];
  #tree: MergedTree | undefined;

  private constructor(
    private readonly workspace: Workspace,
    private readonly lock: RootLock | undefined,
    private readonly image: Image,
  ) {}

  /** Manifest and config only; layers follow by `openLayers`: at once, and by which options, where `layers` says so. */
  static async resolve(
    reference: string,
    options: OpenImageOptions = {},
    layers?: Pick<OpenImageOptions, 'allowNoVerification'>,
  ): Promise<LazyImage> {
    const config = options.config ?? defaultConfig();
    const root = options.root ?? options.config?.root;
    const lock = root === undefined ? undefined : lockUnlessBusy(root);
    let workspace: Workspace | undefined;
    try {
      workspace = await Workspace.open({ ...config, root: root ?? config.root }, { temporary: lock === undefined });
      return new LazyImage(workspace, lock, await workspace.image(reference, { ...options, layers }));
    } catch (error) {
      await workspace?.[Symbol.asyncDispose]();
      lock?.release();
      throw error;
    }
  }

  /** Full name, as the image was asked for. */
  get reference(): string {
    return this.image.reference;
  }

  /** Digest of the manifest. */
  get digest(): Digest {
    return this.image.digest;
  }

  get manifest(): Manifest {
    return this.image.manifest;
  }

  get config(): ImageConfig {
    return this.image.config;
  }

  get manifestBytes(): Uint8Array {
    return this.image.manifestBytes;
  }

  get configBytes(): Uint8Array {
    return this.image.configBytes;
  }

  /** What a user should know, such as that the tag could not be asked for anew. */
  get warning(): string | undefined {
    return this.image.warning;
  }

  /** Requests sent and bytes received since the image was opened. */
  get transferred(): { requests: number; bytes: number } {
    return this.workspace.registry.stats;
  }

  /** Lowest first. */
  get layers(): readonly Layer[] {
    return this.#layers;
  }

  /** All layers as one tree, the way a container sees it. */
  get tree(): MergedTree {
    if (this.#tree === undefined)
      throw new LazylayerError('FAILED_PRECONDITION', `${this.reference}: its layers are not open`);
    return this.#tree;
  }

  async openLayers(options: OpenImageOptions = {}): Promise<void> {
    this.#layers = await this.workspace.openLayers(this.image, options);
    this.#tree = new MergedTree(this.#layers);
  }

  /** One layer by its index, lowest first; the caller closes it. */
  async openLayer(index: number, options: OpenImageOptions = {}): Promise<Layer> {
    return this.workspace.openLayer(layerOf(this.image, index), options);
  }

  /**
   * Bytes [start, end) of a file, as they arrive, verified; the whole file by default. Symlinks are followed within the image.
   * @throws NOT_FOUND; INVALID_ARGUMENT where the path is no regular file
   */
  async *createReadStream(
    path: string,
    options: { start?: number; end?: number; signal?: AbortSignal } = {},
  ): AsyncGenerator<Uint8Array, void, undefined> {
    const node = this.tree.resolve(path);
    const layer = this.#layers[node.layer];
    if (!layer.tree.isRegular(node.inode))
      throw new LazylayerError('INVALID_ARGUMENT', `${path}: expected a regular file, found another type`);
    yield* layer.stream(node.inode, options);
  }

  /** A whole file in memory. */
  async readFile(path: string, options: { signal?: AbortSignal } = {}): Promise<Buffer> {
    const pieces: Buffer[] = [];
    for await (const piece of this.createReadStream(path, options)) pieces.push(Buffer.from(piece));
    return Buffer.concat(pieces);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const layer of this.#layers) await layer[Symbol.asyncDispose]();
    await this.workspace[Symbol.asyncDispose]();
    this.lock?.release();
  }
}

function lockUnlessBusy(root: string): RootLock | undefined {
  try {
    return lockRoot(root);
  } catch (error) {
    if (codeOf(error) === 'BUSY') return undefined;
    throw error;
  }
}
