import { isDigest, type Digest } from '../digest/digest.js';
import { TOC_DIGEST_ANNOTATION } from '../estargz/annotations.js';
import type { Labels } from './snapshotter.js';

/** Which layer of which image a client wants, by the labels that it put on a snapshot. */
export interface LayerSourceLabels {
  readonly reference: string;
  readonly digest: Digest;
  /** Digest of the image's platform manifest, where the client says so. */
  readonly manifest?: Digest;
  /** Layers of the image from this one up, lowest first, as far as the client's labels had room for them. */
  readonly layers: readonly Digest[];
  /** Digest of the layer's TOC, where it has one. */
  readonly tocDigest?: Digest;
  /** Bytes from the blob's start to prefetch where no landmark in the layer says how many. */
  readonly prefetchBytes?: number;
  /** Where the blobs of layers may be had besides the registry. */
  readonly urls?: ReadonlyMap<Digest, readonly string[]>;
}

const CRI = 'containerd.io/snapshot/cri.';
const STARGZ = 'containerd.io/snapshot/remote/stargz.';
/**
 * The layer's own URLs, or those of the layer at a place in the list of layers, counted from 0; then perhaps a suffix. Images have
 * fewer than 1000 layers, so longer numbers are suffixes.
 */
const URLS = /^containerd\.io\/snapshot\/remote\/urls(?:\.(\d{1,3}))?(?:\.[^.]+)?$/;

/**
 * The labels of CRI first, then those of ctr-remote, nerdctl and BuildKit. BuildKit appends a random suffix to its keys
 * (`KEY.<id>`). A label that would have a layer served unverified (`…/stargz.skipverify`) does not count: clients copy an image's annotations
 * to labels, so it may be the word of whoever made the image.
 * @returns what they say, or in a few words what is missing
 */
export function sourceOf(labels: Labels): LayerSourceLabels | { readonly reason: string } {
  const read = readerOf(labels);
  const reference = read(`${CRI}image-ref`) ?? read(`${STARGZ}reference`);
  const digest = read(`${CRI}layer-digest`) ?? read(`${STARGZ}digest`);
  if (reference === undefined || digest === undefined) return { reason: 'no labels tell of the image and the layer' };
  if (!isDigest(digest)) return { reason: `the layer's label is no sha256 digest: ${digest}` };
  const manifest = read(`${CRI}manifest-digest`);
  const listed = (read(`${CRI}image-layers`) ?? read(`${STARGZ}layers`) ?? '').split(',');
  const layers = listed.filter(isDigest);
  const prefetch = read(`${STARGZ}prefetch`);
  const tocDigest = read(TOC_DIGEST_ANNOTATION);
  const urls = urlsOf(labels, digest, listed);
  return {
    reference,
    digest,
    ...(manifest !== undefined && isDigest(manifest) && { manifest }),
    ...(tocDigest !== undefined && isDigest(tocDigest) && { tocDigest }),
    layers: layers.includes(digest) ? layers : [digest, ...layers],
    ...(prefetch !== undefined && /^\d{1,15}$/.test(prefetch) && { prefetchBytes: Number(prefetch) }),
    ...(urls.size > 0 && { urls }),
  };
}

/** Whether labels tell of the layer that this blob is, or another one with the same TOC: a diffID in an image's config is but a word. */
export function isOfBlob(
  labels: Labels,
  { digest, tocDigest }: Pick<LayerSourceLabels, 'digest' | 'tocDigest'>,
): boolean {
  const source = sourceOf(labels);
  if ('reason' in source) return false;
  return source.digest === digest || (tocDigest !== undefined && source.tocDigest === tocDigest);
}

/** Labels that `sourceOf` reads this from. Of a layer's annotations, which are its author's words, only what its content is held against. */
export function labelsOf({ reference, digest, manifest, tocDigest }: Omit<LayerSourceLabels, 'layers'>): Labels {
  return {
    [`${CRI}image-ref`]: reference,
    [`${CRI}layer-digest`]: digest,
    ...(manifest !== undefined && { [`${CRI}manifest-digest`]: manifest }),
    ...(tocDigest !== undefined && { [TOC_DIGEST_ANNOTATION]: tocDigest }),
  };
}

/** Comma-separated URLs, as clients keep them of the manifest's descriptors; empty ones are for layers without. */
function urlsOf(labels: Labels, own: Digest, listed: readonly string[]): Map<Digest, readonly string[]> {
  const found = new Map<Digest, readonly string[]>();
  for (const [key, value] of Object.entries(labels)) {
    const match = URLS.exec(key);
    if (match === null) continue;
    const digest = match[1] === undefined ? own : listed[Number(match[1])];
    const urls = value.split(',').filter((url) => url !== '');
    if (digest !== undefined && isDigest(digest) && urls.length > 0) found.set(digest, urls);
  }
  return found;
}

/** Reads a label by its key, or by its key with one more component. */
function readerOf(labels: Labels): (key: string) => string | undefined {
  return (key) => {
    if (Object.hasOwn(labels, key)) return labels[key];
    const suffixed = Object.keys(labels).find((k) => k.startsWith(`${key}.`) && !k.slice(key.length + 1).includes('.'));
    return suffixed === undefined ? undefined : labels[suffixed];
  };
}
