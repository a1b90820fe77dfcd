import { isDigest, type Digest } from '../digest/digest.js';
import { LazylayerError } from '../errors.js';
import { formatReference, parseReference } from '../image/reference.js';

/**
 * The reference that a directory's name stands for, in standard base64 (RFC 4648, section 4).
 * @throws INVALID_ARGUMENT where the name is no base64, or not that of a full reference (host, repository, and tag or digest)
 */
export function referenceOf(name: string): string {
  const text = Buffer.from(name, 'base64').toString();
  if (Buffer.from(text).toString('base64') !== name) throw invalid('the base64 of a reference', name);
  if (formatReference(parseReference(text)) !== text) throw invalid('the full name of an image', text);
  return text;
}

/** @throws INVALID_ARGUMENT */
export function layerDigestOf(name: string): Digest {
  if (!isDigest(name)) throw invalid('sha256: and 64 lower-case hex digits', name);
  return name;
}

function invalid(expected: string, found: string): LazylayerError {
  return new LazylayerError('INVALID_ARGUMENT', `layer store: expected ${expected}, found ${JSON.stringify(found)}`);
}
