/** Smallest and largest buffer that is kept for use again, in bytes; sizes are powers of two. */
const MIN_SHIFT = 16;
const MAX_SHIFT = 23;

/**
 * Buffers in shared memory for compressed bytes on their way to the worker: used again instead of left to the collector, which
 * sees external memory late. `inUse` counts what is out, the measure that the bound on memory in flight is tested by.
 */
export class BufferPool {
  readonly #free: SharedArrayBuffer[][] = [];
  #kept = 0;
  inUse = 0;
  peak = 0;

  /** @param keepBytes free bytes that are kept at most */
  constructor(private readonly keepBytes: number) {}

  /** At least `bytes` bytes, of any content. */
  take(bytes: number): SharedArrayBuffer {
    const shift = shiftOf(bytes);
    const free = shift > MAX_SHIFT ? undefined : this.#free[shift]?.pop();
    if (free !== undefined) this.#kept -= free.byteLength;
    const buffer = free ?? new SharedArrayBuffer(shift > MAX_SHIFT ? bytes : 1 << shift);
    this.inUse += buffer.byteLength;
    this.peak = Math.max(this.peak, this.inUse);
    return buffer;
  }

  give(buffer: SharedArrayBuffer): void {
    const bytes = buffer.byteLength;
    this.inUse -= bytes;
    const shift = shiftOf(bytes);
    if (shift > MAX_SHIFT || bytes !== 1 << shift || this.#kept + bytes > this.keepBytes) return;
    this.#kept += bytes;
    (this.#free[shift] ??= []).push(buffer);
  }
}

/** Bits of the smallest power of two that holds so many bytes; more than MAX_SHIFT for all that are too large to be kept. */
function shiftOf(bytes: number): number {
  if (bytes > 1 << MAX_SHIFT) return MAX_SHIFT + 1;
  return Math.max(MIN_SHIFT, bytes <= 1 ? 0 : 32 - Math.clz32(bytes - 1));
}
