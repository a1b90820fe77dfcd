import { VerificationError } from '../errors.js';
import type { Digest } from './digest.js';
import { createDigester, digestOf } from './digester.js';

/** @throws VerificationError when the bytes are not what `expected` names. */
export function verifyBytes(bytes: Uint8Array, expected: Digest, what: string): void {
  const found = digestOf(bytes);
  if (found !== expected) throw new VerificationError(what, expected, found);
}

/**
 * Passes bytes through and throws after the last one when size (bytes) or digest differ. A consumer must treat what it got
 * as untrusted until the iteration has ended without an error. Stops early, with an error, once more than `size` bytes came.
 */
export async function* verifiedStream(
  source: AsyncIterable<Uint8Array>,
  expected: { digest: Digest; size?: number },
  what: string,
): AsyncGenerator<Uint8Array, void, undefined> {
  const digester = createDigester();
  let size = 0;
  for await (const bytes of source) {
    size += bytes.byteLength;
    if (expected.size !== undefined && size > expected.size)
      throw new VerificationError(what, `${expected.size} bytes`, `at least ${size} bytes`);
    digester.update(bytes);
    yield bytes;
  }
  if (expected.size !== undefined && size !== expected.size)
    throw new VerificationError(what, `${expected.size} bytes`, `${size} bytes`);
  const found = digester.digest();
  if (found !== expected.digest) throw new VerificationError(what, expected.digest, found);
}
