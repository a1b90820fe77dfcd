import type { TestRegistry } from '../../src/testing/registry.js';
import type { ConvertedLayer } from './convert.js';

export interface PublishedImage {
  readonly reference: string;
  /** Of the layers' blobs, compressed. */
  readonly bytes: number;
  readonly blobUrls: readonly string[];
}

export const manifestType = 'application/vnd.oci.image.manifest.v1+json';
export const configType = 'application/vnd.oci.image.config.v1+json';
const layerType = 'application/vnd.oci.image.layer.v1.tar+gzip';

/** Config and manifest of an image of these layers (OCI image specification), lowest layer first. */
export function describeImage(layers: readonly ConvertedLayer[]) {
  const config = {
    architecture: process.arch === 'x64' ? 'amd64' : process.arch,
    os: 'linux',
    config: {},
    rootfs: { type: 'layers', diff_ids: layers.map((layer) => layer.result.diffId) },
  };
  const descriptors = layers.map(({ result: { digest, size, annotations } }) => ({
    mediaType: layerType,
    digest,
    size,
    annotations,
  }));
  return { config, descriptors };
}

/** Puts an image into a registry of this process; its layers are served from their files. */
export async function publish(
  registry: TestRegistry,
  name: string,
  layers: readonly ConvertedLayer[],
): Promise<PublishedImage> {
  const { config, descriptors } = describeImage(layers);
  for (const layer of layers) await registry.putBlobFile(layer.path, layerType);
  const manifest = {
    schemaVersion: 2,
    mediaType: manifestType,
    config: registry.putBlob(Buffer.from(JSON.stringify(config)), configType),
    layers: descriptors,
  };
  registry.putManifest(name, 'latest', Buffer.from(JSON.stringify(manifest)), manifestType);
  return {
    reference: `${registry.host}/${name}:latest`,
    bytes: descriptors.reduce((sum, descriptor) => sum + descriptor.size, 0),
    blobUrls: descriptors.map((descriptor) => `${registry.url}/v2/${name}/blobs/${descriptor.digest}`),
  };
}
