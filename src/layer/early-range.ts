import { LazylayerError } from '../errors.js';
import type { RandomAccessReader, ReadOptions } from '../io/reader.js';

/**
 * Bytes [start, end) of a blob, on their way before anybody can use them: while the layer's tree is made. At most `room` of them are kept in
 * memory until somebody takes over, then the rest is passed on as it comes. Nothing of it is verified.
 */
export class EarlyRange implements AsyncDisposable {
  readonly #leaving = new AbortController();
  readonly #coming: AsyncIterator<Uint8Array>;
  readonly #filling: Promise<void>;
  #pieces: Uint8Array[] = [];
  #taken = false;
  #ended = false;
  #over = false;
  /** Bytes that have come. */
  received = 0;

  /** Owns the reader. `onCame` hears of bytes as they come, `onFreed` when nothing is kept in memory any more. */
  constructor(
    private readonly reader: RandomAccessReader,
    readonly start: number,
    readonly end: number,
    readonly room: number,
    private readonly onCame: (bytes: number) => void,
    private readonly onFreed: () => void,
  ) {
    const options = { signal: this.#leaving.signal, reason: 'prefetch' } as const;
    this.#coming = reader.stream(start, end - start, options)[Symbol.asyncIterator]();
    this.#filling = this.#fill();
    this.#filling.catch(() => {}); // told to who takes over
  }

  async #fill(): Promise<void> {
    while (!this.#taken && this.received < this.room) {
      const piece = await this.#next();
      if (piece === undefined) return;
      this.#pieces.push(Buffer.from(piece)); // it is valid only until the next one is asked for
    }
  }

  async #next(): Promise<Uint8Array | undefined> {
    const next = await this.#coming.next();
    if (next.done === true) {
      this.#ended = true;
      return undefined;
    }
    this.received += next.value.byteLength;
    this.onCame(next.value.byteLength);
    return next.value;
  }

  /** Bytes [from, to) of it, once. Whoever leaves before the end ends the transfer. */
  async *take(from: number, to: number, signal?: AbortSignal): AsyncGenerator<Uint8Array, void, undefined> {
    const leave = () => this.#leaving.abort(signal?.reason);
    signal?.addEventListener('abort', leave, { once: true });
    try {
      signal?.throwIfAborted();
      this.#taken = true;
      await this.#filling;
      let at = this.start;
      for await (const piece of this.#rest()) {
        const wanted = piece.subarray(Math.max(0, from - at), Math.max(0, to - at));
        at += piece.byteLength;
        if (wanted.byteLength > 0) yield wanted;
        if (at >= to && this.end - at > SKIPPED_BYTES) return; // a short rest is not worth a connection
      }
    } finally {
      signal?.removeEventListener('abort', leave);
      await this[Symbol.asyncDispose]();
    }
  }

  async *#rest(): AsyncGenerator<Uint8Array, void, undefined> {
    for (let piece = this.#pieces.shift(); piece !== undefined; piece = this.#pieces.shift()) yield piece;
    while (!this.#ended) {
      const piece = await this.#next();
      if (piece !== undefined) yield piece;
    }
  }

  /** Ends the transfer, if it is not over. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#over) return;
    this.#over = true;
    this.#taken = true;
    this.#pieces = [];
    this.onFreed();
    if (!this.#ended) this.#leaving.abort(new LazylayerError('ABORTED', 'what was asked for ahead is not used'));
    await this.#filling.catch(() => {});
    await this.#coming.return?.();
    await this.reader[Symbol.asyncDispose]();
  }
}

/** A blob of which a range is on its way: the first stream of a part of that goes on with it. Owns both. */
export class EarlyReader implements RandomAccessReader {
  readonly size: number;
  #early: EarlyRange | undefined;
  readonly #timer: NodeJS.Timeout;

  /** `onDropped` hears of a range that was of no use, with the bytes that came of it. */
  constructor(
    private readonly reader: RandomAccessReader,
    early: EarlyRange,
    private readonly onDropped: (bytes: number) => void,
    unusedMs = UNUSED_MS,
  ) {
    this.size = reader.size;
    this.#timer = setTimeout(() => void this.#drop(), unusedMs).unref();
    this.#early = early;
  }

  read(offset: number, length: number, options?: ReadOptions): Promise<Uint8Array> {
    return this.reader.read(offset, length, options);
  }

  /** Whether the next stream of these bytes would go on with what has come of them before. */
  goesOn(offset: number, length: number): boolean {
    return this.#fits(offset, length) || hasBegun(this.reader, offset, length);
  }

  #fits(offset: number, length: number): boolean {
    return this.#covers(offset, length) && offset <= this.#early!.start + SKIPPED_BYTES;
  }

  #covers(offset: number, length: number): boolean {
    return this.#early !== undefined && offset >= this.#early.start && offset + length <= this.#early.end;
  }

  /** Whether these bytes come with what the next stream of the range's beginning goes on with. */
  comesAlong(offset: number, length: number): boolean {
    if (this.#fits(offset, length)) return false;
    return this.#covers(offset, length) || comesAlong(this.reader, offset, length);
  }

  stream(offset: number, length: number, options?: ReadOptions): AsyncIterable<Uint8Array> {
    const early = this.#early;
    if (early !== undefined && this.#fits(offset, length)) {
      this.#early = undefined;
      return early.take(offset, offset + length, options?.signal);
    }
    if (early !== undefined && offset < early.end && offset + length > early.start) void this.#drop();
    return this.reader.stream(offset, length, options);
  }

  async #drop(): Promise<void> {
    const early = this.#early;
    if (early === undefined) return;
    this.#early = undefined;
    await early[Symbol.asyncDispose]();
    this.onDropped(early.received);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearTimeout(this.#timer);
    await this.#drop();
    await this.reader[Symbol.asyncDispose]();
  }
}

/** Whether bytes of a blob are on their way by a request for their beginning that nobody has taken over yet. */
export function hasBegun(reader: RandomAccessReader, offset: number, length: number): boolean {
  return reader instanceof EarlyReader && reader.goesOn(offset, length);
}

/** Whether bytes of a blob are on their way behind others, by a request that nobody has taken over yet. */
export function comesAlong(reader: RandomAccessReader, offset: number, length: number): boolean {
  return reader instanceof EarlyReader && reader.comesAlong(offset, length);
}

/** How long it is kept for a stream that wants it, in milliseconds. */
const UNUSED_MS = 10_000;
/** Bytes that a stream may leave out at the beginning: headers of the archive, which belong to no file. */
const SKIPPED_BYTES = 64 * 1024;
