import { create, type MessageInitShape } from '@bufbuild/protobuf';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Digest } from '../digest/digest.js';
import { codeOf, LazylayerError } from '../errors.js';
import { errorOf, GrpcClient } from './grpc.js';
import { Content, WriteAction, WriteContentRequestSchema } from './proto/content_pb.js';
import { Diff } from './proto/diff_pb.js';
import { Images } from './proto/images_pb.js';
import { Leases } from './proto/leases_pb.js';
import type { Mount } from './proto/mount_pb.js';
import { Snapshots } from './proto/snapshots_pb.js';

export interface ContainerdPlace {
  /** Absolute path of containerd's socket. */
  readonly address: string;
  readonly namespace: string;
  /** Under which containerd knows the snapshotter. */
  readonly snapshotter: string;
}

type Labels = Readonly<Record<string, string>>;

/** What content is put under. */
export interface ContentDescriptor {
  readonly mediaType: string;
  readonly digest: Digest;
  readonly size: number;
}

/** How long what was put into containerd is kept for a client that has died before it named it, in milliseconds. */
const LEASE_MS = 24 * 60 * 60 * 1000;
/** How often content is tried again that somebody else is writing, in milliseconds. */
const LOCKED_MS = 200;

/**
 * What it takes to put an image into containerd, by its own API: content, snapshots, names of images. All that is put there is held by a
 * lease until this is disposed: nothing is collected before it has a name.
 */
export class Containerd implements AsyncDisposable {
  readonly #lease = `lazylayer-${randomBytes(8).toString('hex')}`;
  readonly #client: GrpcClient;
  readonly #snapshotter: string;

  private constructor({ address, namespace, snapshotter }: ContainerdPlace) {
    this.#client = new GrpcClient(address, { 'containerd-namespace': namespace, 'containerd-lease': this.#lease });
    this.#snapshotter = snapshotter;
  }

  /** @throws UNAVAILABLE where nobody listens */
  static async open(place: ContainerdPlace, signal: AbortSignal): Promise<Containerd> {
    const containerd = new Containerd(place);
    try {
      const labels = { 'containerd.io/gc.expire': new Date(Date.now() + LEASE_MS).toISOString() };
      await containerd.#client.call(Leases.method.create, { id: containerd.#lease, labels }, signal);
      return containerd;
    } catch (error) {
      await containerd[Symbol.asyncDispose](); // who gave up may have been too late
      if (codeOf(error) !== 'UNAVAILABLE') throw error;
      const what = `containerd at ${place.address}: it does not answer: start it, or name its --address`;
      throw new LazylayerError('UNAVAILABLE', what, { cause: error });
    }
  }

  /** Puts bytes under their digest, and labels on what is there. containerd holds them against the digest. */
  async putContent(descriptor: ContentDescriptor, bytes: Uint8Array, labels: Labels, signal: AbortSignal) {
    if (await this.putStream(descriptor, () => [bytes], labels, signal)) return;
    const info = { digest: descriptor.digest, labels };
    const updateMask = { paths: Object.keys(labels).map((key) => `labels.${key}`) };
    await this.#client.call(Content.method.update, { info, updateMask }, signal);
  }

  /**
   * Puts what `read` gives from a byte on under its digest: from the first, or from where a writer stopped before.
   * @returns false where it is there already
   */
  async putStream(
    descriptor: ContentDescriptor,
    read: (from: number) => Iterable<Uint8Array> | AsyncIterable<Uint8Array>,
    labels: Labels,
    signal: AbortSignal,
  ): Promise<boolean> {
    for (;;)
      try {
        await this.#write(descriptor, read, labels, signal);
        return true;
      } catch (error) {
        signal.throwIfAborted();
        if (codeOf(error) === 'ALREADY_EXISTS') return false;
        if (!(codeOf(error) === 'UNAVAILABLE' && /locked/.test((error as Error).message))) throw error;
        await sleep(LOCKED_MS, undefined, { signal }); // once the other one has done, it is there
      }
  }

  async #write(
    { digest, size }: ContentDescriptor,
    read: (from: number) => Iterable<Uint8Array> | AsyncIterable<Uint8Array>,
    labels: Labels,
    signal: AbortSignal,
  ): Promise<void> {
    const stream = this.#client.duplex(Content.method.write);
    const leave = () => stream.cancel();
    signal.addEventListener('abort', leave, { once: true });
    const failed = once(stream, 'end');
    failed.catch(() => {}); // told where it is waited for
    const send = async (message: MessageInitShape<typeof WriteContentRequestSchema>) => {
      if (!stream.write(create(WriteContentRequestSchema, message)))
        await Promise.race([once(stream, 'drain'), failed]);
    };
    try {
      const ref = `lazylayer-${digest}`;
      const known = once(stream, 'data') as Promise<[{ offset: bigint }]>;
      await send({ action: WriteAction.STAT, ref, total: BigInt(size), expected: digest });
      let [{ offset }] = await known;
      stream.resume(); // what else it answers tells nothing
      let broken: unknown;
      failed.catch((error: unknown) => (broken = error));
      for await (const data of read(Number(offset))) {
        if (broken !== undefined) throw errorOf(broken);
        await send({ action: WriteAction.WRITE, offset, data });
        offset += BigInt(data.byteLength);
      }
      await send({ action: WriteAction.COMMIT, offset, total: BigInt(size), expected: digest, labels });
      stream.end();
      await failed;
    } catch (error) {
      signal.throwIfAborted();
      throw error instanceof LazylayerError ? error : errorOf(error);
    } finally {
      signal.removeEventListener('abort', leave);
      stream.cancel();
    }
  }

  /** Labels of a snapshot. @throws NOT_FOUND */
  async snapshotLabels(key: string, signal: AbortSignal): Promise<Labels> {
    const { info } = await this.#client.call(Snapshots.method.stat, { snapshotter: this.#snapshotter, key }, signal);
    return info?.labels ?? {};
  }

  /**
   * @returns what to mount to write the snapshot; undefined where the snapshotter serves it as it is
   * @throws FAILED_PRECONDITION where containerd does not know the snapshotter
   */
  async prepare(key: string, parent: string, labels: Labels, signal: AbortSignal): Promise<Mount[] | undefined> {
    const request = { snapshotter: this.#snapshotter, key, parent, labels };
    try {
      return (await this.#client.call(Snapshots.method.prepare, request, signal)).mounts;
    } catch (error) {
      if (codeOf(error) === 'ALREADY_EXISTS') return undefined;
      if (!/snapshotter not loaded/.test((error as Error).message)) throw error;
      throw new LazylayerError(
        'FAILED_PRECONDITION',
        `containerd knows no snapshotter ${this.#snapshotter}: name it by --snapshotter; what makes it known is what \`lazylayer config containerd\` prints`,
      );
    }
  }

  /** Unpacks a layer that is in the content store. @returns the digest of its tar */
  async apply(diff: ContentDescriptor, mounts: Mount[], signal: AbortSignal): Promise<string | undefined> {
    const { mediaType, digest, size } = diff;
    const request = { diff: { mediaType, digest, size: BigInt(size) }, mounts };
    return (await this.#client.call(Diff.method.apply, request, signal)).applied?.digest;
  }

  /** A snapshot of that name may be there by now. */
  async commit(name: string, key: string, labels: Labels, signal: AbortSignal): Promise<void> {
    const request = { snapshotter: this.#snapshotter, name, key, labels };
    try {
      await this.#client.call(Snapshots.method.commit, request, signal);
    } catch (error) {
      await this.remove(key).catch(() => {});
      if (codeOf(error) !== 'ALREADY_EXISTS') throw error;
    }
  }

  async remove(key: string): Promise<void> {
    await this.#client.call(Snapshots.method.remove, { snapshotter: this.#snapshotter, key });
  }

  /** Names an image, whatever had the name before. */
  async putImage(name: string, { mediaType, digest, size }: ContentDescriptor, signal: AbortSignal): Promise<void> {
    const image = { name, target: { mediaType, digest, size: BigInt(size) } };
    try {
      await this.#client.call(Images.method.create, { image }, signal);
    } catch (error) {
      if (codeOf(error) !== 'ALREADY_EXISTS') throw error;
      await this.#client.call(Images.method.update, { image, updateMask: { paths: ['target'] } }, signal);
    }
  }

  /** Gives the lease back: what has no name by now is collected some time. */
  async [Symbol.asyncDispose](): Promise<void> {
    try {
      await this.#client.call(Leases.method.delete, { id: this.#lease });
    } catch {
      // It ends by itself.
    } finally {
      this.#client[Symbol.dispose]();
    }
  }
}
