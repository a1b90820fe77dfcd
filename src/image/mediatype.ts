/** Media types of OCI image-spec 1.1 and of Docker's schema 2, which mean the same and are treated alike. */
export const mediaTypes = {
  ociIndex: 'application/vnd.oci.image.index.v1+json',
  ociManifest: 'application/vnd.oci.image.manifest.v1+json',
  ociConfig: 'application/vnd.oci.image.config.v1+json',
  ociLayer: 'application/vnd.oci.image.layer.v1.tar',
  ociLayerGzip: 'application/vnd.oci.image.layer.v1.tar+gzip',
  ociLayerZstd: 'application/vnd.oci.image.layer.v1.tar+zstd',
  dockerIndex: 'application/vnd.docker.distribution.manifest.list.v2+json',
  dockerManifest: 'application/vnd.docker.distribution.manifest.v2+json',
  dockerConfig: 'application/vnd.docker.container.image.v1+json',
  dockerLayer: 'application/vnd.docker.image.rootfs.diff.tar',
  dockerLayerGzip: 'application/vnd.docker.image.rootfs.diff.tar.gzip',
  dockerLayerZstd: 'application/vnd.docker.image.rootfs.diff.tar.zstd',
  dockerForeignLayer: 'application/vnd.docker.image.rootfs.foreign.diff.tar',
  dockerForeignLayerGzip: 'application/vnd.docker.image.rootfs.foreign.diff.tar.gzip',
} as const;

/** What a client sends as Accept for a manifest: everything that it can read. */
export const acceptedManifests: string = [
  mediaTypes.ociIndex,
  mediaTypes.dockerIndex,
  mediaTypes.ociManifest,
  mediaTypes.dockerManifest,
].join(', ');

export type LayerCompression = 'none' | 'gzip' | 'zstd';

export interface LayerType {
  readonly compression: LayerCompression;
  /** Bytes that a registry may be without: they are found by the descriptor's `urls` (foreign, nondistributable). */
  readonly foreign: boolean;
}

const layerPattern =
  /^application\/vnd\.(?:oci\.image\.layer\.(nondistributable\.)?v1\.tar(?:\+(gzip|zstd))?|docker\.image\.rootfs\.(foreign\.)?diff\.tar(?:\.(gzip|zstd))?)$/;

/** How a layer of this media type is packed, or undefined when it is no filesystem layer. */
export function layerType(mediaType: string): LayerType | undefined {
  const match = layerPattern.exec(mediaType);
  if (match === null) return undefined;
  return {
    compression: (match[2] ?? match[4] ?? 'none') as LayerCompression,
    foreign: (match[1] ?? match[3]) !== undefined,
  };
}

export function isIndexType(mediaType: string): boolean {
  return mediaType === mediaTypes.ociIndex || mediaType === mediaTypes.dockerIndex;
}

export function isManifestType(mediaType: string): boolean {
  return mediaType === mediaTypes.ociManifest || mediaType === mediaTypes.dockerManifest;
}
