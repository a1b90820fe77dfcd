import test from 'ava';
import fc from 'fast-check';
import { digestOf } from '../digest/digester.js';
import { codeOf } from '../errors.js';
import { TreeBuilder } from '../toc/builder.js';
import { NO_BYTES, type EntryType } from '../toc/entry.js';
import { MergedTree, type MergedNode } from './merged.js';

type Kind = 'dir' | 'opaque' | 'file' | 'symlink' | 'whiteout';
/** One name of a layer; `id` becomes its owner, so that a test can tell whose attributes are seen. */
interface Named {
  readonly kind: Kind;
  readonly id: number;
  readonly target: string;
  readonly children: Map<string, Named>;
}
const named = (kind: Kind, id: number, target = ''): Named => ({ kind, id, target, children: new Map() });
const isDirectory = (node: Named | undefined) => node?.kind === 'dir' || node?.kind === 'opaque';

function treeOf(layer: Named) {
  const builder = new TreeBuilder();
  const add = (name: string, type: EntryType, { id, target }: Named) =>
    builder.add({
      name: Buffer.from(name),
      type,
      size: 0,
      mode: 0o755,
      uid: id,
      gid: 0,
      mtime: 0,
      mtimeNsec: 0,
      linkName: Buffer.from(target),
      devMajor: 0,
      devMinor: 0,
      xattrs: [],
      chunks: [],
    });
  const visit = (node: Named, path: string) => {
    add(path === '' ? './' : path, 'dir', node);
    const inside = path === '' ? '' : `${path}/`;
    if (node.kind === 'opaque') add(`${inside}.wh..wh..opq`, 'reg', node);
    for (const [name, child] of node.children) {
      if (isDirectory(child)) visit(child, inside + name);
      else if (child.kind === 'whiteout') add(`${inside}.wh.${name}`, 'reg', child);
      else add(inside + name, child.kind === 'symlink' ? 'symlink' : 'reg', child);
    }
  };
  visit(layer, '');
  return { tree: builder.build({ source: digestOf(NO_BYTES), contentEnd: 0 }) };
}

/** The plainest way to the same view: unpack one layer over another. */
function unpack(layers: readonly Named[]): Named {
  const root = named('dir', 0);
  const apply = (from: Named, onto: Named) => {
    if (from.kind === 'opaque') onto.children.clear();
    Object.assign(onto, { id: from.id });
    for (const [name, child] of from.children) {
      const below = onto.children.get(name);
      if (child.kind === 'whiteout') onto.children.delete(name);
      else if (!isDirectory(child)) onto.children.set(name, child);
      else {
        const directory = isDirectory(below) ? below! : named('dir', child.id);
        onto.children.set(name, directory);
        apply(child, directory);
      }
    }
  };
  for (const layer of layers) apply(layer, root);
  return root;
}

const path = fc.array(fc.constantFrom('a', 'b', 'c', 'd'), { minLength: 1, maxLength: 4 });
const target = fc.oneof(
  fc
    .array(fc.constantFrom('a', 'b', 'c', '.', '..', ''), { minLength: 1, maxLength: 4 })
    .map((names) => names.join('/') || '/'),
  fc.constantFrom('/', '..', 'a/', '/a//b'),
);
const kind = fc.constantFrom<Kind>('dir', 'dir', 'opaque', 'file', 'symlink', 'symlink', 'whiteout');
let nextId = 1;
const layer = fc
  .tuple(fc.boolean(), fc.array(fc.tuple(path, kind, target), { maxLength: 14 }))
  .map(([opaque, entries]) => {
    const root = named(opaque && entries.length > 6 ? 'opaque' : 'dir', nextId++);
    for (const [names, of, to] of entries) {
      let at = root;
      for (const name of names.slice(0, -1)) {
        if (!at.children.has(name)) at.children.set(name, named('dir', nextId++));
        at = at.children.get(name)!;
        if (!isDirectory(at)) break;
      }
      const last = names.at(-1)!;
      if (isDirectory(at) && !at.children.has(last)) at.children.set(last, named(of, nextId++, to));
    }
    return root;
  });
const layers = fc.array(layer, { minLength: 1, maxLength: 5 });

function* modelPaths(node: Named, at = ''): Generator<[string, Named]> {
  for (const name of [...node.children.keys()].sort()) {
    const child = node.children.get(name)!;
    yield [at + name, child];
    yield* modelPaths(child, `${at}${name}/`);
  }
}

const describe = (tree: MergedTree, node: MergedNode) => ({
  id: tree.stat(node).uid,
  kind: tree.isDirectory(node) ? 'dir' : tree.isSymlink(node) ? 'symlink' : 'file',
  target: tree.isSymlink(node) ? tree.readlink(node).toString() : '',
});
const expected = ({ id, kind: of, target: to }: Named) => ({
  id,
  kind: of === 'opaque' ? 'dir' : of,
  target: of === 'symlink' ? to : '',
});

test('shows what unpacking one layer over another leaves', (t) => {
  fc.assert(
    fc.property(layers, (stack) => {
      const tree = new MergedTree(stack.map(treeOf));
      const model = unpack(stack);
      const found = [...tree.walk()].map(({ path: at, node }) => [at.toString(), describe(tree, node)]);
      t.deepEqual(
        found,
        [...modelPaths(model)].map(([at, node]) => [at, expected(node)]),
      );
      t.is(tree.stat(tree.root).uid, model.id);
      t.is(tree.lowest, Math.max(0, stack.map((l) => l.kind).lastIndexOf('opaque')));
    }),
    { numRuns: 500 },
  );
});

test('looking up each name gives what listing gives, and nothing for others', (t) => {
  fc.assert(
    fc.property(layers, path, (stack, names) => {
      const tree = new MergedTree(stack.map(treeOf));
      let model: Named | undefined = unpack(stack);
      for (const name of names) model = model?.children.get(name);
      const node = tree.lookup(names.join('/'));
      t.deepEqual(node && describe(tree, node), model && expected(model));
    }),
    { numRuns: 500 },
  );
});

/** Path resolution by recursion on the unpacked model. */
function resolveModel(root: Named, text: string, follow: boolean): Named | string {
  let budget = 40;
  const walk = (trail: Named[], names: string[], last: boolean): Named[] | string => {
    let at = trail;
    for (const [i, name] of names.entries()) {
      const here = at.at(-1)!;
      if (!isDirectory(here)) return 'NOT_A_DIRECTORY';
      if (name === '.') continue;
      if (name === '..') {
        at = at.length > 1 ? at.slice(0, -1) : at;
        continue;
      }
      const child = here.children.get(name);
      if (child === undefined) return 'NOT_FOUND';
      const final = last && i === names.length - 1;
      if (child.kind !== 'symlink' || (final && !follow)) at = [...at, child];
      else {
        if (budget-- === 0) return 'FAILED_PRECONDITION';
        const result = walk(child.target.startsWith('/') ? [root] : at, split(child.target), final);
        if (typeof result === 'string') return result;
        at = result;
      }
    }
    return at;
  };
  const result = walk([root], split(text), true);
  return typeof result === 'string' ? result : result.at(-1)!;
}
const split = (text: string) => [...text.split('/').filter((n) => n !== ''), ...(text.endsWith('/') ? ['.'] : [])];

test('paths resolve as they do by the plain rules, inside the root, whatever the symlinks', (t) => {
  let followed = 0;
  fc.assert(
    fc.property(layers, target, fc.boolean(), (stack, text, follow) => {
      const tree = new MergedTree(stack.map(treeOf));
      const wanted = resolveModel(unpack(stack), text, follow);
      try {
        const node = tree.resolve(text, { followSymlinks: follow });
        if (tree.lookup(text) === undefined) followed++;
        t.deepEqual(describe(tree, node), typeof wanted === 'string' ? wanted : expected(wanted));
      } catch (error) {
        t.is<unknown, unknown>(codeOf(error), wanted);
      }
    }),
    { numRuns: 2000 },
  );
  t.true(followed > 0, 'no symlink was followed: the test shows too little');
});

test('40 symlinks are followed, 41 are not', (t) => {
  const root = named('dir', 1);
  root.children.set('0', named('file', 2));
  for (let n = 1; n <= 41; n++) root.children.set(String(n), named('symlink', 3, String(n - 1)));
  const tree = new MergedTree([treeOf(root)]);
  t.is(tree.stat(tree.resolve('40')).uid, 2);
  t.throws(() => tree.resolve('41'), { message: '41: more than 40 levels of symbolic links' });
});

test('sizes, devices, and names of any bytes', (t) => {
  const builder = new TreeBuilder();
  const base = { size: 0, mode: 0o600, uid: 0, gid: 0, mtime: -1, mtimeNsec: 5, xattrs: [], chunks: [] };
  const name = Buffer.from([0xff, 0xfe, 0x41]);
  builder.add({ ...base, name, type: 'char', linkName: NO_BYTES, devMajor: 1, devMinor: 3 });
  builder.add({ ...base, name: Buffer.from('l'), type: 'symlink', linkName: name, devMajor: 0, devMinor: 0 });
  const tree = new MergedTree([{ tree: builder.build({ source: digestOf(NO_BYTES), contentEnd: 0 }) }]);
  const device = tree.resolve(name);
  t.like(tree.stat(device), { mode: 0o020600, mtime: -1, mtimeNsec: 5, nlink: 1 });
  t.deepEqual(tree.stat(device).device, { major: 1, minor: 3 });
  t.deepEqual(tree.resolve('l'), device);
  t.is(tree.stat(tree.resolve('l', { followSymlinks: false })).size, 3);
  t.throws(() => tree.readdir(device), { message: 'readdir: not a directory' });
  t.throws(() => tree.readlink(device), { message: 'readlink: not a symbolic link' });
  t.throws(() => new MergedTree([]), { message: /at least one layer/ });
});
