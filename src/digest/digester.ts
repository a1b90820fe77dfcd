import { createHash, hash } from 'node:crypto';
import { setImmediate as turn } from 'node:timers/promises';
import { Sha256 } from '@aws-crypto/sha256-js';
import type { Digest } from './digest.js';

/** One running SHA-256. `digest` ends it. */
export interface Digester {
  update(bytes: Uint8Array): this;
  digest(): Digest;
}

/** For data: OpenSSL's, 4 MiB in about 4 ms. */
export function createDigester(): Digester {
  const h = createHash('sha256');
  return {
    update(bytes) {
      h.update(bytes);
      return this;
    },
    digest: () => `sha256:${h.digest('hex')}` as Digest,
  };
}

/** In JavaScript alone, 30 times slower: names of pool directories, and the oracle that tests hold OpenSSL's against. */
export function createPureDigester(): Digester {
  const h = new Sha256();
  return {
    update(bytes) {
      h.update(bytes);
      return this;
    },
    digest: () => `sha256:${Buffer.from(h.digestSync()).toString('hex')}` as Digest,
  };
}

/** SHA-256 of bytes that are all at hand: one call, no stream object. */
export function digestOf(bytes: Uint8Array | string): Digest {
  return `sha256:${hash('sha256', bytes, 'hex')}` as Digest;
}

/** Bytes that are hashed without a pause: some 4 milliseconds. */
const TURN_BYTES = 4 * 1024 * 1024;

/** The same of bytes that may be very many: the thread's other work has its turn in between. */
export async function digestInTurns(bytes: Uint8Array): Promise<Digest> {
  if (bytes.byteLength <= TURN_BYTES) return digestOf(bytes);
  const digester = createDigester();
  for (let at = 0; at < bytes.byteLength; at += TURN_BYTES) {
    if (at > 0) await turn();
    digester.update(bytes.subarray(at, at + TURN_BYTES));
  }
  return digester.digest();
}
