import type { Config } from '../config/config.js';
import type { ErrorCode } from '../errors.js';
import type { Negotiated } from '../fuse/codec.js';
import type { MountProgress } from '../mount/request.js';

/** One line of the answer to a request to mount or to pull (newline-delimited JSON): any number of progress lines, then one of the others. */
export type Answer<V> = { readonly progress: MountProgress } | { readonly done: V } | { readonly error: WireError };

export interface WireError {
  readonly code: ErrorCode;
  readonly message: string;
}

/** From the holder to the serving process, once, over IPC; the descriptors come as stdio (see `descriptors`). */
export interface ServeOrder {
  readonly config: Config;
  /** What was negotiated for the FUSE connection, where a process that died served it before. */
  readonly resume?: Negotiated;
  /** Offers containerd's snapshots and metrics where they are configured, and ends only when it is told to. */
  readonly persistent: boolean;
}

/** From the serving process to the holder. */
export type ServeReport =
  /** Of the kernel backend: what was negotiated, for the next process that serves the connection. */
  { readonly kind: 'ready'; readonly negotiated?: Negotiated } | { readonly kind: 'failed'; readonly error: WireError };

/** From the holder to the command that started it. */
export type HolderReport = { readonly kind: 'ready' } | { readonly kind: 'failed'; readonly error: WireError };

/** Descriptors that the serving process is born with, beside stdio and IPC. */
export const descriptors = { ipc: 3, lock: 4, fuse: 5 } as const;
