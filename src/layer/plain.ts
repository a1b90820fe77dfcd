import { open, rm, type FileHandle } from 'node:fs/promises';
import type { ChunkCache } from '../cache/chunk-cache.js';
import type { Digest } from '../digest/digest.js';
import { verifiedStream } from '../digest/verify.js';
import { codeOf } from '../errors.js';
import { treeFromTar } from '../tar/tree.js';
import type { Tree } from '../toc/tree.js';
import { decompressed } from './decompress.js';
import type { LayerSource, Progress } from './source.js';

/** A downloaded layer: its tree, and the uncompressed tar that is to be its cache file. */
export interface PlainLayer {
  readonly tree: Tree;
  readonly path: string;
  /** Bytes of the blob that came. */
  readonly bytes: number;
}

/**
 * Downloads a whole blob by one request, verifies its digest and that of the tar in it (the diffID), and lays the tar in a scratch
 * file of the cache. On an error nothing is left.
 * @throws VerificationError, FormatError, what the reader throws; RESOURCE_EXHAUSTED when the disk is full
 */
export async function downloadPlain(
  source: LayerSource & { readonly diffId: Digest },
  cache: ChunkCache,
  reason: string,
  options: { signal?: AbortSignal; onProgress?: (progress: Progress) => void },
): Promise<PlainLayer> {
  const { descriptor, diffId } = source;
  const path = cache.scratchPath();
  const file = await open(path, 'wx');
  try {
    let bytes = 0;
    await using reader = source.reader();
    const counted = async function* () {
      for await (const piece of reader.stream(0, descriptor.size, { signal: options.signal, reason: 'whole' })) {
        options.signal?.throwIfAborted();
        bytes += piece.byteLength;
        yield piece;
        options.onProgress?.({ bytes, total: descriptor.size, reason });
      }
    };
    const blob = verifiedStream(counted(), descriptor, `layer ${descriptor.digest}`);
    const tar = verifiedStream(decompressed(blob), { digest: diffId }, `layer ${descriptor.digest}, uncompressed`);
    const tree = await treeFromTar(kept(tar, file, cache), { diffId });
    await file.close();
    return { tree, path, bytes };
  } catch (error) {
    await file.close().catch(() => {});
    await rm(path, { force: true });
    throw error;
  }
}

/** Passes bytes on after they were written to the file. */
async function* kept(source: AsyncIterable<Uint8Array>, file: FileHandle, cache: ChunkCache) {
  let place = 0;
  for await (const piece of source) {
    for (let done = 0, tried = false; done < piece.byteLength;) {
      try {
        done += (await file.write(piece, done, piece.byteLength - done, place + done)).bytesWritten;
      } catch (error) {
        if (tried || codeOf(error) !== 'RESOURCE_EXHAUSTED' || !(await cache.makeRoom(64 << 20, error))) throw error;
        tried = true;
      }
    }
    place += piece.byteLength;
    yield piece;
  }
}
