import { createHash, hash, type Hash } from 'node:crypto';
import type { Digest } from '../digest/digest.js';
import { TreeBuilder } from '../toc/builder.js';
import type { TocChunk } from '../toc/entry.js';
import type { Tree } from '../toc/tree.js';
import { TarReader, type TarEntry } from './reader.js';

/** Plain layers are cut in pieces of this size, in bytes, so that they are verified like any other. */
export const PLAIN_CHUNK_BYTES = 4 * 1024 * 1024;

/**
 * The tree of a plain layer from its uncompressed tar, whose file on disk is to be the layer's cache file: every chunk lies there where
 * the tar has it (`inPlace`). The whole stream is consumed. Whether it is what `diffId` names is for the caller to see, whose stream
 * it is (`verifiedStream`): only then can the tree be believed.
 * @throws FormatError
 */
export async function treeFromTar(source: AsyncIterable<Uint8Array>, options: { diffId: Digest }): Promise<Tree> {
  const builder = new TreeBuilder('tar');
  const reader = new TarReader(source);
  for await (const entry of reader) builder.add({ ...entry, chunks: await chunksOf(reader, entry) });
  return builder.build({ source: options.diffId, contentEnd: reader.position }, { inPlace: true });
}

async function chunksOf(reader: TarReader, entry: TarEntry): Promise<TocChunk[]> {
  const chunks: TocChunk[] = [];
  let running: Hash | undefined;
  let have = 0;
  const add = (digest: Buffer, size: number) => {
    const offset = entry.payloadOffset + chunks.length * PLAIN_CHUNK_BYTES;
    chunks.push({ offset, innerOffset: 0, size, digest });
  };
  for await (const piece of reader.payload()) {
    // A small file mostly lies in one piece: one call, no hash object.
    if (piece.byteLength === entry.size && entry.size <= PLAIN_CHUNK_BYTES)
      add(hash('sha256', piece, 'buffer'), entry.size);
    else
      for (let at = 0; at < piece.byteLength;) {
        const part = piece.subarray(at, at + PLAIN_CHUNK_BYTES - have);
        (running ??= createHash('sha256')).update(part);
        have += part.byteLength;
        at += part.byteLength;
        if (have < PLAIN_CHUNK_BYTES) continue;
        add(running.digest(), have);
        running = undefined;
        have = 0;
      }
  }
  if (running !== undefined) add(running.digest(), have);
  return chunks;
}
