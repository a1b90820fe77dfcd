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
let skipped: Uint8Array | undefined;
const SKIP_BYTES = 64 * 1024;

/**
 * Inflates exactly `size` bytes, those that follow the first `innerOffset` of the data, into `out` from `outOffset`. `member` is
 * one gzip member, or several after each other; what is left of it is not looked at, nor is its checksum: the caller holds
 * the bytes against a digest. Nothing is allocated. Not to be called by two at once in one thread, which, as it is synchronous, nobody
 * can; each thread has a state of its own.
 * @throws FormatError where the data is no gzip, corrupt, or ends early
 */
export function inflateInto(
  member: Uint8Array,
  innerOffset: number,
  size: number,
  out: Uint8Array,
  outOffset: number,
): void {
  if (outOffset + size > out.byteLength) throw new RangeError(`${size} bytes at ${outOffset} of ${out.byteLength}`);
  const state = (inflater ??= new Inflater());
  let at = gzipHeaderBytes(member);
  state.reset();
  for (let skip = innerOffset; skip > 0;) {
    skipped ??= new Uint8Array(SKIP_BYTES);
    const length = Math.min(skip, SKIP_BYTES);
    at = fill(state, member, at, skipped, 0, length);
    skip -= length;
  }
  if (size > 0) fill(state, member, at, out, outOffset, size);
}

/**
 * Inflates what there is of a gzip member of which only a beginning has come, as far as `out` takes it. Gives the bytes that it put there.
 * Nothing of it is verified.
 * @throws FormatError where the data is no gzip, or corrupt
 */
export function inflateBeginning(part: Uint8Array, out: Uint8Array): Uint8Array {
  const state = (inflater ??= new Inflater());
  const at = gzipHeaderBytes(part);
  state.reset();
  state.run(part, at, out, 0, out.byteLength);
  return out.subarray(0, out.byteLength - state.outputLeft);
}

/** Fills `out[from, from + length)`, going on to the next member where one ends. Gives the place in the input after it. */
function fill(state: Inflater, member: Uint8Array, at: number, out: Uint8Array, from: number, length: number): number {
  const end = from + length;
  for (;;) {
    state.run(member, at, out, from, end - from);
    from = end - state.outputLeft;
    at = member.byteLength - state.inputLeft;
    if (from === end) return at;
    // Output is left: either the input is used up, or a deflate stream has ended, with CRC-32 and length (4 bytes each) behind it.
    if (at + 8 >= member.byteLength) truncated(at, `${end - from} more bytes of content`, 0);
    at += 8;
    at += gzipHeaderBytes(member, at);
    state.reset();
  }
}
