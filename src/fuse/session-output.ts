import type { Negotiated } from './codec.js';

/** A request that is answered later. */
export interface DeferredRequest {
  /** The request's unique as the kernel sent it: low and high word. */
  readonly uniqueLow: number;
  readonly uniqueHigh: number;
  /** Thread that waits for the reply, or 0 where the kernel reads ahead on nobody's behalf. */
  readonly pid: number;
}

/** A READ whose bytes are not all in the cache: the main thread replies to it. */
export interface DeferredRead extends DeferredRequest {
  readonly slot: number;
  readonly inode: number;
  readonly offset: number;
  /** Bytes, all of them within the file. */
  readonly size: number;
  /** Of a file above the layers: names from the root on. */
  readonly path?: readonly string[];
}

/** Whoever has containers of a layer says that it begins or ends to use it. The session replies ENOENT once it is told to look again. */
export interface DeferredUse extends DeferredRequest {
  readonly change: 'use' | 'release';
  /** Names of the layer's directory from the root on. */
  readonly path: readonly string[];
}

/** A LOOKUP of a name that the main thread may yet make: the session replies once it is told to look again. */
export interface DeferredLookup extends DeferredRequest {
  /** Names from the root on, in latin1. */
  readonly path: readonly string[];
}

/** Any request that needs a layer which sleeps: the session replies once it is told to look again. */
export interface DeferredWake extends DeferredRequest {
  readonly slot: number;
}

/** What a session says: replies to the kernel, and to the main thread what it cannot answer by itself. */
export interface SessionOutput {
  /** One whole reply: bytes `[0, length)`, valid until the call returns. */
  write(bytes: Uint8Array, length: number): void;
  deferRead(read: DeferredRead): void;
  /** Wants `lookAgain` in return. */
  deferLookup(lookup: DeferredLookup): void;
  /** Wants `lookAgain` in return. */
  deferUse(use: DeferredUse): void;
  /** Wants `lookAgain` in return. */
  deferWake(wake: DeferredWake): void;
  /** A signal came for the thread that waits for this request. */
  interrupt(uniqueLow: number, uniqueHigh: number): void;
  negotiated(negotiated: Negotiated): void;
}
