import test from 'ava';
import fc from 'fast-check';
import { digestOf } from '../digest/digester.js';
import { tarFile } from '../testing/layer-fixture.js';
import { TreeBuilder } from '../toc/builder.js';
import { NO_BYTES, NO_DIGEST } from '../toc/entry.js';
import { NONE, ROOT, type Tree } from '../toc/tree.js';
import { landmarkSpans } from './landmark.js';
import { kindOf, Places } from './places.js';

const kind = (name: string) => kindOf(Buffer.from(name));

test('a kind is what follows the last dot, versions left out', (t) => {
  t.is(kind('libz.so.1.2.13'), kind('libm.so'));
  t.is(kind('a.cpython-311.pyc'), kind('.pyc'));
  t.is(new Set(['a.so', 'a.py', 'a.pyc', 'a.SO', 'a.o'].map(kind)).size, 5);
  for (const name of ['', 'cc1', 'python3.11', '1.2', 'x.1']) t.is(kind(name), 0);
});

test('any name has a kind, and what stands before its last dot changes nothing', (t) => {
  const bytes = fc.uint8Array({ maxLength: 40 });
  fc.assert(
    fc.property(bytes, bytes, fc.stringMatching(/^[a-z]+$/), (name, before, ending) => {
      t.is(typeof kindOf(name), 'number');
      t.is(kindOf(Buffer.concat([before, Buffer.from(`.${ending}`)])), kind(`.${ending}`));
    }),
  );
});

/** A tree of files of so many compressed bytes, one chunk each, in this order. */
function treeOf(files: Readonly<Record<string, number>>): Tree {
  const builder = new TreeBuilder();
  let offset = 0;
  for (const [name, bytes] of Object.entries(files)) {
    const mode = name.endsWith('!') ? 0o755 : 0o644;
    const chunks = [{ size: bytes, offset, innerOffset: 0, digest: NO_DIGEST }];
    builder.add({ ...tarFile(name.replace('!', ''), bytes), mode, chunks });
    offset += bytes;
  }
  return builder.build({ source: digestOf(NO_BYTES), contentEnd: offset });
}

test('where files lie, and how much lies below a directory', (t) => {
  const tree = treeOf({ 'a/b/one': 10, 'a/b/two!': 20, 'a/c/three.so!': 30, four: 1000 });
  const places = new Places(tree);
  const at = (directory: number, name: string) => tree.lookup(directory, Buffer.from(name));
  const a = at(ROOT, 'a');
  const b = at(a, 'b');
  t.deepEqual(
    [0, 1, 2, 3].map((chunk) => places.directory(chunk)),
    [b, b, at(a, 'c'), ROOT],
  );
  t.deepEqual(
    [0, 1, 2, 3].map((chunk) => places.fileBytes(chunk)),
    [10, 20, 30, 1000],
  );
  t.deepEqual(
    [0, 1, 2, 3].map((chunk) => places.isProgram(chunk)),
    [false, true, false, false],
  );
  t.deepEqual(
    [29, 30, 59, 60, 1059, 1060].map((bytes) => places.enclosing(b, bytes)),
    [NONE, b, b, a, a, ROOT],
  );
  t.deepEqual(
    [0, 1, 2, 3].map((chunk) => places.isBelow(chunk, a)),
    [true, true, true, false],
  );
  t.deepEqual(
    [0, 1, 2, 3].map((chunk) => places.isBelow(chunk, b)),
    [true, true, false, false],
  );
  t.true([0, 1, 2, 3].every((chunk) => places.isBelow(chunk, ROOT)));
});

test('the work for files that share one member grows with their number, not with its square', (t) => {
  const count = 4000;
  const builder = new TreeBuilder();
  for (let i = 0; i < count; i++)
    builder.add({ ...tarFile(`f${i}`, 1), chunks: [{ offset: 0, innerOffset: i, size: 1, digest: NO_DIGEST }] });
  const tree = builder.build({ source: digestOf(NO_BYTES), contentEnd: 50_000 });
  let looks = 0;
  const chunkOffset = new Proxy(tree.chunkOffset, {
    get: (array, key) => (looks++, Reflect.get(array, key) as unknown),
  });
  Object.defineProperty(tree, 'chunkOffset', { value: chunkOffset });
  t.is(new Places(tree).fileBytes(count - 1), 50_000);
  t.deepEqual(landmarkSpans(tree, 1), [{ first: 0, end: count }]);
  t.true(looks < 100 * count, `${looks}`);
});

test('a file of several names lies where the first of them is, and counts there alone', (t) => {
  const builder = new TreeBuilder();
  const chunks = [{ size: 100, offset: 0, innerOffset: 0, digest: NO_DIGEST }];
  builder.add({ ...tarFile('a/lib.so', 100), chunks });
  builder.add({ ...tarFile('b/lib.py', 0), type: 'hardlink', linkName: Buffer.from('a/lib.so'), chunks: [] });
  const tree = builder.build({ source: digestOf(NO_BYTES), contentEnd: 100 });
  const places = new Places(tree);
  const [a, b] = ['a', 'b'].map((name) => tree.lookup(ROOT, Buffer.from(name)));
  t.is(places.directory(0), a);
  t.is(places.kind(0), kind('.so'));
  t.deepEqual([places.enclosing(a, 99), places.enclosing(b, 99), places.enclosing(a, 100)], [NONE, b, ROOT]);
});
