import type { Digest } from '../digest/digest.js';
import { hexOf, isDigest } from '../digest/digest.js';

/**
 * What a layer's cache is kept under: the blob, and what vouches for its tree. One blob may be named by manifests that vouch for
 * different trees (one may lie); each has its own directory, so that nobody is served by what another one trusted.
 */
export interface LayerKey {
  readonly digest: Digest;
  /** The TOC digest, the diffID of a layer without a TOC, or undefined where nothing vouches for the TOC. */
  readonly source: Digest | undefined;
}

const pattern = /^sha256-([0-9a-f]{64})\.(?:[0-9a-f]{16}|unverified)$/;

/** The name of the layer's directory: `sha256-<hex of the blob>.<start of the source's hex, or "unverified">`. */
export function nameOf(key: LayerKey): string {
  return `sha256-${hexOf(key.digest)}.${key.source === undefined ? 'unverified' : hexOf(key.source).slice(0, 16)}`;
}

/** The blob's digest in the name of a layer's directory, or undefined where the name is no such. */
export function digestOfName(name: string): Digest | undefined {
  const hex = pattern.exec(name)?.[1];
  const digest = `sha256:${hex}`;
  return hex !== undefined && isDigest(digest) ? digest : undefined;
}
