import type { ContainerdPlace } from '../containerd/containerd.js';

/** An image to be put into containerd. */
export interface PullRequest extends ContainerdPlace {
  readonly image: string;
  /** `os/arch[/variant]`; the machine's own where absent. */
  readonly platform?: string;
}

/** An image that containerd has. */
export interface PullInfo {
  /** Under which containerd knows it. */
  readonly image: string;
  /** Digest of the platform manifest. */
  readonly digest: string;
  readonly layers: number;
  /** Layers that are served on demand; the others were downloaded and unpacked. */
  readonly lazyLayers: number;
  /** Bytes of the layers' blobs. */
  readonly totalBytes: number;
}
