import test from 'ava';
import { treeOf } from '../testing/image-tree.js';
import { BoundedTree } from './bounded-tree.js';

test('what is there is found, through symlinks; what is not is nothing', (t) => {
  const tree = new BoundedTree([
    {
      tree: treeOf([
        { path: 'a/b', content: 'x' },
        { path: 'c', target: 'a' },
      ]),
    },
  ]);
  t.deepEqual(tree.find('/c/b'), tree.resolve('/a/b'));
  for (const path of ['/c/d', '/a/b/c', '/d']) t.is(tree.find(path), undefined);
});

test('however long symlinks are and however many follow on each other, a walk takes so many steps in all', (t) => {
  const long = (name: string) => `${'/.'.repeat(2000)}/${name}`;
  const links = Array.from({ length: 30 }, (_, i) => ({
    path: `l${i}`,
    target: long(i === 29 ? 'file' : `l${i + 1}`),
  }));
  const layer = { tree: treeOf([{ path: 'file', content: 'x' }, ...links]) };
  const few = new BoundedTree([layer]);
  t.not(few.find('/l28'), undefined);
  t.not(few.find('/file'), undefined);
  const tree = new BoundedTree([layer]);
  t.is(tree.find('/l0'), undefined);
  let read = 0;
  const readlink = tree.readlink.bind(tree);
  tree.readlink = (node) => (read++, readlink(node));
  for (let i = 0; i < 1000; i++) t.is(tree.find('/l28'), undefined);
  t.is(read, 0, 'the bound is of all of them');
});
