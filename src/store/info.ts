import { annotationTocDigest, UNCOMPRESSED_SIZE_ANNOTATION } from '../estargz/annotations.js';
import type { ImageLayer } from '../workspace/image.js';

/** The numbers that containers-storage has for ways to compress a layer. */
const GZIP = 2;
const ZSTD = 4;

/** The file `info`: a layer as containers-storage records its own, in JSON. A size that is not known is -1. */
export function layerInfo({ descriptor, diffId }: Pick<ImageLayer, 'descriptor' | 'diffId'>): Buffer {
  const { digest, size, mediaType, annotations } = descriptor;
  const claimed = annotations?.[UNCOMPRESSED_SIZE_ANNOTATION] ?? '';
  return Buffer.from(
    JSON.stringify({
      'compressed-diff-digest': digest,
      'compressed-size': size,
      'diff-digest': diffId,
      'diff-size': /^\d{1,15}$/.test(claimed) ? Number(claimed) : -1,
      compression: mediaType.includes('zstd') ? ZSTD : GZIP,
      'toc-digest': annotationTocDigest(annotations),
      flags: { 'expected-layer-diffid': diffId },
    }),
  );
}
