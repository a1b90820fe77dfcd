import { create, type DescMessage, type MessageInitShape } from '@bufbuild/protobuf';
import type { EmptySchema } from '@bufbuild/protobuf/wkt';
import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Digest } from '../digest/digest.js';
import { codeOf, LazylayerError } from '../errors.js';
import { errorOf, GrpcClient, type Method } from './grpc.js';
import { Content, WriteAction, WriteContentRequestSchema, type WriteContentResponse } from './proto/content_pb.js';
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

export type Labels = Readonly<Record<string, string>>;

/** What content is put under. */
export interface ContentDescriptor {
  readonly mediaType: string;
  readonly digest: Digest;
  readonly size: number;
}

/** Bytes from one on. */
type Source = (from: number) => Iterable<Uint8Array> | AsyncIterable<Uint8Array>;

/** How long what was put into containerd is kept for a client that has died before it named it, in milliseconds. */
const LEASE_MS = 24 * 60 * 60 * 1000;
/** How often content is tried again that somebody else is writing, in milliseconds. */
const LOCKED_MS = 200;
/** How long containerd has to take away what is of no use, in milliseconds. It does so by itself some time. */
const CLEANUP_MS = 5_000;

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

  /**
   * Puts what `read` gives under its digest, from the first byte or from where a writer stopped before, unless it is there. containerd
   * holds it against size and digest.
   * @returns false where it is there
   */
  async put(descriptor: ContentDescriptor, read: Source, labels: Labels, signal: AbortSignal): Promise<boolean> {
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

  /** Each message is answered before the next one goes out. */
  async #write({ digest, size }: ContentDescriptor, read: Source, labels: Labels, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    const ref = `lazylayer-${digest}`;
    const stream = this.#client.stream(Content.method.write);
    stream.on('error', () => {}); // told by what waits for an answer
    const leave = () => stream.cancel();
    signal.addEventListener('abort', leave, { once: true });
    const answers = stream[Symbol.asyncIterator]() as AsyncIterator<WriteContentResponse, undefined>;
    const send = async (message: MessageInitShape<typeof WriteContentRequestSchema>) => {
      stream.write(create(WriteContentRequestSchema, message));
      const { value } = await answers.next();
      if (value === undefined)
        throw new LazylayerError('UNAVAILABLE', `containerd ended before content ${digest} was written`);
      return value;
    };
    try {
      const whole = { ref, total: BigInt(size), expected: digest };
      let { offset } = await send({ action: WriteAction.STAT, ...whole });
      for await (const data of read(Number(offset))) {
        await send({ action: WriteAction.WRITE, offset, data });
        offset += BigInt(data.byteLength);
      }
      await send({ action: WriteAction.COMMIT, offset, ...whole, labels });
      stream.end();
    } catch (failure) {
      signal.throwIfAborted();
      const error = errorOf(failure);
      // Of other bytes than these: whoever comes next begins anew.
      if (codeOf(error) === 'FAILED_PRECONDITION') await this.#cleanUp(Content.method.abort, { ref });
      throw error;
    } finally {
      signal.removeEventListener('abort', leave);
      stream.cancel();
    }
  }

  /** Puts labels on content, besides those that it has. @throws NOT_FOUND */
  async label(digest: Digest, labels: Labels, signal: AbortSignal): Promise<void> {
    const updateMask = { paths: Object.keys(labels).map((key) => `labels.${key}`) };
    await this.#client.call(Content.method.update, { info: { digest, labels }, updateMask }, signal);
  }

  /** Labels of a snapshot. @throws NOT_FOUND */
  async snapshotLabels(key: string, signal: AbortSignal): Promise<Labels> {
    const request = { snapshotter: this.#snapshotter, key };
    return (await this.#client.call(Snapshots.method.stat, request, signal)).info?.labels ?? {};
  }

  /**
   * @returns what to mount to write the snapshot; undefined where the one that the labels name is there, or the snapshotter serves it as it is
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
      await this.discard(key);
      if (codeOf(error) !== 'ALREADY_EXISTS') throw error;
    }
  }

  /** Takes a snapshot away that is of no use, if it can. */
  async discard(key: string): Promise<void> {
    await this.#cleanUp(Snapshots.method.remove, { snapshotter: this.#snapshotter, key });
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
    await this.#cleanUp(Leases.method.delete, { id: this.#lease });
    this.#client[Symbol.dispose]();
  }

  async #cleanUp<I extends DescMessage>(
    method: Method<I, typeof EmptySchema>,
    init: MessageInitShape<I>,
  ): Promise<void> {
    await this.#client.call(method, init, AbortSignal.timeout(CLEANUP_MS)).catch(() => {});
  }
}
