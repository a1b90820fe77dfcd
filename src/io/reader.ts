import { LazylayerError } from '../errors.js';

/** Why bytes are wanted: somebody reads them, is likely to, nobody asked yet; for the list of files; for all of the layer at once. */
export type ReadReason = 'demand' | 'prefetch' | 'background' | 'toc' | 'whole';

export interface ReadOptions {
  readonly signal?: AbortSignal;
  /** Changes nothing: it is told with the requests that the read makes. */
  readonly reason?: ReadReason;
}

/**
 * Bytes that can be read at any place: a blob in a registry, a file, a buffer, a slice of another reader. Every parser of this
 * project reads through it, so a format is tested on a buffer and served from a registry by the same code.
 */
export interface RandomAccessReader extends AsyncDisposable {
  /** Length of the whole in bytes. */
  readonly size: number;
  /**
   * Exactly `length` bytes from `offset`, in memory the caller owns.
   * @throws INVALID_ARGUMENT where the range leaves [0, size); a short source is an error, never a short result.
   */
  read(offset: number, length: number, options?: ReadOptions): Promise<Uint8Array>;
  /**
   * The same bytes as they arrive, in pieces of any size. Leaving the loop early ends the transfer. A piece is valid only until
   * the next one is asked for.
   */
  stream(offset: number, length: number, options?: ReadOptions): AsyncIterable<Uint8Array>;
}

/** @throws INVALID_ARGUMENT unless [offset, offset + length) lies in [0, size). */
export function checkRange(size: number, offset: number, length: number): void {
  if (
    !Number.isSafeInteger(offset) ||
    !Number.isSafeInteger(length) ||
    offset < 0 ||
    length < 0 ||
    offset + length > size
  )
    throw new LazylayerError(
      'INVALID_ARGUMENT',
      `range: expected one within ${size} bytes, found ${length} bytes from offset ${offset}`,
    );
}

/** The last bytes of something, and where in it they begin. */
export interface BlobEnd {
  readonly start: number;
  readonly bytes: Uint8Array;
}

export interface EndOptions extends ReadOptions {
  /** Hears of the end while it is on its way: after each piece, with how many of its bytes are there. */
  readonly onEnd?: (end: BlobEnd, come: number) => void;
}
