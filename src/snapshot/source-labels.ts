import { isDigest, type Digest } from '../digest/digest.js';
import type { Labels } from './snapshotter.js';

/** Which layer of which image a client wants, by the labels that it put on a snapshot. */
export interface LayerSourceLabels {
  readonly reference: string;
  readonly digest: Digest;
  /** Digest of the image's platform manifest, where the client says so. */
  readonly manifest?: Digest;
  /** Layers of the image from this one up, lowest first, as far as the client's labels had room for them. */
  readonly layers: readonly Digest[];
  /** Serve the layer although nothing vouches for its TOC. */
  readonly skipVerify?: boolean;
}

const CRI = 'containerd.io/snapshot/cri.';
const STARGZ = 'containerd.io/snapshot/remote/stargz.';

/**
 * The labels of CRI first, then those of ctr-remote, nerdctl and BuildKit. BuildKit appends a random suffix to its keys
 * (`KEY.<id>`). How much to prefetch is not among them: eStargz layers say so themselves, by a landmark, and clients send a default.
 * @returns what they say, or in a few words what is missing
 */
export function sourceOf(labels: Labels): LayerSourceLabels | { readonly reason: string } {
  const read = readerOf(labels);
  const reference = read(`${CRI}image-ref`) ?? read(`${STARGZ}reference`);
  const digest = read(`${CRI}layer-digest`) ?? read(`${STARGZ}digest`);
  if (reference === undefined || digest === undefined) return { reason: 'no labels tell of the image and the layer' };
  if (!isDigest(digest)) return { reason: `the layer's label is no sha256 digest: ${digest}` };
  const manifest = read(`${CRI}manifest-digest`);
  const layers = (read(`${CRI}image-layers`) ?? read(`${STARGZ}layers`) ?? '').split(',').filter(isDigest);
  return {
    reference,
    digest,
    ...(manifest !== undefined && isDigest(manifest) && { manifest }),
    layers: layers.includes(digest) ? layers : [digest, ...layers],
    ...(read(`${STARGZ}skipverify`) === 'true' && { skipVerify: true }),
  };
}

/** Reads a label by its key, or by its key with one more component. */
function readerOf(labels: Labels): (key: string) => string | undefined {
  return (key) => {
    if (Object.hasOwn(labels, key)) return labels[key];
    const suffixed = Object.keys(labels).find((k) => k.startsWith(`${key}.`) && !k.slice(key.length + 1).includes('.'));
    return suffixed === undefined ? undefined : labels[suffixed];
  };
}
