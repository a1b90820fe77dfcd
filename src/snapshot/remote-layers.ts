import { describeError, LazylayerError, type ErrorCode } from '../errors.js';
import { PrioritySemaphore } from '../util/semaphore.js';
import type { SnapshotRecord } from './metastore.js';
import type { Labels, Usage } from './snapshotter.js';

/** Permission bits and owner of a tree's root directory. */
export interface RootAttributes {
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
}

/** A layer that is served as a directory without having been unpacked, or is about to be. */
export interface PreparedLayer {
  /** Resolves once its tree is shown. What it is made of is verified already, and no other request is needed. */
  readonly shown: Promise<void>;
  /** JSON from which `restore` brings the layer back in a later process. */
  readonly record: unknown;
}

/** A layer that an earlier process had prepared. */
export interface RestoredLayer {
  /** The disk has what it needs: the registry is not asked. */
  readonly isLocal: boolean;
  /** Resolves once its tree is shown. */
  readonly shown: Promise<void>;
}

/** Why a layer cannot be lazy. */
export interface Refusal {
  /** A few words for people. */
  readonly reason: string;
  /** Absent where nothing failed: the client's labels do not tell of a layer. */
  readonly code?: ErrorCode;
}

/**
 * Where lazily served layers come from. Each success of `prepare` (with its `shown`) or `restore` is one reference to the layer, which
 * `release` gives back; the end of the process gives back all.
 */
export interface RemoteLayers {
  /** Why these layers cannot be lower directories of id-mapped overlays; undefined where they can. */
  readonly idmapRefusal: string | undefined;
  /** Makes the layer that the labels describe available, or says in a few words why it cannot be lazy. */
  prepare(labels: Labels, signal?: AbortSignal): Promise<PreparedLayer | Refusal>;
  /** Whether what the labels ask for is the layer of a record. */
  isOf(labels: Labels, record: unknown): boolean;
  /** Brings a layer back. */
  restore(record: unknown): RestoredLayer;
  /**
   * Absolute path of the tree of a layer that is shown, for an overlay that is mounted next: another time it may be another. `together`: all of
   * the overlay's must be on one mount.
   */
  lower(record: unknown, together: boolean): Promise<string>;
  /** A container is about to be started whose topmost layer this is. */
  starting(record: unknown): void;
  /** Bytes on disk that a layer takes by being known; 0 while that cannot be told. */
  usage(record: unknown): Usage;
  /** Of the tree's root directory: a snapshotter may live in the process that serves the tree, and must not ask the kernel for it. */
  root(record: unknown): Promise<RootAttributes>;
  /** @throws where the layer is neither reachable nor cached */
  check(record: unknown, signal?: AbortSignal): Promise<void>;
  release(record: unknown): Promise<void>;
}

/** Layers brought back at the same time. */
const restoredAtOnce = 16;

/** The lazily served layers of the snapshots that are known, by snapshot id. */
export class LayersInUse {
  readonly #remote: RemoteLayers | undefined;
  /** Those that are shown, or the work that brings them back. */
  readonly #shown = new Map<number, Promise<void>>();
  /** Why those that are not in `#shown` are not. */
  readonly #lost = new Map<number, string>();

  constructor(remote: RemoteLayers | undefined) {
    this.#remote = remote;
  }

  add(id: number, shown: Promise<void>): void {
    this.#shown.set(id, shown);
    shown.then(
      () => this.#lost.delete(id),
      (error: unknown) => {
        if (this.#shown.get(id) !== shown) return; // the snapshot was removed meanwhile
        this.#shown.delete(id);
        this.#lost.set(id, describeError(error));
      },
    );
  }

  /**
   * Brings back the layers of all these snapshots; one that fails is told and marked, and stops no other. What the disk lacks, since a process
   * ended before it was there, is not waited for.
   */
  async restoreAll(
    records: readonly SnapshotRecord[],
    onFailure: (record: SnapshotRecord, error: unknown) => void,
  ): Promise<void> {
    const slots = new PrioritySemaphore(restoredAtOnce, { priorities: 1 });
    await Promise.all(
      records.map(async (record) => {
        const release = await slots.acquire(0);
        try {
          const { isLocal } = this.#restore(record);
          const restored = this.shown(record).catch((error: unknown) => onFailure(record, error));
          if (isLocal) await restored;
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

  /** The tree of a remote snapshot that is shown. */
  lower({ name, remote }: SnapshotRecord, together: boolean): Promise<string> {
    return this.#remoteFor(name).lower(remote!.record, together);
  }

  /** Resolves once the tree of a remote snapshot is shown; one that could not be restored before is tried again. @throws UNAVAILABLE */
  async shown(snapshot: SnapshotRecord): Promise<void> {
    try {
      await (this.#shown.get(snapshot.id) ?? this.#restore(snapshot).shown);
    } catch (cause) {
      throw new LazylayerError(
        'UNAVAILABLE',
        `the lazy layer of snapshot ${snapshot.name} cannot be served: if trying again does not help, remove its image and pull it anew`,
        { cause },
      );
    }
  }

  #restore({ id, name, remote }: SnapshotRecord): RestoredLayer {
    let restored: RestoredLayer;
    try {
      restored = this.#remoteFor(name).restore(remote!.record);
    } catch (error) {
      restored = { isLocal: true, shown: Promise.reject(error) };
    }
    this.add(id, restored.shown);
    return restored;
  }

  /** A container is about to be started over these snapshots, nearest first. */
  starting([top]: readonly SnapshotRecord[]): void {
    if (top?.remote !== undefined) this.#remote?.starting(top.remote.record);
  }

  /** What the layer of a remote snapshot takes on disk. */
  usage({ remote }: SnapshotRecord): Usage {
    return this.#remote?.usage(remote!.record) ?? { size: 0, inodes: 0 };
  }

  /** Of the tree of a remote snapshot. @throws what opening its layer throws */
  root({ name, remote }: SnapshotRecord): Promise<RootAttributes> {
    return this.#remoteFor(name).root(remote!.record);
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
    const shown = this.#shown.get(id);
    this.#shown.delete(id);
    this.#lost.delete(id);
    const held = await shown?.then(
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
