import { constants } from 'node:os';
import test from 'ava';
import fc from 'fast-check';
import { FixtureLayer } from '../testing/fs-fixture.js';
import { blankAttributes, blankEntry, inodeOf, nodeNumber, slotOf, UPPER, UPPER_ROOT } from './nodes.js';
import { nodeAt } from './paths.js';
import { ServedTree, type References } from './served-tree.js';

const { ENAMETOOLONG, ENOENT, ENOTDIR, ESTALE } = constants.errno;

const at = (tree: ServedTree, path: string) => nodeAt(tree, Buffer.from(path));

function names(tree: ServedTree, path: string): string[] {
  const node = at(tree, path);
  const entry = blankEntry();
  const found: string[] = [];
  for (let offset = 0; tree.readdir(slotOf(node), inodeOf(node), offset, entry) === 1; offset = entry.next)
    found.push(Buffer.from(entry.name.subarray(entry.nameStart, entry.nameEnd)).toString());
  return found.slice(2);
}

const target = (tree: ServedTree, path: string) => {
  const node = at(tree, path);
  return String(tree.readlink(slotOf(node), inodeOf(node)));
};

const base64 = (text: string) => Buffer.from(text).toString('base64');

test('node numbers hold any slot and inode', (t) => {
  for (const [slot, inode] of [
    [1, 0],
    [2 ** 21 - 1, 2 ** 32 - 1],
    [UPPER, UPPER_ROOT],
  ]) {
    t.is(slotOf(nodeNumber(slot, inode)), slot);
    t.is(inodeOf(nodeNumber(slot, inode)), inode);
  }
  t.is(nodeNumber(UPPER, UPPER_ROOT), 1);
});

test('layers come and go; a slot is taken once', (t) => {
  using layer = new FixtureLayer([{ name: 'dir/file', size: 5 }]);
  const changed: number[] = [];
  const tree = new ServedTree({ changed: (directory) => changed.push(directory) });
  changed.length = 0;
  tree.attach(layer.view(4));
  t.is(at(tree, '/l/4'), nodeNumber(4, 0));
  t.is(at(tree, '/l/4/dir/file'), nodeNumber(4, layer.find('dir/file')));
  t.is(at(tree, '/l/4/dir/none'), -ENOENT);
  t.is(at(tree, '/l/4/dir/file/below'), -ENOTDIR);
  t.is(at(tree, `/l/4/${'n'.repeat(256)}`), -ENAMETOOLONG);
  t.deepEqual(changed, [at(tree, '/l')]);
  t.throws(() => tree.attach(layer.view(4)), { message: /slot 4 already has a layer/ });
  for (const slot of [0, -1, 1.5, 2 ** 21])
    t.throws(() => tree.attach(layer.view(slot)), { message: /slot: expected/ });
  const statistics = { bytes: 0, files: 0 };
  tree.statfs(statistics);
  t.deepEqual(statistics, { bytes: layer.tree.facts.cacheBytes, files: 2 + layer.tree.counts.inodes });
  tree.detach(4);
  tree.detach(4);
  t.is(at(tree, '/l/4'), -ENOENT);
  t.is(tree.getattr(4, 0, blankAttributes()), -ESTALE);
  t.is(changed.length, 2);
});

/** Shows these references, and no others. */
function setReferences(tree: ServedTree, references: References): void {
  const wanted = new Set(references.map(({ reference }) => base64(reference)));
  for (const name of names(tree, '/'))
    if (!['l', 'pool'].includes(name) && !wanted.has(name))
      tree.setReference(Buffer.from(name, 'base64').toString(), undefined);
  for (const { reference, layers } of references) tree.setReference(reference, layers);
}

test('the store view follows what it is told, and leaves out what no file name can hold', (t) => {
  const tree = new ServedTree({ pool: '/the/pool' });
  const one = {
    reference: 'registry.test/a:1',
    layers: [
      { digest: 'sha256:a', slot: 1 },
      { digest: 'sha256:b', slot: 2 },
    ],
  };
  const two = { reference: 'registry.test/b:1', layers: [{ digest: 'sha256:a', slot: 1 }] };
  const unnameable = { reference: 'registry.test/???:1', layers: [] };
  t.regex(base64(unnameable.reference), /\//);
  setReferences(tree, [one, two, unnameable]);
  t.deepEqual(names(tree, '/').sort(), [base64(one.reference), base64(two.reference), 'l', 'pool'].sort());
  t.is(target(tree, `/${base64(one.reference)}/sha256:b/diff`), '../../l/2');
  t.is(target(tree, '/pool'), '/the/pool');
  const before = at(tree, `/${base64(one.reference)}`);
  setReferences(tree, [{ ...one, layers: [{ digest: 'sha256:a', slot: 7 }] }]);
  t.is(at(tree, `/${base64(one.reference)}`), before);
  t.deepEqual(names(tree, `/${base64(one.reference)}`), ['sha256:a']);
  t.is(target(tree, `/${base64(one.reference)}/sha256:a/diff`), '../../l/7');
  t.is(at(tree, `/${base64(two.reference)}`), -ENOENT);
  setReferences(tree, []);
  t.deepEqual(names(tree, '/').sort(), ['l', 'pool']);
});

test('the same names are the same nodes in another process, in whatever order they came', (t) => {
  const reference = (n: number) => ({
    reference: `registry.test/i:${n}`,
    layers: [{ digest: `sha256:${n}`, slot: n + 1 }],
  });
  const numbers = Array.from({ length: 50 }, (_, i) => i);
  const [one, two] = [new ServedTree(), new ServedTree()];
  setReferences(one, numbers.map(reference));
  setReferences(two, [...numbers].reverse().map(reference));
  for (const n of numbers) {
    const path = `/${base64(`registry.test/i:${n}`)}/sha256:${n}/diff`;
    t.true(at(one, path) > 1);
    t.is(at(one, path), at(two, path));
  }
});

test("a change shows in the directory's time, and a listing goes on across it", (t) => {
  const tree = new ServedTree();
  const attributes = blankAttributes();
  const times = new Set<string>();
  const references: { reference: string; layers: [] }[] = [];
  for (let i = 0; i < 20; i++) {
    references.push({ reference: `registry.test/i:${i}`, layers: [] });
    setReferences(tree, references);
    tree.getattr(UPPER, UPPER_ROOT, attributes);
    times.add(`${attributes.mtime}.${attributes.mtimeNsec}`);
  }
  t.is(times.size, 20);
  const entry = blankEntry();
  tree.readdir(UPPER, UPPER_ROOT, 5, entry);
  const next = entry.next;
  const following = names(tree, '/')[4];
  setReferences(tree, references.slice(1));
  t.is(tree.readdir(UPPER, UPPER_ROOT, next, entry), 1);
  t.is(Buffer.from(entry.name).toString(), following);
});

test('any sequence of reference sets shows exactly the last one', (t) => {
  const set = fc.array(
    fc.record({
      reference: fc.constantFrom('r/a:1', 'r/b:1', 'r/c:1', 'r/d?:1'),
      layers: fc.array(fc.record({ digest: fc.constantFrom('d1', 'd2', 'd3'), slot: fc.integer({ min: 1, max: 3 }) }), {
        maxLength: 3,
      }),
    }),
    { maxLength: 4 },
  );
  fc.assert(
    fc.property(fc.array(set, { minLength: 1, maxLength: 6 }), (sets) => {
      const tree = new ServedTree();
      for (const references of sets) setReferences(tree, references);
      const last = new Map((sets.at(-1) as References).map((r) => [base64(r.reference), r.layers]));
      t.deepEqual(names(tree, '/').sort(), ['l', ...last.keys()].sort());
      for (const [name, layers] of last)
        for (const [digest, slot] of new Map(layers.map((l) => [l.digest, l.slot])))
          t.is(target(tree, `/${name}/${digest}/diff`), `../../l/${slot}`);
    }),
    { numRuns: 200 },
  );
});
