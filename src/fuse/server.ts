import type { Wanted } from '../ahead/looked-up.js';
import type { LayerView, SleepingLayer } from '../fs/layer-nodes.js';
import type { ReferenceLayer, References } from '../fs/served-tree.js';
import type { Negotiated } from './codec.js';
import type { ReadRing } from './read-ring.js';

/** Where bytes come from that are not in the cache. */
export interface FuseHost {
  /**
   * Exactly `length` bytes of a layer's file, all of them within it. Runs on the main thread. What it throws becomes the reader's
   * errno; the next read asks again. The signal says that nobody waits any more. `pid` is of the thread that waits; 0 where that is not
   * known: to fuse-native, and of a thread outside of the process namespace that the connection was opened in.
   */
  read(
    slot: number,
    inode: number,
    offset: number,
    length: number,
    signal: AbortSignal,
    pid: number,
  ): Promise<Uint8Array>;
  /**
   * A name was looked up that the store view does not have: a reference (base64) in the root, a layer in a reference's directory, or
   * a name in a layer's. Once this resolves it is looked up again, so what it adds with `setReference` is found; what is still
   * missing is ENOENT. What it throws becomes the errno. Without it, unknown names are ENOENT at once, and nothing can be used.
   */
  resolve?(path: readonly string[], signal: AbortSignal): Promise<void>;
  /** Of an additional layer store; of the kernel backend. */
  readonly store?: StoreHost;
  /**
   * Something of a layer that sleeps was asked for. Once this resolves the request is looked at again, so the layer must be attached
   * by then. What it throws becomes the errno; the next request asks again. Without it, layers may not sleep.
   */
  wake?(slot: number, signal: AbortSignal): Promise<void>;
  /** A thread that was not seen of late looks for a file of a layer. Of the kernel backend. */
  newcomer?(slot: number, pid: number): void;
  /**
   * Files of a layer were looked up that are not in the cache, and are likely to be read soon. Without it, nobody notes what is looked
   * up. Of the kernel backend.
   */
  lookedUp?(slot: number, wanted: Wanted): void;
  /** Hears of every failed read, with what was to be read, and of trouble of the session itself. */
  onError?(error: unknown, read?: { slot: number; inode: number; offset: number; size: number }): void;
}

/**
 * What stands behind the files `info` and `blob` and the uses of layers. Paths are names from the root on: reference (base64), digest of
 * the layer, file. What a method throws becomes the errno.
 */
export interface StoreHost {
  /** Exactly `length` bytes of `info` or `blob` of a layer, all of them within the file. */
  read(path: readonly string[], offset: number, length: number, signal: AbortSignal): Promise<Uint8Array>;
  /** Somebody begins to use the layer. Resolves once that is on disk. */
  use(path: readonly string[], request: UseRequest): Promise<void>;
  /** The opposite of one `use`. */
  release(path: readonly string[], request: UseRequest): Promise<void>;
}

/** What tells a request of the kernel from others of its connection. */
export interface UseRequest {
  readonly id: number;
  /** An earlier process may have done what it asks for, but did not answer it. */
  readonly again: boolean;
}

export interface ServeOptions {
  /** Where the `pool` symlink leads. */
  readonly pool?: string;
  /** Layers that are there from the first request on. */
  readonly layers?: readonly LayerView[];
  /** Layers that are known from the first request on, and that `wake` brings. */
  readonly asleep?: readonly SleepingLayer[];
  readonly references?: References;
  /** Do not sleep while requests follow each other closely (see `Alert`); of the kernel backend. */
  readonly stayAwake?: boolean;
}

export interface FuseStats {
  readonly requests: number;
  /** READs that the cache answered. */
  readonly cachedReads: number;
  /** READs that the host was asked for. */
  readonly deferredReads: number;
  /** Those that wait now. */
  readonly waitingReads: number;
}

/** A served mount, whichever backend serves it. */
export interface FuseServer extends AsyncDisposable {
  /** Resolves once the layer can be seen. One that sleeps in the slot is awake again. */
  attach(view: LayerView): Promise<void>;
  /** Shows that there is a layer, and has it woken when it is asked for. Resolves once nothing reads its cache file any more. */
  sleep(layer: SleepingLayer): Promise<void>;
  /** Whether anything in the slot was asked for since this was last called. */
  touched(slot: number): boolean;
  /** Resolves once nothing reads the layer's cache file any more. */
  detach(slot: number): Promise<void>;
  /** What is shown of a reference from now on; undefined takes it away. */
  setReference(reference: string, layers: readonly ReferenceLayer[] | undefined): Promise<void>;
  /** Has each READ that the cache answers put in a ring, or none any more. Resolves once the ring before is let go of. */
  trace(ring: ReadRing | undefined): Promise<void>;
  /**
   * Resolves when nothing is served any more: unmounted from outside, connection aborted, or disposed. Rejects where what answers the kernel
   * died: the connection is there, and this process cannot go on with it.
   */
  readonly ended: Promise<void>;
  /** Of the kernel backend. */
  readonly negotiated: Negotiated | undefined;
  readonly stats: FuseStats;
}
