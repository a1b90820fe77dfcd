import type { Digest } from '../digest/digest.js';
import type { RandomAccessReader } from '../io/reader.js';

/** A layer as a manifest tells of it, and the way to its blob. */
export interface LayerSource {
  readonly descriptor: {
    readonly mediaType: string;
    readonly digest: Digest;
    /** Bytes of the blob. */
    readonly size: number;
    readonly annotations?: Readonly<Record<string, string>>;
  };
  /** Opens the blob. Sends no request before the first read. */
  readonly reader: () => RandomAccessReader;
  /** What the manifest vouches for by `containerd.io/snapshot/stargz/toc.digest`. */
  readonly tocDigest?: Digest;
  /** It is known not to be an image's lowest layer: those have longer TOCs. */
  readonly aboveBase?: boolean;
  /** Digest of the uncompressed tar. Where it is not known, a layer can only be opened lazily. */
  readonly diffId?: Digest;
  /** Serve an eStargz layer although nothing vouches for its TOC. */
  readonly allowNoVerification?: boolean;
  /** Brings the TOC's own blob where it lies in another image. */
  readonly externalToc?: (signal?: AbortSignal) => Promise<Uint8Array>;
}

/** Bytes of a blob that have come, of how many. */
export interface Progress {
  readonly bytes: number;
  readonly total: number;
  /** Why the layer is downloaded whole. */
  readonly reason: string;
}

/** Whether a layer's chunks come as they are read, or why all of it was downloaded first. */
export type Laziness = { readonly lazy: true } | { readonly lazy: false; readonly reason: string };
