import type { LayerView, SleepingLayer } from '../fs/layer-nodes.js';
import type { References } from '../fs/served-tree.js';
import type { Negotiated } from './codec.js';
import type { ReadRing } from './read-ring.js';

/** Where bytes come from that are not in the cache. */
export interface FuseHost {
  /**
   * Exactly `length` bytes of a layer's file, all of them within it. Runs on the main thread. What it throws becomes the reader's
   * errno; the next read asks again. The signal says that nobody waits any more.
   */
  read(slot: number, inode: number, offset: number, length: number, signal: AbortSignal): Promise<Uint8Array>;
  /**
   * A name was looked up that the store view does not have: a reference (base64) in the root, or a layer in a reference's
   * directory. Once this resolves it is looked up again, so what it adds with `setReferences` is found; what is still missing is
   * ENOENT. What it throws becomes the errno. Without it, unknown names are ENOENT at once.
   */
  resolve?(path: readonly string[], signal: AbortSignal): Promise<void>;
  /**
   * Something of a layer that sleeps was asked for. Once this resolves the request is looked at again, so the layer must be attached
   * by then. What it throws becomes the errno; the next request asks again. Without it, layers may not sleep.
   */
  wake?(slot: number, signal: AbortSignal): Promise<void>;
  /** Hears of every failed read, with what was to be read, and of trouble of the session itself. */
  onError?(error: unknown, read?: { slot: number; inode: number; offset: number; size: number }): void;
}

export interface ServeOptions {
  /** Where the `pool` symlink leads. */
  readonly pool?: string;
  /** Layers that are there from the first request on. */
  readonly layers?: readonly LayerView[];
  /** Layers that are known from the first request on, and that `wake` brings. */
  readonly asleep?: readonly SleepingLayer[];
  readonly references?: References;
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
  setReferences(references: References): Promise<void>;
  /** Has each READ that the cache answers put in a ring, or none any more. Resolves once the ring before is let go of. */
  trace(ring: ReadRing | undefined): Promise<void>;
  /** Resolves when nothing is served any more: unmounted from outside, connection aborted, or disposed. */
  readonly ended: Promise<void>;
  /** Of the kernel backend. */
  readonly negotiated: Negotiated | undefined;
  readonly stats: FuseStats;
}
