import test from 'ava';
import fc from 'fast-check';
import { BufferReader } from '../io/readers.js';
import { buildLayer } from '../testing/image.js';
import { pathsOf } from '../toc/paths.js';
import { chunksFrom, placeOf } from './glance.js';
import { buildTree, openToc } from './open.js';

const files = ['bin/a', 'etc/group', 'etc/passwd', 'usr/b'].map((path, i) => ({ path, size: 1000 * (i + 1) }));

async function toc() {
  const { bytes } = await buildLayer({ files, prefetch: 1 });
  return openToc(new BufferReader(bytes), { allowNoVerification: true });
}

test('a file is where the tree says, a landmark where what it marks ends', async (t) => {
  const opened = await toc();
  const tree = buildTree(opened);
  const paths = pathsOf(tree, new Set(Array.from({ length: tree.counts.inodes }, (_, i) => i)));
  for (const [inode, path] of paths) {
    if (!tree.isRegular(inode) || path === '/usr/b') continue;
    const place = placeOf(opened.json, path.slice(1));
    t.is(place?.start, tree.chunkOffset[tree.first[inode]], path);
  }
  const landmark = placeOf(opened.json, '.prefetch.landmark')!;
  t.is(landmark.start, tree.facts.prefetchBytes!);
  t.is(landmark.end, placeOf(opened.json, 'etc/group')!.start);
  t.is(placeOf(opened.json, 'usr/b'), undefined, 'nothing follows that would tell its end');
  t.is(placeOf(opened.json, 'etc'), undefined);
  t.is(placeOf(opened.json, 'reg'), undefined, 'a word that is no name');
});

test('the first chunks are the first of the blob', async (t) => {
  const opened = await toc();
  const tree = buildTree(opened);
  const chunks = chunksFrom(opened.json, 3);
  t.deepEqual(
    chunks.filter(({ size }) => size > 1).map(({ offset }) => offset),
    [...tree.chunkOffset.subarray(0, 2)],
  );
});

test('what is no TOC has no places and no chunks, and nothing else happens', async (t) => {
  const { json } = await toc();
  const text = Buffer.from(json).toString('latin1');
  fc.assert(
    fc.property(fc.nat(text.length), fc.nat(40), fc.string(), (at, length, instead) => {
      const broken = Buffer.from(text.slice(0, at) + instead + text.slice(at + length), 'latin1');
      for (const name of ['.prefetch.landmark', 'etc/passwd']) {
        const place = placeOf(broken, name);
        if (place !== undefined && !(place.end > place.start)) throw new Error(JSON.stringify(place));
      }
      chunksFrom(broken, 4);
    }),
  );
  t.is(placeOf(Buffer.from('"etc/passwd"'), 'etc/passwd'), undefined);
  t.deepEqual(chunksFrom(Buffer.alloc(0), 4), []);
});
