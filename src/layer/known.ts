import type { Digest } from '../digest/digest.js';
import type { Layer } from './layer.js';

/** A layer that can be opened whenever it is wanted: what is remembered of one that is not. */
export interface KnownLayer {
  readonly digest: Digest;
  /** Durable; the same each time it is opened. */
  readonly slot: number;
  readonly statistics: {
    /** Of its cache file, once everything is in it. */
    readonly bytes: number;
    /** Inodes. */
    readonly files: number;
  };
  /** Bytes on disk by which it is known, whatever of its content is there. */
  readonly treeBytes: number;
  /** Whoever opens it disposes it once. */
  open(): Promise<Layer>;
  /** Whether the disk seems to have all its content: cheap, and no proof. */
  looksWhole(): Promise<boolean>;
  /** Until the returned function is called, `open` finds on disk what it needs, and asks no registry. */
  keep(): () => void;
}

/** What a layer has cost and given since it was first opened, through all its openings. */
export interface LayerTotals {
  readonly fetchedBytes: number;
  readonly requests: number;
  readonly badChunks: number;
  /** Uncompressed bytes of files that are in the cache, as they were when the layer was last open. */
  readonly presentBytes: number;
  readonly totalBytes: number;
}

export const noTotals: LayerTotals = { fetchedBytes: 0, requests: 0, badChunks: 0, presentBytes: 0, totalBytes: 0 };

/** Counts add up over openings; what is present is as the later one says. */
export function laterTotals(before: LayerTotals, { stats }: Pick<Layer, 'stats'>): LayerTotals {
  return {
    fetchedBytes: before.fetchedBytes + stats.fetchedBytes,
    requests: before.requests + stats.requests,
    badChunks: before.badChunks + stats.badChunks,
    presentBytes: stats.presentBytes,
    totalBytes: stats.totalBytes,
  };
}
