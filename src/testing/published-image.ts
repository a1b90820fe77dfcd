import type { ExecutionContext } from 'ava';
import { defaultConfig, type Config } from '../config/config.js';
import { buildImage, type LayerSpec } from './image.js';
import { startTestRegistry, type TestRegistryOptions } from './registry.js';
import { temporaryDirectory } from './temporary.js';

/** A registry with an image of these layers, and a root to open it over. */
export async function publishImage(t: ExecutionContext, specs: readonly LayerSpec[], options?: TestRegistryOptions) {
  const root = await temporaryDirectory(t, 'image');
  const registry = await startTestRegistry(options);
  t.teardown(() => registry.stop());
  const image = await buildImage({ layers: specs });
  for (const blob of image.blobs.values()) registry.putBlob(blob.bytes);
  const publish = (tag: string) =>
    registry.putManifest('img', tag, image.manifest.bytes, image.manifest.descriptor.mediaType);
  publish('1');
  const reference = (tag = '1') => `${registry.host}/img:${tag}`;
  const digests = image.layers.map(({ descriptor }) => descriptor.digest as string);
  const tocs = image.layers.map(
    ({ descriptor }) => descriptor.annotations?.['containerd.io/snapshot/stargz/toc.digest'] ?? '',
  );
  return { root, registry, image, publish, reference, digests, tocs };
}

/** What is configured where nothing is, but that requests that fail are not tried again. */
export function configOver(root: string): Config {
  const defaults = defaultConfig();
  return { ...defaults, root, fetch: { ...defaults.fetch, max_retries: 0 } };
}
