import * as v from 'valibot';
import { FormatError } from '../errors.js';
import { annotationsSchema, descriptorSchema, type Descriptor } from './descriptor.js';
import { maxManifestSize, optional, parseDocument } from './json.js';
import { isIndexType, isManifestType, mediaTypes } from './mediatype.js';

/** One image for one platform: a config and the layers, the lowest first (OCI image-spec, manifest.md). */
export interface Manifest {
  readonly mediaType: string;
  readonly config: Descriptor;
  readonly layers: readonly Descriptor[];
  readonly annotations?: Readonly<Record<string, string>>;
}

/** One image for several platforms (OCI image-spec, image-index.md; Docker's manifest list). */
export interface Index {
  readonly mediaType: string;
  readonly manifests: readonly Descriptor[];
  readonly annotations?: Readonly<Record<string, string>>;
}

const absent = v.optional(v.undefined_('nothing: one document is an index or a manifest, never both'));

const manifestSchema = v.object({
  schemaVersion: v.literal(2),
  mediaType: optional(v.string()),
  config: descriptorSchema,
  layers: v.array(descriptorSchema),
  annotations: optional(annotationsSchema),
  manifests: absent,
});

const indexSchema = v.object({
  schemaVersion: v.literal(2),
  mediaType: optional(v.string()),
  manifests: v.array(descriptorSchema),
  annotations: optional(annotationsSchema),
  config: absent,
  layers: absent,
});

/**
 * Reads an image manifest of at most 4 MiB. `mediaType` is what its descriptor or its Content-Type says, for documents that do not
 * say it themselves.
 * @throws FormatError
 */
export function parseManifest(bytes: Uint8Array, mediaType: string = mediaTypes.ociManifest): Manifest {
  const parsed = parseDocument('manifest', bytes, manifestSchema, maxManifestSize);
  const found = parsed.mediaType ?? mediaType;
  if (!isManifestType(found)) throw wrongType('manifest', mediaTypes.ociManifest, found);
  const { config, layers, annotations } = parsed;
  return { mediaType: found, config, layers, ...(annotations && { annotations }) };
}

/** Reads an image index or manifest list of at most 4 MiB. @throws FormatError */
export function parseIndex(bytes: Uint8Array, mediaType: string = mediaTypes.ociIndex): Index {
  const parsed = parseDocument('index', bytes, indexSchema, maxManifestSize);
  const found = parsed.mediaType ?? mediaType;
  if (!isIndexType(found)) throw wrongType('index', mediaTypes.ociIndex, found);
  const { manifests, annotations } = parsed;
  return { mediaType: found, manifests, ...(annotations && { annotations }) };
}

function wrongType(what: string, expected: string, found: string): FormatError {
  return new FormatError(`${what}, mediaType`, { expected, found: JSON.stringify(found) });
}
