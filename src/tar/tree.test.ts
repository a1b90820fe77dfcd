import test from 'ava';
import { digestOf } from '../digest/digester.js';
import { inPieces } from '../testing/image-bytes.js';
import { seededBytes } from '../testing/image-files.js';
import { inodeAt } from '../testing/image-tree.js';
import { buildTar } from '../testing/image.js';
import { checkTree } from '../toc/check.js';
import { PLAIN_CHUNK_BYTES, treeFromTar } from './tree.js';

test("a plain layer's tar is its own cache file: each chunk lies where the tar has it, with its digest", async (t) => {
  const files = [
    { path: 'big', size: 2 * PLAIN_CHUNK_BYTES + 77, seed: 2 },
    { path: 'small', content: 'small' },
    { path: 'exact', size: PLAIN_CHUNK_BYTES, seed: 3 },
    { path: 'empty' },
    { path: 'replaced', content: 'old' },
    { path: 'replaced', content: 'newer' },
  ];
  const tar = buildTar(files);
  const diffId = digestOf(tar);
  for (const pieceSize of [100_000, tar.length]) {
    const tree = await treeFromTar(inPieces(tar, pieceSize), { diffId });
    checkTree(tree);
    t.is(tree.facts.source, diffId);
    t.is(tree.facts.contentEnd, tar.length);
    t.is(tree.counts.chunks, 3 + 1 + 1 + 1);
    for (let chunk = 0; chunk < tree.counts.chunks; chunk++) {
      const place = tree.chunkCache[chunk];
      t.is(tree.chunkOffset[chunk], place);
      t.is(tree.chunkDigest(chunk), digestOf(tar.subarray(place, place + tree.chunkSize[chunk])));
    }
    const big = inodeAt(tree, 'big');
    const place = tree.cacheOffset(big);
    t.true(tar.subarray(place, place + tree.size[big]).equals(seededBytes(tree.size[big], 2)));
    t.is(tree.size[inodeAt(tree, 'replaced')], 5);
  }
});
