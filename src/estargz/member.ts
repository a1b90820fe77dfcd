import { createInflateRaw, constants, type InflateRaw } from 'node:zlib';
import { FormatError } from '../errors.js';

const FHCRC = 0x02;
const FEXTRA = 0x04;
const FNAME = 0x08;
const FCOMMENT = 0x10;
const RESERVED = 0xe0;

const what = 'gzip member';

/**
 * Length of the gzip header (RFC 1952, 2.3) at `at`:
 *
 *    0  2  1f 8b        2  1  method, 8 for deflate    3  1  flags
 *    4  4  mtime        8  1  xfl                      9  1  os
 *   10     FEXTRA: u16 LE and so many bytes; FNAME, FCOMMENT: bytes up to a NUL; FHCRC: u16
 *
 * @throws FormatError
 */
export function gzipHeaderBytes(bytes: Uint8Array, at = 0): number {
  const end = bytes.byteLength;
  if (at + 10 > end) truncated(at, 'a gzip header of at least 10 bytes', end - at);
  if (bytes[at] !== 0x1f || bytes[at + 1] !== 0x8b || bytes[at + 2] !== 8)
    throw new FormatError(what, {
      offset: at,
      expected: '1f 8b 08',
      found: Buffer.from(bytes.subarray(at, at + 3)).toString('hex'),
    });
  const flags = bytes[at + 3];
  if ((flags & RESERVED) !== 0)
    throw new FormatError(what, { offset: at + 3, expected: 'flags below 0x20', found: `0x${flags.toString(16)}` });
  let p = at + 10;
  if ((flags & FEXTRA) !== 0) p += 2 + (bytes[p] | (bytes[p + 1] << 8));
  for (const field of [FNAME, FCOMMENT]) {
    if ((flags & field) === 0) continue;
    const nul = bytes.indexOf(0, p);
    if (nul < 0) truncated(p, 'a text that ends with NUL', end - p);
    p = nul + 1;
  }
  if ((flags & FHCRC) !== 0) p += 2;
  if (!(p <= end)) truncated(at, 'a whole gzip header', end - at);
  return p - at;
}

function truncated(offset: number, expected: string, found: number): never {
  throw new FormatError(what, { offset, expected, found: `${found} bytes` });
}

/** What of node:zlib's binding is used: one synchronous call into inflate(), and inflateReset(). Unchanged from Node 12 to 24. */
interface InflateHandle {
  writeSync(
    flush: number,
    input: Uint8Array,
    inputOffset: number,
    inputLength: number,
    output: Uint8Array,
    outputOffset: number,
    outputLength: number,
  ): void;
  reset(): void;
  onerror: (message: string, errno: number, code: string) => void;
}

/**
 * One inflate state for a thread's life. The public calls set up a state of some 40 KiB, a stream object and an output buffer for
 * each member; this sets up nothing and inflates to where the bytes shall be. It reaches for the stream's `_handle` and
 * `_writeState` ([output left, input left] after a call), here and nowhere else.
 */
class Inflater {
  readonly #stream = createInflateRaw() as InflateRaw & { _handle: InflateHandle; _writeState: Uint32Array };
  readonly #handle = this.#stream._handle;
  readonly #state = this.#stream._writeState;
  #error: string | undefined;

  constructor() {
    this.#handle.onerror = (message) => (this.#error = message);
  }

  reset(): void {
    this.#error = undefined;
    this.#handle.reset();
  }

  /** Inflates on, until output or input ends or the deflate stream does. See `inputLeft`, `outputLeft`. */
  run(input: Uint8Array, inputOffset: number, output: Uint8Array, outputOffset: number, outputLength: number): void {
    const inputLength = input.byteLength - inputOffset;
    this.#handle.writeSync(constants.Z_SYNC_FLUSH, input, inputOffset, inputLength, output, outputOffset, outputLength);
    if (this.#error !== undefined)
      throw new FormatError(what, { expected: 'a deflate stream', found: `"${this.#error}"` });
  }

  get outputLeft(): number {
    return this.#state[0];
  }

  get inputLeft(): number {
    return this.#state[1];
  }
}

let inflater: Inflater | undefined;
/** Counts who took the state, from a member's beginning: only the last one goes on from where it stands. */
let turns = 0;
let skipped: Uint8Array | undefined;
const SKIP_BYTES = 64 * 1024;

/**
 * Reads the data of `member`, one gzip member or several after each other: by one pass for reads in ascending order, however many they
 * are. A read of what lies before the last one begins anew, and so does the next one after somebody else inflated in this thread, which has
 * one state for all. What is left of the member is not looked at, nor is its checksum: the caller holds the bytes against a digest. Nothing else is
 * allocated.
 */
export class MemberReader {
  /** Place in the member that the state has come to, and in its data. */
  #at = 0;
  #place = 0;
  /** The one of `turns` that is its own; -1 for none. */
  #turn = -1;
  #failed: { readonly end: number; readonly error: unknown } | undefined;

  constructor(private readonly member: Uint8Array) {}

  /**
   * Inflates exactly `size` bytes, those that follow the first `innerOffset` of the data, into `out` from `outOffset`.
   * @throws FormatError where the data is no gzip, corrupt, or ends early: then at once for whatever ends there, or behind
   */
  read(innerOffset: number, size: number, out: Uint8Array, outOffset: number): void {
    if (outOffset + size > out.byteLength) throw new RangeError(`${size} bytes at ${outOffset} of ${out.byteLength}`);
    const end = innerOffset + size;
    if (this.#failed !== undefined && end >= this.#failed.end) throw this.#failed.error;
    try {
      const state = this.#stateAt(innerOffset);
      while (this.#place < innerOffset) {
        skipped ??= new Uint8Array(SKIP_BYTES);
        this.#fill(state, skipped, 0, Math.min(innerOffset - this.#place, SKIP_BYTES));
      }
      if (size > 0) this.#fill(state, out, outOffset, size);
    } catch (error) {
      this.#turn = -1;
      this.#failed = { end, error };
      throw error;
    }
  }

  /** The thread's state, not beyond a place in the data. */
  #stateAt(place: number): Inflater {
    const state = (inflater ??= new Inflater());
    if (this.#turn === turns && place >= this.#place) return state;
    this.#at = gzipHeaderBytes(this.member);
    this.#place = 0;
    state.reset();
    this.#turn = ++turns;
    return state;
  }

  /** Fills `out[from, from + length)`, going on to the next member where one ends. */
  #fill(state: Inflater, out: Uint8Array, from: number, length: number): void {
    const { member } = this;
    const end = from + length;
    for (let at = from; ;) {
      state.run(member, this.#at, out, at, end - at);
      at = end - state.outputLeft;
      this.#at = member.byteLength - state.inputLeft;
      if (at === end) break;
      // Output is left: either the input is used up, or a deflate stream has ended, with CRC-32 and length (4 bytes each) behind it.
      if (this.#at + 8 >= member.byteLength) truncated(this.#at, `${end - at} more bytes of content`, 0);
      this.#at += 8;
      this.#at += gzipHeaderBytes(member, this.#at);
      state.reset();
    }
    this.#place += length;
  }
}

/**
 * Inflates what there is of a gzip member of which only a beginning has come, as far as `out` takes it. Gives the bytes that it put there.
 * Nothing of it is verified.
 * @throws FormatError where the data is no gzip, or corrupt
 */
export function inflateBeginning(part: Uint8Array, out: Uint8Array): Uint8Array {
  const state = (inflater ??= new Inflater());
  const at = gzipHeaderBytes(part);
  turns++;
  state.reset();
  state.run(part, at, out, 0, out.byteLength);
  return out.subarray(0, out.byteLength - state.outputLeft);
}
