import { createHash } from 'node:crypto';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import fc from 'fast-check';
import { FormatError } from '../errors.js';
import { describeTree, inodeAt, treeOf } from '../testing/image-tree.js';
import { temporaryDirectory } from '../testing/temporary.js';
import { checkTree } from './check.js';
import { loadTree, readTreeHeader, saveTree } from './persist.js';
import { HEADER_BYTES, ROOT, Tree } from './tree.js';

const sample = () =>
  treeOf([
    { path: 'dir/sub/file', size: 9000, xattrs: { 'user.a': 'b' } },
    { path: 'dir/other', content: 'hello' },
    { path: 'link', target: 'dir/other' },
    { path: 'hard', type: 'hardlink', target: 'dir/other' },
    { path: 'null', type: 'char', devMajor: 1, devMinor: 3 },
  ]);

test('a saved tree comes back the same, in shared memory, and nothing is left beside it', async (t) => {
  const dir = await temporaryDirectory(t, 'tree');
  const tree = sample();
  await saveTree(tree, join(dir, 'tree'));
  const back = await loadTree(join(dir, 'tree'));
  t.deepEqual(describeTree(back), describeTree(tree));
  t.deepEqual(back.facts, tree.facts);
  t.deepEqual(Buffer.from(back.buffer), Buffer.from(tree.buffer));
  t.deepEqual(await readdir(dir), ['tree']);
});

test('a file that was changed, cut or extended is refused', async (t) => {
  const path = join(await temporaryDirectory(t, 'tree'), 'tree');
  await saveTree(sample(), path);
  const good = await readFile(path);
  const refused = async (bytes: Uint8Array, message: RegExp) => {
    await writeFile(path, bytes);
    await t.throwsAsync(loadTree(path), { instanceOf: FormatError, message });
  };
  for (const at of [0, 12, 64, HEADER_BYTES, good.length >> 1, good.length - 1]) {
    const bad = Buffer.from(good);
    bad[at] ^= 1;
    await refused(bad, /expected the checksum/);
  }
  await refused(good.subarray(0, good.length - 1), /expected the checksum/);
  await refused(Buffer.concat([good, Buffer.alloc(1)]), /expected the checksum/);
  await refused(Buffer.alloc(0), /found 0$/);
  const wrongMagic = Buffer.from(good.subarray(0, -32));
  wrongMagic[0] ^= 1;
  const checksum = createHash('sha256').update(wrongMagic).digest();
  await refused(Buffer.concat([wrongMagic, checksum]), /expected "lazytree", version 2/);
});

test('no damage, even with a right checksum, makes a walk leave the arrays or go in circles', (t) => {
  const good = Buffer.from(sample().buffer);
  let refused = 0;
  fc.assert(
    fc.property(
      fc.array(fc.record({ at: fc.integer({ min: HEADER_BYTES, max: good.length - 1 }), byte: fc.nat(255) }), {
        minLength: 1,
        maxLength: 4,
      }),
      (changes) => {
        const buffer = new SharedArrayBuffer(good.length);
        const bytes = new Uint8Array(buffer);
        bytes.set(good);
        for (const { at, byte } of changes) bytes[at] = byte;
        const tree = Tree.over(buffer);
        try {
          checkTree(tree);
        } catch (error) {
          if (!(error instanceof FormatError)) throw error;
          refused++;
          return;
        }
        // Ends, and reads nothing that is undefined.
        t.false(describeTree(tree).some((line) => line.includes('undefined') || line.includes('NaN.')));
      },
    ),
    { numRuns: 3000 },
  );
  t.true(refused > 300, `${refused} refused`);
});

test('directories that hold each other are refused', (t) => {
  const tree = treeOf([{ path: 'a/b/' }]);
  t.notThrows(() => checkTree(tree));
  const [a, b] = [inodeAt(tree, 'a'), inodeAt(tree, 'a/b')];
  tree.first[b] = tree.first[ROOT];
  tree.count[b] = 1;
  tree.count[ROOT] = 0;
  tree.extra[a] = b;
  t.throws(() => checkTree(tree), {
    message: `tree: expected each directory in its parent, once, found inode ${a} in ${b}`,
  });
});

test('the head of a saved tree tells its counts and facts; a file of another length, or no tree, is refused', async (t) => {
  const path = join(await temporaryDirectory(t, 'tree'), 'tree');
  const tree = sample();
  await saveTree(tree, path);
  const { counts, facts } = tree;
  t.deepEqual(readTreeHeader(path), { counts, facts });
  const good = await readFile(path);
  for (const bytes of [good.subarray(0, -1), Buffer.concat([good, good]), good.subarray(0, 50), Buffer.alloc(0)]) {
    await writeFile(path, bytes);
    t.throws(() => readTreeHeader(path), { instanceOf: FormatError });
  }
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ maxLength: 2 * HEADER_BYTES }), async (bytes) => {
      await writeFile(path, bytes);
      t.throws(() => readTreeHeader(path), { instanceOf: FormatError });
    }),
    { numRuns: 100 },
  );
});
