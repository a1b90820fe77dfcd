import { describeError, LazylayerError, type ErrorCode } from '../errors.js';
import { PrioritySemaphore } from '../util/semaphore.js';
import type { RootAttributes, SnapshotRecord } from './metastore.js';
import type { Labels, Usage } from './snapshotter.js';

/** A layer that is served as a directory without having been unpacked. */
export interface PreparedLayer {
  /** Absolute path of its tree. */
  readonly lower: string;
  readonly usage: Usage;
  /** Of the tree's root directory: a snapshotter may live in the process that serves the tree, and must not ask the kernel for it. */
  readonly root: RootAttributes;
  /** JSON from which `restore` brings the layer back in a later process. */
  readonly record: unknown;
}

/** Why a layer cannot be lazy. */
export interface Refusal {
  /** A few words for people. */
  readonly reason: string;
  /** Absent where nothing failed: the client's labels do not tell of a layer. */
  readonly code?: ErrorCode;
}

/**
 * Where lazily served layers come from. Each success of `prepare` or `restore` is one reference to the layer, which `release` gives
 * back; the end of the process gives back all.
 */
export interface RemoteLayers {
  /** Why these layers cannot be lower directories of id-mapped overlays; undefined where they can. */
  readonly idmapRefusal: string | undefined;
  /** Makes the layer that the labels describe available, or says in a few words why it cannot be lazy. */
  prepare(labels: Labels, signal?: AbortSignal): Promise<PreparedLayer | Refusal>;
  /** Brings a layer back without asking the registry. */
  restore(record: unknown): Promise<{ readonly lower: string }>;
  /** @throws where the layer is neither reachable nor cached */
  check(record: unknown, signal?: AbortSignal): Promise<void>;
  release(record: unknown): Promise<void>;
}

/** Layers brought back at the same time. */
const restoredAtOnce = 16;

/** The lazily served layers of the snapshots that are known, by snapshot id. */
export class LayersInUse {
  readonly #remote: RemoteLayers | undefined;
  /** Their trees' paths, or the work that brings them back. */
  readonly #lower = new Map<number, Promise<string>>();
  /** Why those that are not in `#lower` are not. */
  readonly #lost = new Map<number, string>();

  constructor(remote: RemoteLayers | undefined) {
    this.#remote = remote;
  }

  add(id: number, lower: string): void {
    this.#lower.set(id, Promise.resolve(lower));
  }

  /** Brings back the layers of all these snapshots; one that fails is told and marked, and stops no other. */
  async restoreAll(
    records: readonly SnapshotRecord[],
    onFailure: (record: SnapshotRecord, error: unknown) => void,
  ): Promise<void> {
    const slots = new PrioritySemaphore(restoredAtOnce, { priorities: 1 });
    await Promise.all(
      records.map(async (record) => {
        const release = await slots.acquire(0);
        try {
          await this.lower(record);
        } catch (error) {
          onFailure(record, error);
        } finally {
          release();
        }
      }),
    );
  }

  /** Why the snapshot's layer could not be brought back; undefined where it is there. */
  lost(id: number): string | undefined {
    return this.#lost.get(id);
  }

  /** The tree of a remote snapshot; one that could not be restored before is tried again. @throws UNAVAILABLE */
  async lower(snapshot: SnapshotRecord): Promise<string> {
    const known = this.#lower.get(snapshot.id);
    if (known !== undefined) return known;
    const restored = this.#restore(snapshot);
    this.#lower.set(snapshot.id, restored);
    try {
      const lower = await restored;
      this.#lost.delete(snapshot.id);
      return lower;
    } catch (error) {
      // Not where the snapshot was removed meanwhile.
      if (this.#lower.get(snapshot.id) === restored) {
        this.#lower.delete(snapshot.id);
        this.#lost.set(snapshot.id, describeError(error));
      }
      throw error;
    }
  }

  async #restore({ name, remote }: SnapshotRecord): Promise<string> {
    try {
      return (await this.#remoteFor(name).restore(remote!.record)).lower;
    } catch (cause) {
      throw new LazylayerError('UNAVAILABLE', `the lazy layer of snapshot ${name} could not be brought back`, {
        cause,
      });
    }
  }

  /** @throws UNAVAILABLE where the layer of any of these snapshots is neither reachable nor cached */
  async check(snapshots: readonly SnapshotRecord[], signal?: AbortSignal): Promise<void> {
    await Promise.all(
      snapshots.map(async ({ name, remote }) => {
        if (remote === undefined) return;
        try {
          await this.#remoteFor(name).check(remote.record, signal);
        } catch (cause) {
          signal?.throwIfAborted();
          throw new LazylayerError('UNAVAILABLE', `the lazy layer of snapshot ${name} cannot be reached`, { cause });
        }
      }),
    );
  }

  /** Gives the layer of a snapshot back that is no more. */
  async release({ id, name, remote }: Pick<SnapshotRecord, 'id' | 'name' | 'remote'>): Promise<void> {
    const lower = this.#lower.get(id);
    this.#lower.delete(id);
    this.#lost.delete(id);
    const held = await lower?.then(
      () => true,
      () => false,
    );
    if (held === true) await this.#remoteFor(name).release(remote!.record);
  }

  #remoteFor(name: string): RemoteLayers {
    if (this.#remote !== undefined) return this.#remote;
    throw new LazylayerError('FAILED_PRECONDITION', `snapshot ${name} is a lazy layer, and lazy layers are off`);
  }
}
