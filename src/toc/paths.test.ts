import test from 'ava';
import { inodeAt, treeOf } from '../testing/image-tree.js';
import { pathsOf } from './paths.js';

test('inodes by their paths: nested, in the root, a directory, with two names, with bytes that are no text', (t) => {
  const tree = treeOf([
    { path: 'top', content: '1' },
    { path: 'a/b/c/deep', content: '2' },
    { path: 'a/z/deep', content: '3' },
    { path: 'twin', type: 'hardlink', target: 'top' },
    { path: Buffer.from('a/\xff', 'latin1'), content: '4' },
  ]);
  const inodes = ['top', 'a/b/c/deep', 'a/z/deep', 'a/b', 'a/\xff'].map((path) => inodeAt(tree, path));
  const paths = pathsOf(tree, new Set(inodes));
  t.deepEqual(
    inodes.map((inode) => paths.get(inode)),
    ['/top', '/a/b/c/deep', '/a/z/deep', '/a/b', '/a/\ufffd'],
  );
  t.deepEqual(pathsOf(tree, new Set([tree.counts.inodes])), new Map());
});
