import * as v from 'valibot';
import { isDigest, type Digest } from '../digest/digest.js';
import { optional } from './json.js';
import type { Platform } from './platform.js';

/** What names a blob or a manifest: its type, its digest, its size in bytes (OCI image-spec, descriptor.md). */
export interface Descriptor {
  readonly mediaType: string;
  readonly digest: Digest;
  readonly size: number;
  readonly annotations?: Readonly<Record<string, string>>;
  /** In an index only. */
  readonly platform?: Platform;
  /** Where the bytes may be had besides the registry. Foreign layers only. */
  readonly urls?: readonly string[];
}

export const annotationsSchema = v.record(v.string(), v.string());

const platformSchema = v.object({
  architecture: v.string(),
  os: v.string(),
  variant: optional(v.string()),
  'os.version': optional(v.string()),
  'os.features': optional(v.array(v.string())),
});

export const descriptorSchema = v.object({
  mediaType: v.pipe(v.string(), v.regex(/^[\w.+-]+\/[\w.+-]+$/, 'a media type')),
  digest: v.custom<Digest>((d) => typeof d === 'string' && isDigest(d), 'a sha256 digest'),
  size: v.pipe(v.number(), v.safeInteger(), v.minValue(0)),
  annotations: optional(annotationsSchema),
  platform: optional(platformSchema),
  urls: optional(v.array(v.string())),
});
