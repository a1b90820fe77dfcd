/** An image to be mounted by hand. Paths are absolute. */
export interface MountRequest {
  readonly image: string;
  readonly target: string;
  /** `os/arch[/variant]`; the machine's own where absent. */
  readonly platform?: string;
  /** Writable: an overlay upper in a temporary directory, or below `upper`. */
  readonly rw?: boolean;
  /** Directory whose `upper` keeps what is written, with overlayfs's `work` beside it. */
  readonly upper?: string;
  /** Refused where the daemon that runs already has another one. */
  readonly backend?: string;
  readonly backgroundFetch: boolean;
  readonly allowNoVerification: boolean;
}

/** A mounted image. Sizes are in compressed bytes of its layers' blobs, except presentBytes and contentBytes. */
export interface MountInfo {
  readonly target: string;
  readonly image: string;
  /** Digest of the platform manifest. */
  readonly digest: string;
  readonly readOnly: boolean;
  readonly upper?: string;
  readonly layers: number;
  /** Layers that are served on demand; the others were downloaded whole. */
  readonly lazyLayers: number;
  /** Bytes that came from the registry for these layers since the daemon opened them. */
  readonly fetchedBytes: number;
  readonly requests: number;
  readonly totalBytes: number;
  /** Uncompressed bytes of file content that are in the chunk cache, and that there are. */
  readonly presentBytes: number;
  readonly contentBytes: number;
  /** The serving process. */
  readonly pid: number;
  /** RFC 3339. */
  readonly since: string;
}

/** Told while an image is being mounted, or put into containerd. */
export type MountProgress =
  | {
      readonly kind: 'download';
      readonly layer: string;
      readonly reason: string;
      readonly bytes: number;
      readonly total: number;
    }
  | { readonly kind: 'warning'; readonly message: string };
