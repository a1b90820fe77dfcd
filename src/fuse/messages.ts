import type { Wanted } from '../ahead/looked-up.js';
import type { ErrorCode } from '../errors.js';
import type { LayerView, SleepingLayer } from '../fs/layer-nodes.js';
import type { ReferenceLayer, References } from '../fs/served-tree.js';
import type { Negotiated } from './codec.js';
import type { DeferredLookup, DeferredRead, DeferredUse, DeferredWake } from './session-output.js';

/** A layer as another thread can have it. */
export interface SharedLayer {
  readonly slot: number;
  readonly tree: SharedArrayBuffer;
  readonly presence: SharedArrayBuffer;
  readonly fd: number;
}

export function shared(view: LayerView): SharedLayer {
  return { slot: view.slot, tree: view.tree.buffer, presence: view.presence.buffer, fd: view.fd };
}

/** Counts since the session began, in memory that threads share. */
export const Count = { requests: 0, cachedReads: 1, deferredReads: 2, size: 3 } as const;

/** What the worker is started with. */
export interface WorkerSetup {
  readonly fd: number;
  /** See `Count`. */
  readonly counts: SharedArrayBuffer;
  /** A byte a slot: see `Session`. */
  readonly touched: SharedArrayBuffer;
  readonly pool: string | undefined;
  /** See `ServedTreeOptions`. */
  readonly resolves: boolean;
  readonly layers: readonly SharedLayer[];
  readonly asleep: readonly SleepingLayer[];
  readonly references: References;
  /** See `ServeOptions`. */
  readonly stayAwake: boolean;
  /** Somebody hears of processes that were not seen of late: see `FuseHost`. */
  readonly tellsOfNewcomers: boolean;
  /** Somebody brings files that are looked up: see `FuseHost`. */
  readonly looks: boolean;
  /** The connection was negotiated by an earlier process. */
  readonly resume: boolean;
}

/** From the main thread to the worker. What has an id is answered by `done`. */
export type ToWorker =
  | { readonly type: 'attach'; readonly id: number; readonly layer: SharedLayer }
  | { readonly type: 'sleep'; readonly id: number; readonly layer: SleepingLayer }
  | { readonly type: 'detach'; readonly id: number; readonly slot: number }
  | {
      readonly type: 'reference';
      readonly id: number;
      readonly reference: string;
      readonly layers: readonly ReferenceLayer[] | undefined;
    }
  /** Without a ring, reads are told of no more. */
  | { readonly type: 'trace'; readonly id: number; readonly ring: SharedArrayBuffer | undefined }
  | { readonly type: 'look-again'; readonly low: number; readonly high: number; readonly errno: number }
  | { readonly type: 'close' };

/** From the worker to the main thread. */
export type ToMain =
  | { readonly type: 'read'; readonly read: DeferredRead }
  | { readonly type: 'lookup'; readonly lookup: DeferredLookup }
  | { readonly type: 'use'; readonly use: DeferredUse }
  | { readonly type: 'wake'; readonly wake: DeferredWake }
  | { readonly type: 'looked-up'; readonly slot: number; readonly wanted: Wanted }
  | { readonly type: 'newcomer'; readonly slot: number; readonly pid: number }
  | { readonly type: 'interrupt'; readonly low: number; readonly high: number }
  | { readonly type: 'negotiated'; readonly negotiated: Negotiated }
  | {
      readonly type: 'done';
      readonly id: number;
      readonly error?: { readonly code: ErrorCode; readonly message: string };
    }
  | { readonly type: 'error'; readonly message: string }
  | { readonly type: 'ended'; readonly error: string | undefined };
