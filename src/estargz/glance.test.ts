import test from 'ava';
import fc from 'fast-check';
import { BufferReader } from '../io/readers.js';
import { buildLayer } from '../testing/image.js';
import { pathsOf } from '../toc/paths.js';
import { digestsFrom, lastOffset, placeOf, TocGlance } from './glance.js';
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
  const far = Buffer.concat([Buffer.alloc(16 * 1024 * 1024, ' '), opened.json]);
  t.is(placeOf(far, 'etc/group'), undefined, 'too far to be looked for');
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

test('a TOC is found in the end of its blob when its beginning has come, with what is there of it', async (t) => {
  const many = Array.from({ length: 600 }, (_, i) => ({ path: `usr/${i}`, size: 50, seed: i }));
  const { bytes } = await buildLayer({ files: [...files, ...many], prefetch: 1 });
  const opened = await openToc(new BufferReader(bytes), { allowNoVerification: true });
  const glance = new TocGlance();
  let longest = 0;
  let last = -1;
  for (let come = 0; come < bytes.byteLength; come += 1000) {
    const found = glance.look(bytes.subarray(0, come));
    if (come < opened.contentEnd) t.is(found, undefined);
    if (found === undefined) continue;
    t.is(found.at, opened.contentEnd);
    t.true(Buffer.from(opened.json).subarray(0, found.json.byteLength).equals(found.json));
    t.true(found.json.byteLength >= longest && lastOffset(found.json) >= last);
    longest = found.json.byteLength;
    last = lastOffset(found.json);
  }
  t.true(longest > opened.json.byteLength / 2);
  t.is(lastOffset(opened.json), buildTree(opened).chunkOffset.at(-1)!);
});

test('an end without a TOC, or with a broken one, shows none, however it comes', (t) => {
  const member = Buffer.from([0x1f, 0x8b, 0x08]);
  fc.assert(
    fc.property(
      fc.array(fc.oneof(fc.constant(member), fc.uint8Array({ maxLength: 3000 })), { maxLength: 12 }),
      (parts) => {
        const glance = new TocGlance();
        for (let n = 0; n <= parts.length; n++)
          if (glance.look(Buffer.concat(parts.slice(0, n))) !== undefined) throw new Error('found');
      },
    ),
  );
  t.is(lastOffset(Buffer.from('"offset": 12')), -1, 'it may go on');
  t.is(lastOffset(Buffer.alloc(0)), -1);
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
