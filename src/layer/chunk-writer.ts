import { hash } from 'node:crypto';
import { writeAll } from '../cache/cached-layer.js';
import type { Presence } from '../cache/presence.js';
import { codeOf, describeError } from '../errors.js';
import { MemberReader } from '../estargz/member.js';
import { endOfMember } from '../toc/members.js';
import type { Tree } from '../toc/tree.js';

/** Where chunks go: what a thread must know of a layer to bring its chunks to the cache. */
export interface ChunkTarget {
  readonly tree: Tree;
  readonly presence: Presence;
  readonly fd: number;
  /** Chunks for which the TOC claims no digest are taken as they come. Only ever for a layer that is not verified at all. */
  readonly trusting: boolean;
}

/** Whole members of consecutive chunks [first, end), as they lie in the blob. */
export interface Batch {
  readonly first: number;
  readonly end: number;
  /** The compressed bytes from blob offset `base`, up to the end of the last chunk's member. */
  readonly input: Uint8Array;
  readonly base: number;
}

export interface BatchResult {
  /** Bytes written to the cache file. */
  written: number;
  /** Uncompressed bytes of chunks that were verified. */
  verified: number;
  /** Chunks whose bytes were not what the TOC claims. */
  readonly failed: { chunk: number; expected: string; found: string }[];
  /** Verified chunks that the disk did not take, with its error. */
  readonly unwritten: { chunk: number; bytes: Uint8Array<ArrayBuffer> }[];
  diskError: { code: string; message: string } | undefined;
}

const ZERO_DIGEST = Buffer.alloc(32);

/**
 * Inflates and verifies chunks and writes them to the cache file, runs of neighbours by one pwrite: the output is laid out as the
 * file is. Sets a chunk's bit after its bytes are in the file. Synchronous; one per thread.
 */
export class ChunkWriter {
  readonly #scratch: Buffer;

  /** @param scratchBytes output that is held before it is written; a larger chunk gets memory of its own for the moment */
  constructor(scratchBytes: number) {
    this.#scratch = Buffer.allocUnsafeSlow(scratchBytes);
  }

  /** Never throws for bad bytes or a full disk: those are in the result. Chunks that are present already are passed over. */
  write(target: ChunkTarget, batch: Batch): BatchResult {
    const result: BatchResult = { written: 0, verified: 0, failed: [], unwritten: [], diskError: undefined };
    const { tree, presence } = target;
    let out = this.#scratch;
    let runFirst = batch.first; // chunks [runFirst, chunk) lie in `out`, from cache place `runPlace`, `filled` bytes in all
    let runPlace = 0;
    let filled = 0;
    const flush = (end: number) => {
      if (filled > 0) this.#flush(target, out, runFirst, end, runPlace, filled, result);
      filled = 0;
      out = this.#scratch;
    };
    for (let chunk = batch.first; chunk < batch.end;) {
      const memberEnd = endOfMember(tree, chunk, batch.end);
      const member = new MemberReader(memberBytes(tree, batch, chunk));
      for (; chunk < memberEnd; chunk++) {
        if (presence.has(chunk)) {
          flush(chunk);
          continue;
        }
        const size = tree.chunkSize[chunk];
        const place = tree.chunkCache[chunk];
        if (filled > 0 && (place < runPlace + filled || place + size - runPlace > out.length)) flush(chunk);
        if (filled === 0) {
          runFirst = chunk;
          runPlace = place;
          if (size > out.length) out = Buffer.allocUnsafeSlow(size);
        }
        const at = place - runPlace;
        const problem = this.#take(target, chunk, member, out, at);
        if (problem !== undefined) {
          flush(chunk);
          result.failed.push({ chunk, ...problem });
          continue;
        }
        if (at > filled) out.fill(0, filled, at);
        filled = at + size;
        result.verified += size;
      }
    }
    flush(batch.end);
    return result;
  }

  /** Brings one chunk's verified bytes from its member to `out[at...]`, or says what is wrong with them. */
  #take(
    target: ChunkTarget,
    chunk: number,
    member: MemberReader,
    out: Buffer,
    at: number,
  ): { expected: string; found: string } | undefined {
    const { tree } = target;
    const size = tree.chunkSize[chunk];
    try {
      member.read(tree.chunkInner[chunk], size, out, at);
    } catch (error) {
      return { expected: `${size} bytes in a gzip member`, found: describeError(error) };
    }
    const found = hash('sha256', out.subarray(at, at + size), 'buffer');
    const digestAt = chunk * 32;
    if (found.compare(tree.chunkDigests, digestAt, digestAt + 32) === 0) return undefined;
    if (target.trusting && ZERO_DIGEST.compare(tree.chunkDigests, digestAt, digestAt + 32) === 0) return undefined;
    return { expected: tree.chunkDigest(chunk), found: `sha256:${found.toString('hex')}` };
  }

  #flush(
    target: ChunkTarget,
    out: Buffer,
    first: number,
    end: number,
    place: number,
    length: number,
    result: BatchResult,
  ): void {
    const { tree, presence } = target;
    try {
      writeAll(target.fd, out.subarray(0, length), place);
      result.written += length;
      for (let chunk = first; chunk < end; chunk++) presence.set(chunk);
    } catch (error) {
      result.diskError ??= { code: codeOf(error), message: describeError(error) };
      for (let chunk = first; chunk < end; chunk++) {
        const at = tree.chunkCache[chunk] - place;
        result.unwritten.push({ chunk, bytes: new Uint8Array(out.subarray(at, at + tree.chunkSize[chunk])) });
      }
    }
  }
}

function memberBytes(tree: Tree, batch: Batch, chunk: number): Uint8Array {
  return batch.input.subarray(tree.chunkOffset[chunk] - batch.base, tree.chunkEnd(chunk) - batch.base);
}
