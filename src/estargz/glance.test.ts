import test from 'ava';
import fc from 'fast-check';
import { BufferReader } from '../io/readers.js';
import { buildLayer } from '../testing/image.js';
import { pathsOf } from '../toc/paths.js';
import { digestsFrom, placeOf } from './glance.js';
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

test('the first digests are those of the first chunks of the blob, each once', async (t) => {
  const opened = await toc();
  const { chunkDigests } = buildTree(opened);
  const digests = digestsFrom(opened.json, 3);
  t.deepEqual(digests[0], Buffer.from(chunkDigests.subarray(0, 32)));
  t.is(new Set(digests.map((digest) => digest.toString())).size, 3);
  const spaced = JSON.stringify(JSON.parse(Buffer.from(opened.json).toString()), null, '\t');
  t.deepEqual(digestsFrom(Buffer.from(spaced), 3), digests);
});

test('what is no TOC has no places and no digests, and nothing else happens', async (t) => {
  const { json } = await toc();
  const text = Buffer.from(json).toString('latin1');
  fc.assert(
    fc.property(fc.nat(text.length), fc.nat(40), fc.string(), (at, length, instead) => {
      const broken = Buffer.from(text.slice(0, at) + instead + text.slice(at + length), 'latin1');
      for (const name of ['.prefetch.landmark', 'etc/passwd']) {
        const place = placeOf(broken, name);
        if (place !== undefined && !(place.end > place.start)) throw new Error(JSON.stringify(place));
      }
      digestsFrom(broken, 4);
    }),
  );
  t.is(placeOf(Buffer.from('"etc/passwd"'), 'etc/passwd'), undefined);
  t.deepEqual(digestsFrom(Buffer.alloc(0), 4), []);
});
