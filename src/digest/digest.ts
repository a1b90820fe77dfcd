import { FormatError } from '../errors.js';
import { bufferOf } from '../util/bytes.js';

/** `sha256:<64 lower-case hex digits>` (OCI image-spec, descriptor.md, "Digests"). Other algorithms are refused by name. */
export type Digest = string & { readonly __digest: unique symbol };

const pattern = /^sha256:[0-9a-f]{64}$/;

export function isDigest(text: string): text is Digest {
  return pattern.test(text);
}

/** @throws FormatError that names `what` when the text is no sha256 digest. */
export function parseDigest(text: string, what = 'digest'): Digest {
  if (isDigest(text)) return text;
  throw new FormatError(what, { expected: 'sha256: and 64 lower-case hex digits', found: JSON.stringify(text) });
}

/** The 64 hex digits, without the algorithm. */
export function hexOf(digest: Digest): string {
  return digest.slice('sha256:'.length);
}

/** The digest whose 32 raw bytes start at `offset`. */
export function digestFromBytes(bytes: Uint8Array, offset = 0): Digest {
  return `sha256:${bufferOf(bytes, offset, 32).toString('hex')}` as Digest;
}
