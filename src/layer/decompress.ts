import { Decompressor } from '@cloudpss/zstd';
import type { Transform } from 'node:stream';
import * as zlib from 'node:zlib';
import { describeError, FormatError } from '../errors.js';

/** Output pieces, in bytes: fewer turns through the thread pool than the default of 16 KiB. */
const PIECE = 256 * 1024;
/** Input pieces: what the output of one may grow to is held at once. */
const INPUT = 64 * 1024;

/**
 * The bytes of a layer blob, decompressed by what its first bytes say: gzip, zstd, or a tar as it is. Consumes the whole source,
 * also what may lie behind the compressed stream.
 * @throws FormatError for a corrupt stream
 */
export async function* decompressed(source: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array, void, undefined> {
  const pieces = source[Symbol.asyncIterator]();
  try {
    let head: Uint8Array = new Uint8Array(0);
    while (head.byteLength < 4) {
      const next = await pieces.next();
      if (next.done === true) break;
      head = Buffer.concat([head, next.value]);
    }
    const rest = resume(head, pieces);
    const transform = decompressorFor(head);
    if (transform === undefined) yield* rest;
    else yield* through(rest, transform);
  } finally {
    await pieces.return?.(undefined);
  }
}

function decompressorFor(head: Uint8Array): Transform | undefined {
  const [a, b, c, d] = head;
  if (a === 0x1f && b === 0x8b) return zlib.createGunzip({ chunkSize: PIECE });
  // A zstd frame (RFC 8878, 3.1.1), or a skippable one before it (3.1.2).
  const zstd = (a === 0x28 && b === 0xb5) || (a >= 0x50 && a <= 0x5f && b === 0x2a);
  if (zstd && ((c === 0x2f && d === 0xfd) || (c === 0x4d && d === 0x18))) return createZstdDecompressor();
  return undefined;
}

/** Node's own where it has one (22.15 and later), else the package's. */
function createZstdDecompressor(): Transform {
  const own = (zlib as { createZstdDecompress?: (options: { chunkSize: number }) => Transform }).createZstdDecompress;
  return own === undefined ? new Decompressor() : own({ chunkSize: PIECE });
}

async function* resume(head: Uint8Array, rest: AsyncIterator<Uint8Array>): AsyncGenerator<Uint8Array, void, undefined> {
  if (head.byteLength > 0) yield head;
  for (let next = await rest.next(); next.done !== true; next = await rest.next()) yield next.value;
}

async function* through(
  source: AsyncIterable<Uint8Array>,
  transform: Transform,
): AsyncGenerator<Uint8Array, void, undefined> {
  let sourceError: { error: unknown } | undefined;
  const pump = (async () => {
    try {
      // What lies behind the compressed stream is not taken in, but still goes past whoever verifies the source.
      for await (const piece of source)
        for (let at = 0; at < piece.byteLength && !transform.readableEnded; at += INPUT)
          await write(transform, piece.subarray(at, at + INPUT));
      transform.end();
    } catch (error) {
      if (error !== transform.errored) sourceError = { error };
      transform.destroy(error as Error);
    }
  })();
  try {
    for await (const piece of transform as AsyncIterable<Uint8Array>) yield piece;
    await pump;
  } catch (error) {
    if (sourceError !== undefined) throw sourceError.error;
    throw new FormatError(
      'layer blob',
      { expected: 'a sound compressed stream', found: describeError(error) },
      { cause: error },
    );
  } finally {
    transform.destroy();
  }
  if (sourceError !== undefined) throw sourceError.error;
}

/** Resolves when the piece has been taken in, or its end is not wanted, and its memory may be used again. */
function write(transform: Transform, piece: Uint8Array): Promise<void> {
  return new Promise((resolve, reject) => {
    const closed = () =>
      transform.readableEnded ? resolve() : reject(transform.errored ?? new Error('the decompressor has ended'));
    if (transform.destroyed) return closed();
    transform.once('close', closed);
    transform.write(piece, (error) => {
      transform.off('close', closed);
      if (error) reject(error);
      else resolve();
    });
  });
}
