import { randomBytes } from 'node:crypto';
import { Containerd, type Labels } from '../containerd/containerd.js';
import { digestOf } from '../digest/digester.js';
import type { Digest } from '../digest/digest.js';
import { LazylayerError, VerificationError } from '../errors.js';
import { annotationTocDigest } from '../estargz/annotations.js';
import type { Descriptor } from '../image/descriptor.js';
import { parseReference, type Reference } from '../image/reference.js';
import type { MountProgress } from '../mount/request.js';
import { label } from '../snapshot/labels.js';
import { isOfBlob, labelsOf, sourceOf } from '../snapshot/source-labels.js';
import type { Image, Workspace } from '../workspace/workspace.js';
import type { PullInfo, PullRequest } from './request.js';

export interface PullOptions {
  readonly workspace: Workspace;
  /** Fetch what layers' landmarks ask for. */
  readonly prefetch: boolean;
  /** Until when. */
  readonly ending: AbortSignal;
  /** Told of the image before its layers are prepared; disposed when they are. */
  readonly expect: (image: Image, signal: AbortSignal) => AsyncDisposable;
  readonly onProgress: (progress: MountProgress) => void;
  readonly signal: AbortSignal;
}

/**
 * Puts an image into containerd as its own clients do, but for the layers that the snapshotter, which is ours, serves lazily: of those
 * nothing is downloaded, and what a start needs of them is on its way before containerd hears of the image. Others are downloaded and
 * unpacked by containerd. An image that is named was put there wholly.
 * @throws what the registry says; UNAVAILABLE where it cannot be asked what a tag stands for, and what containerd says
 */
export async function pull(request: PullRequest, options: PullOptions): Promise<PullInfo> {
  const { workspace, prefetch, ending } = options;
  const leaving = new AbortController();
  const signal = AbortSignal.any([options.signal, ending, leaving.signal]);
  const layers = { prefetch, starts: ending };
  const asked = workspace.image(request.image, { platform: request.platform, layers, signal });
  const expected = asked.then((image) => options.expect(image, signal));
  expected.catch(() => {}); // told once containerd is there
  try {
    await using containerd = await Containerd.open(request, signal);
    const image = await asked;
    // A name is not turned back to what it stood for before.
    if (image.warning !== undefined) throw new LazylayerError('UNAVAILABLE', image.warning);
    return await new ImagePull(containerd, image, request, { ...options, signal }).run(leaving);
  } finally {
    leaving.abort(new LazylayerError('ABORTED', 'the pull is over'));
    // Whoever asked does not wait for layers to be shown, of which containerd knows that they will be.
    void expected.then((layers) => layers[Symbol.asyncDispose]()).catch(() => {});
  }
}

class ImagePull {
  readonly #name: Reference;
  /** What identifies each layer together with those below it (OCI image-spec, config.md, "Layer ChainID"). */
  readonly #chainIds: readonly Digest[];

  constructor(
    private readonly containerd: Containerd,
    private readonly image: Image,
    private readonly request: PullRequest,
    private readonly options: PullOptions,
  ) {
    this.#name = parseReference(request.image);
    this.#chainIds = chainIdsOf(image.config.rootfs.diff_ids);
  }

  /** Aborts `leaving`, which ends what is under way, where something fails, and waits for that. */
  async run(leaving: AbortController): Promise<PullInfo> {
    const { containerd, image, options } = this;
    const { reference, digest, manifest, manifestBytes } = image;
    const target = { mediaType: manifest.mediaType, digest, size: manifestBytes.byteLength };
    const work = [this.#layers(), this.#config(), this.#manifest(target)] as const;
    try {
      const [lazyLayers] = await Promise.all(work);
      await containerd.putImage(reference, target, options.signal);
      const totalBytes = manifest.layers.reduce((sum, { size }) => sum + size, 0);
      return { image: reference, digest, layers: manifest.layers.length, lazyLayers, totalBytes };
    } catch (error) {
      leaving.abort(error);
      await Promise.allSettled(work);
      throw error;
    }
  }

  async #config(): Promise<void> {
    const { manifest, configBytes } = this.image;
    const top = this.#chainIds.at(-1);
    const uses = top !== undefined && { [`containerd.io/gc.ref.snapshot.${this.request.snapshotter}`]: top };
    await this.#put(manifest.config, configBytes, { ...uses });
  }

  async #manifest(target: Descriptor): Promise<void> {
    const { manifest, manifestBytes } = this.image;
    const uses = [
      ['containerd.io/gc.ref.content.config', manifest.config.digest],
      ...manifest.layers.map(({ digest }, index) => [`containerd.io/gc.ref.content.l.${index}`, digest]),
    ];
    await this.#put(target, manifestBytes, Object.fromEntries(uses) as Labels);
  }

  async #put(descriptor: Descriptor, bytes: Uint8Array, labels: Labels): Promise<void> {
    const { containerd } = this;
    const { signal } = this.options;
    const all = { ...this.#source, ...labels };
    const isNew = await containerd.put(descriptor, (from) => [bytes.subarray(from)], all, signal);
    if (!isNew) await containerd.label(descriptor.digest, labels, signal);
  }

  /** Where content came from; what is there already keeps what it says. */
  get #source(): Labels {
    const { host, repository } = this.#name;
    return { [`containerd.io/distribution.source.${host}`]: repository };
  }

  /** One on the other, the lowest first. @returns how many are lazy */
  async #layers(): Promise<number> {
    const lazy: Promise<boolean>[] = [];
    for (const [index, descriptor] of this.image.manifest.layers.entries()) {
      await this.#layer(index, descriptor);
      const told = this.#isLazy(index, descriptor);
      told.catch(() => {}); // told at the end
      lazy.push(told);
    }
    return (await Promise.all(lazy)).filter(Boolean).length;
  }

  /** @throws FAILED_PRECONDITION where the snapshot that has the layer's name is served lazily from another blob: nothing says that it is the same */
  async #isLazy(index: number, { digest, annotations }: Descriptor): Promise<boolean> {
    const labels = await this.containerd.snapshotLabels(this.#chainIds[index], this.options.signal);
    if (!Object.hasOwn(labels, label.remote)) return false;
    if (isOfBlob(labels, { digest, tocDigest: annotationTocDigest(annotations) })) return true;
    const there = sourceOf(labels);
    const whose = 'reason' in there ? '' : `, of another image (${there.reference}, blob ${there.digest})`;
    throw new LazylayerError(
      'FAILED_PRECONDITION',
      `layer ${digest}: containerd has its diffID already${whose}: remove that image first`,
    );
  }

  async #layer(index: number, descriptor: Descriptor): Promise<void> {
    const { containerd, image, request } = this;
    const { signal } = this.options;
    const name = this.#chainIds[index];
    const key = `extract-${randomBytes(6).toString('hex')} ${name}`;
    const labels = {
      ...labelsOf({
        reference: image.reference,
        digest: descriptor.digest,
        manifest: request.platform === undefined ? undefined : image.digest,
        tocDigest: annotationTocDigest(descriptor.annotations),
      }),
      [label.ref]: name,
    };
    const mounts = await containerd.prepare(key, this.#chainIds[index - 1] ?? '', labels, signal);
    if (mounts === undefined) return;
    try {
      const { [label.reason]: reason = 'it is not served lazily' } = await containerd.snapshotLabels(key, signal);
      await this.#download(descriptor, reason);
      const applied = await containerd.apply(descriptor, mounts, signal);
      const diffId = image.config.rootfs.diff_ids[index];
      if (applied !== diffId) throw new VerificationError(`layer ${descriptor.digest}, unpacked`, diffId, `${applied}`);
      await containerd.label(descriptor.digest, { 'containerd.io/uncompressed': diffId }, signal);
    } catch (error) {
      await containerd.discard(key);
      throw error;
    }
    await containerd.commit(name, key, labels, signal);
  }

  async #download(descriptor: Descriptor, reason: string): Promise<void> {
    const { workspace, onProgress, signal } = this.options;
    const { digest, size } = descriptor;
    await using blob = workspace.registry.openBlob(this.#name, descriptor);
    const read = async function* (from: number) {
      let bytes = from;
      const tell = () => onProgress({ kind: 'download', layer: digest, reason, bytes, total: size });
      tell();
      if (from >= size) return;
      for await (const piece of blob.stream(from, size - from, { signal })) {
        yield piece;
        bytes += piece.byteLength;
        tell();
      }
    };
    await this.containerd.put(descriptor, read, this.#source, signal);
  }
}

function chainIdsOf(diffIds: readonly Digest[]): Digest[] {
  const ids: Digest[] = [];
  for (const diffId of diffIds) {
    const below = ids.at(-1);
    ids.push(below === undefined ? diffId : digestOf(Buffer.from(`${below} ${diffId}`)));
  }
  return ids;
}
