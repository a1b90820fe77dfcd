import test from 'ava';
import fc from 'fast-check';
import { digestOf } from '../digest/digester.js';
import { FormatError } from '../errors.js';
import { inodeAt, listTree } from '../testing/image-tree.js';
import { NO_DIGEST } from '../toc/entry.js';
import { TocParser, treeFromToc, type TocOptions } from './toc.js';

const digest = digestOf('chunk');
const file = { name: 'f', type: 'reg', size: 10, offset: 100, chunkDigest: digest };
const toc = (...entries: unknown[]) => JSON.stringify({ version: 1, entries });
const parse = (json: string | Buffer, options?: TocOptions) => [...new TocParser(Buffer.from(json as string), options)];
const facts = { tocDigest: digest, contentEnd: 1000 };

test('every member is taken; names of users and groups, and members not known, are passed over', (t) => {
  const [entry] = parse(
    toc({
      userName: 'root',
      future: [{ a: [1, 'x'] }],
      ...file,
      mode: 0o104755,
      uid: 4_294_967_295,
      gid: 7,
      modtime: '2001-02-03T04:05:06.000000789Z',
      digest: digestOf('whole'),
      innerOffset: 512,
      xattrs: { 'user.a': 'AAH/', 'user.none': null },
      devMajor: null,
    }),
  );
  t.deepEqual(
    [entry.mode, entry.uid, entry.gid, entry.mtime, entry.mtimeNsec],
    [0o4755, 4_294_967_295, 7, 981_173_106, 789],
  );
  t.deepEqual(entry.xattrs, [
    { name: Buffer.from('user.a'), value: Buffer.from([0, 1, 255]) },
    { name: Buffer.from('user.none'), value: Buffer.alloc(0) },
  ]);
  t.deepEqual({ ...entry.chunks[0], digest: 0 }, { offset: 100, innerOffset: 512, size: 10, digest: 0 });
  t.is(parse(toc(file))[0].mtime, 0);
});

test('members of the top object come in any order; no entries is an empty layer', (t) => {
  t.is(parse(`{"entries":[${JSON.stringify(file)}],"x":{},"version":1}`).length, 1);
  t.is(parse('{"version":1}').length, 0);
  t.is(parse('{"version":1,"entries":null}').length, 0);
  t.deepEqual(listTree(treeFromToc(Buffer.from('{"entries":[],"version":1}'), facts)), []);
});

test('chunks follow their file, with or without its name; a size of 0 reaches to the end', (t) => {
  const first = { ...file, size: 30, chunkSize: 10 };
  const second = { type: 'chunk', offset: 200, chunkOffset: 10, chunkSize: 10, chunkDigest: digest };
  const third = { name: 'f', type: 'chunk', offset: 300, chunkOffset: 20, chunkDigest: digest };
  const [entry] = parse(toc(first, second, third));
  t.deepEqual(
    entry.chunks.map(({ offset, size }) => [offset, size]),
    [
      [100, 10],
      [200, 10],
      [300, 10],
    ],
  );
});

test('a file of one chunk may tell its digest as the whole file; none at all passes only where nothing is verified', (t) => {
  const { chunkDigest: _, ...bare } = file;
  t.deepEqual(parse(toc({ ...bare, digest }))[0].chunks, parse(toc(file))[0].chunks);
  t.is(parse(toc(bare), { allowMissingDigests: true })[0].chunks[0].digest, NO_DIGEST);
});

test('names are bytes: raw ones, and those behind escapes', (t) => {
  const json = Buffer.from(
    '{"version":1,"entries":[{"name":"\xff\xe9","type":"fifo"},{"name":"\\u00e9/","type":"dir"}]}',
    'latin1',
  );
  t.deepEqual(
    parse(json).map(({ name }) => name),
    [Buffer.from('\xff\xe9', 'latin1'), Buffer.from('\u00e9/')],
  );
  t.not(inodeAt(treeFromToc(json, facts), '\xc3\xa9'), -1);
});

const refused: readonly [message: string, json: string][] = [
  ['TOC at offset 0: expected "{", found "[]"', '[]'],
  ['TOC: expected version 1, found none', '{}'],
  ['TOC at offset 1: expected version 1, found 2', '{"version":2}'],
  ['TOC at offset 13: expected the end, found "x"', '{"version":1}x'],
  [
    'TOC at offset 26: expected one list of entries, found "\\"entries\\":[]}"',
    '{"version":1,"entries":[],"entries":[]}',
  ],
  ['TOC at offset 24: expected an entry with a name, found none', toc({ type: 'dir' })],
  ['TOC at offset 24: expected an entry with a type, found none', toc({ name: 'a' })],
  ['TOC at offset 43: expected a known type, found "\\"socket\\"}]}"', toc({ name: 'a', type: 'socket' })],
  ['TOC entry "" at offset 24: expected a chunk after its file, found one before any file', toc({ type: 'chunk' })],
  [
    'TOC entry "f" at offset 24: expected a chunkDigest, found none for the chunk at 0',
    toc({ ...file, chunkDigest: '' }),
  ],
  [
    'TOC entry "g" at offset 176: expected a chunk of "f", found one of another file',
    toc({ ...file, size: 20, chunkSize: 10 }, { ...file, name: 'g', type: 'chunk' }),
  ],
  [
    'TOC entry "" at offset 176: expected a chunk at 10 of the file, found 12',
    toc({ ...file, size: 20, chunkSize: 10 }, { type: 'chunk', chunkOffset: 12 }),
  ],
  [
    'TOC entry "f" at offset 24: expected chunks of 20 bytes in all, found 10',
    toc({ ...file, size: 20, chunkSize: 10 }),
  ],
  [
    'TOC entry "f" at offset 24: expected chunks of 10 bytes in all, found one of 11 bytes at 0',
    toc({ ...file, chunkSize: 11 }),
  ],
  [
    'TOC entry "f" at offset 24: expected chunks of at most 268435456 bytes, found 268435457',
    toc({ ...file, size: 268_435_457 }),
  ],
  [
    'TOC, chunks at offset 1000: expected chunks before byte 1000, where content ends, found one beyond',
    toc({ ...file, offset: 1000 }),
  ],
  [
    "TOC, chunks at offset 50: expected each file's chunks together, in file order, found one after that at 100",
    toc({ ...file, size: 20, chunkSize: 10 }, { type: 'chunk', offset: 50, chunkOffset: 10, chunkDigest: digest }),
  ],
  ['TOC: expected a name without ".." in it, found "../f"', toc({ ...file, name: '../f' })],
  [
    'TOC at offset 55: expected a whole number from 0 to 4294967295, found "4294967296}]}"',
    toc({ name: 'a', type: 'dir', uid: 4_294_967_296 }),
  ],
  [
    'TOC at offset 59: expected an RFC 3339 time, found "\\"yesterday\\"}]}"',
    toc({ name: 'a', type: 'dir', modtime: 'yesterday' }),
  ],
  [
    'TOC at offset 58: expected sha256: and 64 lower-case hex digits, found "\\"sha256:abc\\"}]}"',
    toc({ name: 'a', type: 'dir', digest: 'sha256:abc' }),
  ],
  ['TOC at offset 63: expected base64, found "\\"!\\"}}]}"', toc({ name: 'a', type: 'dir', xattrs: { u: '!' } })],
];
for (const [message, json] of refused)
  test(`refuses: ${message}`, (t) => {
    t.throws(() => treeFromToc(Buffer.from(json), facts), { instanceOf: FormatError, message });
  });

test('no mutation of a TOC does more than raise a FormatError or tell another tree', (t) => {
  const good = Buffer.from(
    toc(
      { name: 'd/', type: 'dir', mode: 0o755, modtime: '2001-02-03T04:05:06Z', xattrs: { 'user.a': 'AAH/' } },
      { ...file, name: 'd/f', size: 20, chunkSize: 10 },
      { type: 'chunk', offset: 200, chunkOffset: 10, chunkDigest: digest },
      { name: 'h', type: 'hardlink', linkName: 'd/f' },
      { name: 'n', type: 'char', devMajor: 1, devMinor: 3 },
    ),
  );
  const change = fc.record({
    at: fc.nat(good.length - 1),
    to: fc.constantFrom(...Buffer.from('./0129"\\{}[]:,-ex\x00\xff', 'latin1')),
  });
  fc.assert(
    fc.property(fc.array(change, { minLength: 1, maxLength: 4 }), (changes) => {
      const bad = Buffer.from(good);
      for (const { at, to } of changes) bad[at] = to;
      try {
        const tree = treeFromToc(bad, facts);
        for (const line of listTree(tree)) t.false(line.split('/').includes('..'));
      } catch (error) {
        t.true(error instanceof FormatError, String(error));
      }
    }),
    { numRuns: 2000 },
  );
});
