import type { Digest } from '../digest/digest.js';
import { digestOf } from '../digest/digester.js';
import { LazylayerError } from '../errors.js';
import { checkDiffIds, parseConfig, type ImageConfig } from '../image/config.js';
import type { Descriptor } from '../image/descriptor.js';
import { parseManifest, type Manifest } from '../image/manifest.js';

/** One image of one platform, as the registry sent it, verified. */
export interface Image {
  /** Full name, with the tag or digest it was asked by. */
  readonly reference: string;
  /** Of the platform's manifest. */
  readonly digest: Digest;
  readonly manifest: Manifest;
  readonly config: ImageConfig;
  readonly manifestBytes: Uint8Array;
  readonly configBytes: Uint8Array;
  /** What a user should know, such as that the registry could not be asked. */
  readonly warning?: string;
}

/** @throws FormatError where the bytes are no manifest and config that belong together. */
export function imageOf(
  reference: string,
  manifestBytes: Uint8Array,
  configBytes: Uint8Array,
  more: { mediaType?: string; warning?: string } = {},
): Image {
  const manifest = parseManifest(manifestBytes, more.mediaType);
  const config = parseConfig(configBytes);
  checkDiffIds(manifest, config);
  return {
    reference,
    digest: digestOf(manifestBytes),
    manifest,
    config,
    manifestBytes,
    configBytes,
    warning: more.warning,
  };
}

/** All that it takes to open one layer of an image: plain data, kept by those who will open it again after a restart. */
export interface ImageLayer {
  /** Of the image. */
  readonly reference: string;
  readonly descriptor: Descriptor;
  /** Digest of the uncompressed tar. Without it a layer can only be opened lazily. */
  readonly diffId?: Digest;
}

/** The layer of an image at an index, lowest first. */
export function layerOf(image: Image, index: number): ImageLayer {
  const descriptor = image.manifest.layers[index];
  const diffId = image.config.rootfs.diff_ids[index];
  if (descriptor === undefined || diffId === undefined)
    throw new LazylayerError(
      'NOT_FOUND',
      `${image.reference}: expected layer ${index}, found ${image.manifest.layers.length}`,
    );
  return { reference: image.reference, descriptor, diffId };
}

/** A manifest's own URLs go before those that somebody else copied from there. */
export function withUrls(
  descriptor: Descriptor,
  copied: ReadonlyMap<Digest, readonly string[]> | undefined,
): Descriptor {
  const urls = copied?.get(descriptor.digest);
  return urls === undefined || descriptor.urls !== undefined ? descriptor : { ...descriptor, urls };
}
