import { parseDigest, type Digest } from '../digest/digest.js';

/** On a layer's descriptor: digest of the TOC's JSON. */
export const TOC_DIGEST_ANNOTATION = 'containerd.io/snapshot/stargz/toc.digest';
/** On a layer's descriptor: bytes of the uncompressed tar. */
export const UNCOMPRESSED_SIZE_ANNOTATION = 'io.containers.estargz.uncompressed-size';

/**
 * The TOC digest that a layer's descriptor claims, or undefined where it claims none. The descriptor is believed because the
 * manifest that holds it was verified.
 * @throws FormatError for one that is no sha256 digest
 */
export function annotationTocDigest(annotations: Readonly<Record<string, string>> | undefined): Digest | undefined {
  const claimed = annotations?.[TOC_DIGEST_ANNOTATION];
  return claimed === undefined ? undefined : parseDigest(claimed, TOC_DIGEST_ANNOTATION);
}
