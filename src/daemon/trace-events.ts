import type { ReadReason } from '../io/reader.js';
import type { ReadSource } from '../layer/chunk-fetcher.js';
import type { WireError } from './protocol.js';

/*
 * All times are milliseconds since 1970, with fractions; sizes and offsets are bytes. What had not ended at the end of the trace is
 * `underWay`: it is told as it was then, and its end is that of the trace.
 */

/** A READ of the kernel: what programs read, and what the kernel reads ahead for them. What the page cache gives is not seen. */
export interface ReadEvent {
  readonly slot: number;
  readonly inode: number;
  readonly offset: number;
  readonly length: number;
  readonly start: number;
  readonly end: number;
  readonly source: ReadSource;
  /** It was answered with an error. */
  readonly failed?: true;
  readonly underWay?: true;
}

/** A request to a registry, or to where that sent us. */
export interface RequestEvent {
  /** Redacted. */
  readonly url: string;
  /** Digest of the blob that it is for. */
  readonly blob?: string;
  readonly range?: string;
  readonly reason?: ReadReason;
  readonly status?: number;
  readonly start: number;
  /** When the head of the answer was there. */
  readonly firstByte?: number;
  readonly end: number;
  readonly underWay?: true;
  /** Of the answer's body: those that had come. */
  readonly bytes: number;
}

/** A layer of which something was read. */
export interface TracedLayer {
  readonly slot: number;
  readonly digest: string;
  /** Of the blob. */
  readonly bytes: number;
  /** Compressed bytes of all chunks that were read of, without reads that failed. */
  readonly readBytes: number;
}

/** A file of which something was read. */
export interface TracedFile {
  readonly slot: number;
  readonly inode: number;
  /** In its layer: `/usr/bin/env`. */
  readonly path: string;
  readonly bytes: number;
}

/** What was read and asked for from `begin` to `end`; what began later is left out. */
export interface Trace {
  readonly begin: number;
  readonly end: number;
  readonly layers: readonly TracedLayer[];
  /** Files of layers that were still served at the end. */
  readonly files: readonly TracedFile[];
  /** By when they ended. */
  readonly reads: readonly ReadEvent[];
  /** By when they began. */
  readonly requests: readonly RequestEvent[];
  /** Reads and requests that there was no room for: the oldest. */
  readonly dropped: number;
}

/** The body of the request for a trace (JSON), whose end ends it. */
export interface TraceEnd {
  /** The trace is of what was before this moment, which has passed. Default: now. */
  readonly until?: number;
}

/**
 * One line of the answer to a trace (newline-delimited JSON): `begun` at once, and when the body of the request has ended, the others, and
 * `ended` last.
 */
export type TraceLine =
  | { readonly begun: number }
  | { readonly layer: TracedLayer }
  | { readonly file: TracedFile }
  | { readonly read: ReadEvent }
  | { readonly request: RequestEvent }
  | { readonly ended: { readonly time: number; readonly dropped: number } }
  | { readonly error: WireError };
