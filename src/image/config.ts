import * as v from 'valibot';
import { isDigest, type Digest } from '../digest/digest.js';
import { FormatError } from '../errors.js';
import { optional, parseDocument } from './json.js';
import type { Manifest } from './manifest.js';

/** Largest config that is read, in bytes. */
export const maxConfigSize = 8 * 1024 * 1024;

const strings = v.array(v.string());
const flags = v.record(v.string(), v.unknown());

const schema = v.object({
  architecture: v.string(),
  os: v.string(),
  variant: optional(v.string()),
  created: optional(v.string()),
  author: optional(v.string()),
  config: optional(
    v.object({
      User: optional(v.string()),
      ExposedPorts: optional(flags),
      Env: optional(strings),
      Entrypoint: optional(strings),
      Cmd: optional(strings),
      Volumes: optional(flags),
      WorkingDir: optional(v.string()),
      Labels: optional(v.record(v.string(), v.string())),
      StopSignal: optional(v.string()),
    }),
  ),
  rootfs: v.object({
    type: v.literal('layers'),
    diff_ids: v.array(v.custom<Digest>((d) => typeof d === 'string' && isDigest(d), 'a sha256 digest')),
  }),
});

/**
 * An image's configuration (OCI image-spec, config.md), members that lazylayer has no use for left out. `rootfs.diff_ids` are the
 * digests of the uncompressed layers, the lowest first.
 */
export type ImageConfig = v.InferOutput<typeof schema>;

/** Reads an image config of at most 8 MiB. @throws FormatError */
export function parseConfig(bytes: Uint8Array): ImageConfig {
  return parseDocument('config', bytes, schema, maxConfigSize);
}

/** Every layer must have a diffID: without it a layer could not be told from another. @throws FormatError */
export function checkDiffIds(manifest: Manifest, config: ImageConfig): void {
  const layers = manifest.layers.length;
  const diffIds = config.rootfs.diff_ids.length;
  if (layers !== diffIds)
    throw new FormatError('config, rootfs.diff_ids', {
      expected: `${layers} digests, one for each layer of the manifest`,
      found: `${diffIds}`,
    });
}
