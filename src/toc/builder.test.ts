import test from 'ava';
import fc from 'fast-check';
import { digestOf } from '../digest/digester.js';
import { FormatError } from '../errors.js';
import type { FileSpec } from '../testing/image-files.js';
import { inodeAt, listTree, treeOf } from '../testing/image-tree.js';
import { tarFile } from '../testing/layer-fixture.js';
import { TreeBuilder } from './builder.js';
import { checkTree } from './check.js';
import { MAX_CHUNK_BYTES, MAX_INNER_OFFSET, MAX_MEMBER_CHUNKS, NO_DIGEST, type TocEntry } from './entry.js';
import { CACHE_ALIGN } from './layout.js';
import { decodeDevice, NONE, ROOT, treeBytes, type Tree } from './tree.js';

const latin1 = (text: string) => Buffer.from(text, 'latin1');
const opaqueMarks = (tree: Tree, path: string) =>
  [...tree.xattrsOf(inodeAt(tree, path))].map(({ name, value }) => `${name.toString()}=${value.toString()}`);

test('parents that are missing are made, sorted by bytes, 0755 and root', (t) => {
  const tree = treeOf([{ path: 'b/c/file', content: 'x', uid: 5 }, { path: 'a' }, { path: 'b.d' }]);
  t.deepEqual(listTree(tree), ['a 0100644', 'b 040755', 'b/c 040755', 'b/c/file 0100644', 'b.d 0100644']);
  t.is(tree.uid[inodeAt(tree, 'b')], 0);
  t.is(tree.uid[inodeAt(tree, 'b/c/file')], 5);
  t.is(tree.nlink[ROOT], 3);
  t.is(tree.nlink[inodeAt(tree, 'b')], 3);
  t.is(tree.parent(inodeAt(tree, 'b/c')), inodeAt(tree, 'b'));
});

test('the root takes its attributes from an entry for itself', (t) => {
  t.is(treeOf([]).mode[ROOT], 0o40755);
  const tree = treeOf([{ path: './', mode: 0o1700, uid: 4_294_967_295, gid: 7, mtime: -3, mtimeNsec: 5 }]);
  t.is(tree.mode[ROOT], 0o41700);
  t.deepEqual([tree.uid[ROOT], tree.gid[ROOT], tree.mtime[ROOT], tree.mtimeNsec[ROOT]], [4_294_967_295, 7, -3, 5]);
});

test('of equal names the last one stands, as extraction would leave it', (t) => {
  const tree = treeOf([
    { path: 'f', content: 'first' },
    { path: './f', content: 'second one' },
    { path: 'd/', mode: 0o700 },
    { path: 'd/kept' },
    { path: 'd/', mode: 0o711 },
    { path: 'gone/below/file', content: 'abc' },
    { path: 'gone', target: 'f' },
    { path: 'file-then-dir' },
    { path: 'file-then-dir/' },
  ]);
  t.is(tree.size[inodeAt(tree, 'f')], 10);
  t.is(tree.mode[inodeAt(tree, 'd')], 0o40711);
  t.not(inodeAt(tree, 'd/kept'), NONE);
  t.is(tree.target(inodeAt(tree, 'gone')).toString(), 'f');
  t.is(inodeAt(tree, 'gone/below'), NONE);
  t.is(tree.counts.chunks, 1);
  t.is(tree.counts.inodes, 6);
  t.deepEqual(opaqueMarks(tree, 'file-then-dir'), ['trusted.overlay.opaque=y', 'user.overlay.opaque=y']);
});

test('hardlinks share an inode, and keep it when the first name is replaced', (t) => {
  const tree = treeOf([
    { path: 'a/one', content: 'old' },
    { path: 'two', type: 'hardlink', target: './a//one' },
    { path: 'three', type: 'hardlink', target: '/two' },
    { path: 'a/one', content: 'newer' },
    { path: 'link', target: 'nowhere' },
    { path: 'hard-to-symlink', type: 'hardlink', target: 'link' },
    { path: 'self' },
    { path: 'self', type: 'hardlink', target: 'self' },
  ]);
  t.is(inodeAt(tree, 'two'), inodeAt(tree, 'three'));
  t.is(tree.nlink[inodeAt(tree, 'two')], 2);
  t.is(tree.size[inodeAt(tree, 'two')], 3);
  t.is(tree.nlink[inodeAt(tree, 'a/one')], 1);
  t.is(tree.size[inodeAt(tree, 'a/one')], 5);
  t.is(inodeAt(tree, 'link'), inodeAt(tree, 'hard-to-symlink'));
  t.is(tree.nlink[inodeAt(tree, 'self')], 1);
});

test('whiteouts are devices 0/0; a real entry of the name wins in either order, and a directory then hides what was below', (t) => {
  const tree = treeOf([
    { path: 'd/.wh.gone' },
    { path: '.wh.before' },
    { path: 'before', content: 'x' },
    { path: 'after/' },
    { path: '.wh.after' },
    { path: 'o/.wh..wh..opq' },
    { path: 'o/x' },
    { path: '.wh..wh..opq' },
  ]);
  t.deepEqual(listTree(tree), [
    'after 040755',
    'before 0100644',
    'd 040755',
    'd/gone 020000',
    'o 040755',
    'o/x 0100644',
  ]);
  t.true(tree.isWhiteout(inodeAt(tree, 'd/gone')));
  for (const path of ['', 'o', 'after'])
    t.deepEqual(opaqueMarks(tree, path), ['trusted.overlay.opaque=y', 'user.overlay.opaque=y']);
  t.deepEqual(opaqueMarks(tree, 'd'), []);
});

test('what aufs keeps for itself, landmarks and the TOC are not shown', (t) => {
  const tree = treeOf([
    { path: '.wh..wh.aufs' },
    { path: '.wh..wh.plnk/' },
    { path: '.wh..wh.plnk/12.34', content: 'x' },
    { path: '.wh..wh.orph/' },
    { path: 'early', content: '12345' },
    { path: '.prefetch.landmark', content: '\x0f' },
    { path: 'stargz.index.json', content: '{}' },
    { path: 'sub/.prefetch.landmark', content: '\x0f' },
  ]);
  t.deepEqual(listTree(tree), ['early 0100644', 'sub 040755', 'sub/.prefetch.landmark 0100644']);
  t.is(tree.facts.prefetchBytes, 6); // the plink's byte and the five before the landmark
  const none = treeOf([
    { path: '.no.prefetch.landmark', content: '\x0f' },
    { path: 'a', content: 'a' },
  ]);
  t.is(none.facts.prefetchBytes, 0);
  t.is(treeOf([{ path: 'a', content: 'a' }]).facts.prefetchBytes, undefined);
  const first = treeOf([
    { path: '.prefetch.landmark', content: '\x0f' },
    { path: 'a', content: 'a' },
  ]);
  t.is(first.facts.prefetchBytes, 0);
});

test('devices, fifos, symlinks, names of any bytes and of 255', (t) => {
  const long = 'n'.repeat(255);
  const tree = treeOf([
    { path: 'null', type: 'char', devMajor: 1, devMinor: 3, mode: 0o666 },
    { path: 'disk', type: 'block', devMajor: 4095, devMinor: 1_048_575 },
    { path: 'pipe', type: 'fifo' },
    { path: latin1('\xff\xfe'), content: 'x' },
    { path: long },
    { path: 'link', target: latin1('../\xe9') },
  ]);
  t.deepEqual(decodeDevice(tree.rdev(inodeAt(tree, 'disk'))), { major: 4095, minor: 1_048_575 });
  t.is(tree.rdev(inodeAt(tree, 'null')), 0x103);
  t.is(tree.mode[inodeAt(tree, 'pipe')], 0o10644);
  t.not(inodeAt(tree, '\xff\xfe'), NONE);
  t.not(inodeAt(tree, long), NONE);
  t.deepEqual(tree.target(inodeAt(tree, 'link')), latin1('../\xe9'));
  t.is(tree.size[inodeAt(tree, 'link')], 4);
});

test('equal attribute sets are held once; what overlayfs would obey is not taken from a layer', (t) => {
  const xattrs = { 'user.b': 'two', 'user.a': Buffer.from([0, 1, 255]) };
  const tree = treeOf([
    { path: 'one', xattrs },
    { path: 'two', xattrs },
    { path: 'three', xattrs: { 'trusted.overlay.redirect': '/etc', 'user.overlay.opaque': 'y' } },
  ]);
  t.is(tree.xattr[inodeAt(tree, 'one')], tree.xattr[inodeAt(tree, 'two')]);
  t.deepEqual(
    [...tree.xattrsOf(inodeAt(tree, 'one'))].map((x) => x.name.toString()),
    ['user.a', 'user.b'],
  );
  t.deepEqual(tree.xattrValue(inodeAt(tree, 'one'), Buffer.from('user.a')), Buffer.from([0, 1, 255]));
  t.is(tree.xattr[inodeAt(tree, 'three')], 0);
});

test('a parent that is a symlink leads where it leads inside the layer, never out of it', (t) => {
  const tree = treeOf([
    { path: 'usr/lib/' },
    { path: 'lib', target: 'usr/lib' },
    { path: 'lib/a', content: 'a' },
    { path: 'up', target: '../../../etc' },
    { path: 'up/passwd', content: 'b' },
    { path: 'abs', target: '/usr/./lib' },
    { path: 'abs/sub/c' },
    { path: 'h', type: 'hardlink', target: 'lib/a' },
  ]);
  t.is(inodeAt(tree, 'usr/lib/a'), inodeAt(tree, 'h'));
  t.not(inodeAt(tree, 'etc/passwd'), NONE);
  t.not(inodeAt(tree, 'usr/lib/sub/c'), NONE);
  t.true(tree.isSymlink(inodeAt(tree, 'lib')));
});

const refused: readonly [message: string, files: FileSpec[]][] = [
  [
    'layer, entry "h": expected a hardlink to an earlier entry, found "nowhere", which is none',
    [{ path: 'h', type: 'hardlink', target: 'nowhere' }],
  ],
  [
    'layer, entry "h": expected a hardlink to a file, found the directory "d"',
    [{ path: 'd/' }, { path: 'h', type: 'hardlink', target: 'd' }],
  ],
  ['layer: expected a name without ".." in it, found "../x"', [{ path: '../x' }]],
  [
    'layer, hardlink "h": expected a name without ".." in it, found "../../etc/shadow"',
    [{ path: 'h', type: 'hardlink', target: '../../etc/shadow' }],
  ],
  ['layer: expected a directory as the parent, found "f"', [{ path: 'f' }, { path: 'f/below' }]],
  [
    'layer: expected a directory as the parent, found "a"',
    [{ path: 'a', target: 'b' }, { path: 'b', target: 'a' }, { path: 'a/x' }],
  ],
  ['layer, entry "./": expected a directory as the root, found type reg', [{ path: './', type: 'reg' }]],
  ['layer: expected a whiteout that names a file, found "a/.wh..."', [{ path: 'a/.wh...' }]],
  [
    'layer, entry "n": expected a device number of 12 bits major, 20 bits minor, found 4096:0',
    [{ path: 'n', type: 'char', devMajor: 4096 }],
  ],
  [
    'layer, entry "l": expected a symlink target of 1 to 4095 bytes without NUL, found 0 bytes',
    [{ path: 'l', type: 'symlink' }],
  ],
];
for (const [message, files] of refused)
  test(`refuses: ${message}`, (t) => {
    t.throws(() => treeOf(files), { instanceOf: FormatError, message });
  });

test("a file's bytes lie together in the cache, from an aligned place, in blob order", (t) => {
  const tree = treeOf([
    { path: 'z', size: 10_000 },
    { path: 'a', size: 1 },
    { path: 'empty' },
    { path: 'm', size: 4096 },
  ]);
  t.deepEqual(
    ['z', 'a', 'm'].map((path) => tree.cacheOffset(inodeAt(tree, path))),
    [0, 3 * CACHE_ALIGN, 4 * CACHE_ALIGN],
  );
  t.is(tree.facts.cacheBytes, 5 * CACHE_ALIGN);
  t.deepEqual([...tree.chunkOffset], [0, 4096, 8192, 10_000, 10_001]);
  t.deepEqual(tree.chunksOf(inodeAt(tree, 'z'), 4095, 2), { first: 0, end: 2 });
  t.is(tree.chunkEnd(2), 10_000);
});

test('memory an entry beyond names stays below 150 bytes, for small files and for files of many chunks', (t) => {
  const small: FileSpec[] = [];
  for (let i = 0; i < 3000; i++) {
    if (i % 12 === 0) small.push({ path: `usr/share/doc/package-${i / 12}/` });
    const path = `usr/share/doc/package-${Math.floor(i / 12)}/file-${i}`;
    small.push(i % 10 === 0 ? { path, target: 'file' } : { path, size: 10, xattrs: { 'user.same': 'value' } });
  }
  const many: FileSpec[] = Array.from({ length: 20 }, (_, i) => ({ path: `file-${i}`, size: 200_000 }));
  for (const files of [small, many]) {
    const tree = treeOf(files, 1000);
    const entries = tree.counts.inodes + (tree.counts.chunks - files.filter((file) => (file.size ?? 0) > 0).length);
    const bytes = treeBytes(tree.counts) - tree.counts.stringBytes;
    t.is(treeBytes(tree.counts), tree.buffer.byteLength);
    t.true(bytes / entries <= 150, `${bytes / entries}`);
  }
});

test('whatever the entries, in whatever order: a sound tree or a FormatError, and nothing above the root', (t) => {
  const name = fc
    .array(fc.constantFrom('a', 'b', 'c', '.', '..', '', '.wh.a', '.wh.b', '.wh..wh..opq', '.wh..wh.x'), {
      minLength: 1,
      maxLength: 4,
    })
    .map((parts) => parts.join('/'));
  const file: fc.Arbitrary<FileSpec> = fc.record({
    path: name,
    type: fc.constantFrom('dir', 'reg', 'symlink', 'hardlink', 'char', 'fifo'),
    target: name,
    size: fc.integer({ min: 0, max: 9000 }),
  });
  let built = 0;
  fc.assert(
    fc.property(fc.array(file, { maxLength: 12 }), (files) => {
      let tree: Tree;
      try {
        tree = treeOf(files);
      } catch (error) {
        if (!(error instanceof FormatError)) throw error;
        return;
      }
      built++;
      checkTree(tree);
      for (let dirent = 0; dirent < tree.counts.dirents; dirent++) {
        const shown = tree.name(dirent).toString('latin1');
        t.false(shown === '' || shown === '.' || shown === '..' || shown.includes('/'));
        // A directory of that name can only be a parent that an entry named.
        t.true(!shown.startsWith('.wh.') || tree.isDirectory(tree.direntInode[dirent]));
      }
      const names = new Float64Array(tree.counts.inodes);
      for (const inode of tree.direntInode) names[inode]++;
      for (let inode = 1; inode < tree.counts.inodes; inode++)
        if (!tree.isDirectory(inode)) t.is(tree.nlink[inode], names[inode]);
    }),
    { numRuns: 2000 },
  );
  t.true(built > 100, `${built} trees`);
});

test('directories that names imply are bounded, as they cost more memory than the names', (t) => {
  const builder = new TreeBuilder('layer', 100);
  const deep = (i: number) => ({ ...tarFile(`${i}/a/b/c/d/e/f/g`, 0), chunks: [] });
  for (let i = 0; i < 12; i++) builder.add(deep(i));
  const error = t.throws(() => builder.add(deep(12)), { instanceOf: FormatError });
  t.is(error.message, 'layer: expected at most 100 files and directories, found more');
});

/** A tree of files in one member, the first in one at `offset`: where each begins in it, and its bytes. */
function memberOf(files: readonly (readonly [innerOffset: number, size: number])[], offset = 8): Tree {
  const builder = new TreeBuilder();
  files.forEach(([innerOffset, size], i) =>
    builder.add({
      ...tarFile(`f${i}`, size),
      chunks: [{ offset: i === 0 ? offset : 8, innerOffset, size, digest: NO_DIGEST }],
    }),
  );
  return builder.build({ source: digestOf('toc'), contentEnd: 1000 });
}

test('members are bounded: how far they reach, how many chunks they have, and that these do not overlap', (t) => {
  const most = Array.from({ length: MAX_MEMBER_CHUNKS }, (_, i) => [i, 1] as const);
  t.notThrows(() => checkTree(memberOf(most)));
  const large = memberOf([
    [0, 5],
    [512, 10],
    [MAX_INNER_OFFSET, MAX_CHUNK_BYTES],
  ]);
  t.notThrows(() => checkTree(large));
  const refused: readonly [files: readonly (readonly [number, number])[], message: string][] = [
    [
      [[MAX_INNER_OFFSET + 1, 1]],
      'layer, entry "f0": expected chunks in the first 134217728 bytes of their member, found one at 134217729',
    ],
    [[...most, [MAX_MEMBER_CHUNKS, 1]], 'layer, chunks at offset 8: expected at most 131072 in one member, found more'],
    [
      [
        [10, 5],
        [0, 11],
      ],
      'layer, chunks at offset 8: expected the next at inner offset 11 or later, found 10',
    ],
  ];
  for (const [files, message] of refused) t.throws(() => memberOf(files), { instanceOf: FormatError, message });
  // The same of a tree that was saved before there were such bounds.
  large.chunkInner[2] = MAX_INNER_OFFSET + 1;
  t.throws(() => checkTree(large), {
    message: `tree: expected chunk 2 at 522 to 134217728 of its member, of at most 268435456 bytes, found 268435456 bytes at 134217729`,
  });
  large.chunkInner[2] = 521;
  t.throws(() => checkTree(large), { message: /expected chunk 2 at 522 to/ });
  const many = memberOf([[0, 1], ...most.map(([inner, size]) => [inner + 1, size] as const)], 7);
  t.notThrows(() => checkTree(many));
  many.chunkOffset[0] = 8;
  t.throws(() => checkTree(many), { message: 'tree: expected at most 131072 chunks in one member, found more' });
});

test('what symlinks lead through is bounded for a whole layer, not only for a path', (t) => {
  const builder = new TreeBuilder();
  const add = (name: string, more: Partial<TocEntry>) => builder.add({ ...tarFile(name, 0), chunks: [], ...more });
  add('d', { type: 'dir' });
  const dots = './'.repeat(2040);
  const links = Array.from({ length: 39 }, (_, i) => `s${i}`);
  links.forEach((name, i) =>
    add(name, { type: 'symlink', linkName: latin1(`${dots}${i === 0 ? 'd' : links[i - 1]}`) }),
  );
  // A path through all of them is 79,600 parts. What lies beside the last one costs nothing more.
  for (let i = 0; i < 13; i++) {
    add(`s38/${i}/file`, {});
    add(`s38/${i}/beside`, {});
  }
  t.throws(() => add('s38/13/file', {}), {
    instanceOf: FormatError,
    message:
      'layer: expected at most 1053696 parts of paths, and of symlinks on them, to walk for 80 files and directories, found more',
  });
});

test('what entries bring in bytes is bounded: names, targets of links, xattrs', (t) => {
  const long = latin1('n'.repeat(200));
  for (const more of [
    () => ({ name: long }),
    () => ({ type: 'symlink' as const, linkName: long }),
    () => ({ xattrs: [{ name: latin1('user.a'), value: long }] }),
  ]) {
    const builder = new TreeBuilder('layer', 100, 2000);
    const add = () => builder.add({ ...tarFile('f', 0), chunks: [], ...more() });
    for (let i = 0; i < 5; i++) add();
    t.throws(() => Array.from({ length: 10 }, add), {
      instanceOf: FormatError,
      message: 'layer: expected at most 2000 bytes of names, links and xattrs, found more',
    });
  }
});
