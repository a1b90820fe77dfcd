import test from 'ava';
import fc from 'fast-check';
import { digestOf } from '../digest/digester.js';
import { TreeBuilder } from '../toc/builder.js';
import { NO_BYTES, NO_DIGEST } from '../toc/entry.js';
import { ROOT } from '../toc/tree.js';
import { tarFile } from '../testing/layer-fixture.js';
import { landmarkSpans } from './landmark.js';
import { ReadAhead, type Misses } from './read-ahead.js';

const KIB = 1024;
const MIB = 1024 * KIB;

interface Specified {
  readonly name: string;
  /** Compressed bytes of its chunks. */
  readonly chunks: readonly number[];
  readonly mode?: number;
}

/** A layer of these files, one behind the other in the blob, and what of it is known. */
function layer(files: readonly Specified[], rate = 100 * MIB, misses?: Misses) {
  const builder = new TreeBuilder();
  let offset = 0;
  for (const { name, chunks, mode } of files) {
    const size = chunks.reduce((sum, bytes) => sum + bytes, 0);
    builder.add({
      ...tarFile(name, size),
      mode: mode ?? 0o644,
      chunks: chunks.map((bytes) => {
        const chunk = { size: bytes, offset, innerOffset: 0, digest: NO_DIGEST };
        offset += bytes;
        return chunk;
      }),
    });
  }
  const tree = builder.build({ source: digestOf(NO_BYTES), contentEnd: offset });
  const known = new Set<number>();
  const ahead = new ReadAhead(
    tree,
    (chunk) => known.has(chunk),
    () => rate,
    misses,
  );
  const inodeOf = (name: string) =>
    name.split('/').reduce((directory, part) => tree.lookup(directory, Buffer.from(part)), ROOT);
  return {
    tree,
    known,
    ahead,
    inodeOf,
    /** The window for a file, which is known from now on. */
    read: (name: string): [string, string] => {
      const { first, end } = tree.chunksOf(inodeOf(name), 0, Infinity);
      const span = ahead.window(first, end);
      for (let chunk = span.first; chunk < span.end; chunk++) known.add(chunk);
      const nameOf = (chunk: number) =>
        files.find((file) => {
          const own = tree.chunksOf(inodeOf(file.name), 0, Infinity);
          return chunk >= own.first && chunk < own.end;
        })!.name;
      return [nameOf(span.first), nameOf(span.end - 1)];
    },
  };
}

const file = (chunks: readonly number[]): Specified => ({ name: 'a', chunks });
const some = (directory: string, count: number, bytes: number): Specified[] =>
  Array.from({ length: count }, (_, i) => ({ name: `${directory}/${String(i).padStart(3, '0')}`, chunks: [bytes] }));

/** So many bytes that what lies before them is no package with what follows on them. */
const much: Specified = { name: 'much', chunks: Array<number>(3).fill(MIB) };

test('a small file brings those around it in its directory', (t) => {
  const { read } = layer([...some('a', 10, 4 * KIB), ...some('b', 10, 4 * KIB), ...some('c', 10, 4 * KIB), much]);
  t.deepEqual(read('b/004'), ['b/000', 'b/009']);
});

test('a window has a size, and most of it lies ahead', (t) => {
  const files = some('a', 800, 4 * KIB);
  const { read } = layer(files);
  const [low, high] = read('a/400').map((name) => files.findIndex((file) => file.name === name));
  t.is(high - low + 1, 128); // 512 KiB
  t.true(high - 400 > 400 - low && 400 - low > 40);
});

test('a slow network has smaller ones', (t) => {
  const files = some('a', 800, 4 * KIB);
  const { read } = layer(files, MIB);
  const [low, high] = read('a/400').map((name) => files.findIndex((file) => file.name === name));
  t.is(high - low + 1, 32); // 128 KiB, the least
});

test('from the second miss of a burst on, windows go beyond the directory, by so much', (t) => {
  const directories = Array.from({ length: 400 }, (_, i) => some(String(i).padStart(3, '0'), 2, 8 * KIB)).flat();
  const { read } = layer(directories);
  t.deepEqual(read('020/000'), ['020/000', '020/001']);
  const [low, high] = read('220/001').map((name) => directories.findIndex((file) => file.name === name));
  t.is((high - low + 1) * 8 * KIB, 16 * KIB + 384 * KIB);
});

test('the second miss in a directory brings most of it, the third no more than another', (t) => {
  const { read } = layer(some('a', 1000, 8 * KIB));
  const sizes = ['a/100', 'a/300', 'a/800'].map((name) => {
    const [low, high] = read(name).map((found) => Number(found.slice(2)));
    return (high - low + 1) * 8 * KIB;
  });
  t.deepEqual(sizes, [512 * KIB, 2.5 * MIB, MIB]);
});

test('a directory that is short with all below it is a package, which comes whole', (t) => {
  const { read } = layer([
    ...some('a', 4, 4 * KIB),
    ...some('b/one', 4, 4 * KIB),
    ...some('b/two', 4, 4 * KIB),
    ...some('c', 4, 4 * KIB),
    much,
  ]);
  t.deepEqual(read('b/one/002'), ['b/one/000', 'b/two/003']);
});

test('neighbours are files whose names end as those of missed ones', (t) => {
  const named = (endings: readonly string[], bytes: number) =>
    endings.map((ending, i) => ({ name: `a/${i}${ending}`, chunks: [bytes] }));
  const { read } = layer([...named(['.c', '.c', '.so', '.c', '.so.1.2', '.c', '.h', '.c'], 10 * KIB), much]);
  t.deepEqual(read('a/2.so'), ['a/2.so', 'a/4.so.1.2']);
  t.deepEqual(read('a/6.h'), ['a/6.h', 'a/6.h']);
  t.deepEqual(read('a/0.c'), ['a/0.c', 'a/7.c']);
});

test('a large program comes alone, and no large ones with a small one', (t) => {
  const program = (name: string, bytes: number) => ({ name: `a/${name}`, chunks: [bytes], mode: 0o755 });
  const { read } = layer([
    program('0', 4 * KIB),
    program('1', 4 * KIB),
    program('2', 200 * KIB),
    program('3', 4 * KIB),
  ]);
  t.deepEqual(read('a/2'), ['a/2', 'a/2']);
  t.deepEqual(read('a/1'), ['a/0', 'a/1']);
});

test('a large file is not brought along, and brings little', (t) => {
  const { read } = layer([
    { name: 'a/0', chunks: [200 * KIB] },
    { name: 'a/1', chunks: [200 * KIB] },
    { name: 'a/2', chunks: [MIB] },
    { name: 'a/3', chunks: [KIB] },
    { name: 'a/4', chunks: [KIB] },
    { name: 'b/0', chunks: [KIB] },
  ]);
  t.deepEqual(read('a/4'), ['a/3', 'b/0']);
  t.deepEqual(read('a/2'), ['a/1', 'a/2']);
});

test('where a part of a large file is missed, the other parts are no neighbours', (t) => {
  const { read, ahead } = layer([file(Array<number>(200).fill(100 * KIB)), ...some('b', 9, KIB)]);
  t.deepEqual(read('b/008'), ['b/000', 'b/008']);
  t.deepEqual(ahead.window(100, 101), { first: 100, end: 101 });
});

test('reading in order goes on in order, by windows that double up to 4 MiB', (t) => {
  const { ahead, known, tree } = layer([file(Array<number>(300).fill(200 * KIB))]);
  const sizes: number[] = [];
  for (let chunk = 0; chunk < tree.counts.chunks;) {
    const { first, end } = ahead.window(chunk, chunk + 1);
    t.is(first, chunk);
    for (let i = first; i < end; i++) known.add(i);
    sizes.push(end - first);
    chunk = end;
  }
  t.deepEqual(sizes.slice(0, 3), [1, 1, 2]);
  t.true(sizes.every((size, i) => i === 0 || i === sizes.length - 1 || size >= sizes[i - 1]));
  t.is(Math.max(...sizes), 20);
});

test('who reads in order and still finds what he reads has more asked for in time', (t) => {
  const { ahead, known, tree } = layer([file(Array<number>(300).fill(200 * KIB))]);
  ahead.inOrder(0);
  let misses = 0;
  let asked = 0;
  for (let chunk = 0; chunk < tree.counts.chunks; chunk++) {
    if (!known.has(chunk)) {
      misses++;
      const { first, end } = ahead.window(chunk, chunk + 1);
      for (let i = first; i < end; i++) known.add(i);
    }
    const span = ahead.next(chunk + 1);
    if (span === undefined) continue;
    asked++;
    for (let i = span.first; i < span.end; i++) known.add(i);
    t.true(span.first > chunk && span.end - chunk <= 45);
  }
  t.is(misses, 1);
  t.true(asked < 40);
});

test('behind so much that is there somebody goes through the layer: the largest window at once', (t) => {
  for (const [there, brought] of [
    [30, 20],
    [10, 1],
  ]) {
    const { ahead, known } = layer([file(Array<number>(100).fill(200 * KIB))]);
    for (let chunk = 0; chunk < there; chunk++) known.add(chunk);
    t.deepEqual(ahead.window(there, there + 1), { first: there, end: there + brought });
  }
});

test('two chance neighbours are not reading in order', (t) => {
  const { ahead, known } = layer([file(Array<number>(50).fill(300 * KIB))]);
  for (const chunk of [20, 21]) {
    t.deepEqual(ahead.window(chunk, chunk + 1), { first: chunk, end: chunk + 1 });
    known.add(chunk);
  }
  t.is(ahead.next(22), undefined);
});

test('whole files: short ones at once, programs up to a size, others at the second part', (t) => {
  const { ahead, inodeOf, tree } = layer([
    { name: 'one', chunks: [MIB] },
    { name: 'short', chunks: [4 * MIB, 4 * MIB] },
    { name: 'program', chunks: Array<number>(12).fill(MIB), mode: 0o755 },
    { name: 'data', chunks: Array<number>(12).fill(MIB) },
    { name: 'huge', chunks: Array<number>(20).fill(MIB), mode: 0o755 },
    { name: 'liba.so.1', chunks: Array<number>(12).fill(MIB) },
  ]);
  const whole = (name: string, part = 0) => {
    const inode = inodeOf(name);
    return ahead.wholeFile(inode, tree.first[inode] + part);
  };
  t.is(whole('one'), undefined);
  t.deepEqual(whole('short'), { first: 1, end: 3 });
  t.deepEqual(whole('program'), { first: 3, end: 15 });
  t.is(whole('data', 3), undefined);
  t.is(whole('data', 3), undefined);
  t.deepEqual(whole('data', 4), { first: 15, end: 27 });
  t.is(whole('huge'), undefined);
  t.is(whole('huge', 5), undefined);
  t.deepEqual(whole('liba.so.1'), { first: 47, end: 59 }); // mapped as a program is
});

test('of a program of which less is loaded, that much is all of it', (t) => {
  const { ahead, inodeOf, tree } = layer([
    { name: 'program', chunks: Array<number>(20).fill(MIB), mode: 0o755 },
    { name: 'b', chunks: [MIB] },
  ]);
  const inode = inodeOf('program');
  t.deepEqual(ahead.program(inode), { first: 0, end: 1 });
  t.is(ahead.loads(inode, 7 * MIB + 1), 8);
  t.deepEqual(ahead.program(inode), { first: 0, end: 8 });
  t.deepEqual(ahead.wholeFile(inode, 0), { first: 0, end: 8 });
  t.is(ahead.loads(inode, 2 ** 60), 20);
  t.deepEqual(ahead.program(inode), { first: 0, end: 1 });
  t.deepEqual(ahead.program(inodeOf('b')), { first: tree.counts.chunks - 1, end: tree.counts.chunks });
});

test('a program that has missed files of other layers goes on in this one: beyond the first directory', (t) => {
  const files = [
    ...Array.from({ length: 5 }, (_, i) => ({ name: `p/a/${i}.m`, chunks: [20 * KIB] })),
    ...Array.from({ length: 50 }, (_, i) => ({ name: `p/b/${100 + i}.m`, chunks: [20 * KIB] })),
    ...Array.from({ length: 2 }, (_, i) => ({ name: `p/c/${i}.m`, chunks: [MIB] })),
  ];
  for (const [count, at, last] of [
    [0, 0, 'p/a/4.m'],
    [1, 0, 'p/a/4.m'],
    [2, 0, 'p/b/145.m'], // up to 1 MiB
    [2, -10_000, 'p/a/4.m'], // long ago
  ] as const) {
    const misses: Misses = { count, at: performance.now() + at };
    const { read } = layer(files, 100 * MIB, misses);
    t.deepEqual(read('p/a/0.m'), ['p/a/0.m', last]);
    t.is(misses.count, at === 0 ? count + 1 : 1);
  }
});

test('what a landmark asks for: all that begins before it, of very large files the beginning', (t) => {
  const { tree } = layer([
    { name: 'a', chunks: [MIB] },
    { name: 'huge', chunks: Array<number>(20).fill(MIB) },
    { name: 'b', chunks: [MIB, MIB] },
    { name: 'huge2', chunks: Array<number>(20).fill(MIB) },
    { name: 'c', chunks: [MIB] },
  ]);
  t.deepEqual(landmarkSpans(tree, 0), []);
  t.deepEqual(landmarkSpans(tree, 1), [{ first: 0, end: 1 }]);
  t.deepEqual(landmarkSpans(tree, 10 * MIB), [{ first: 0, end: 2 }]);
  t.deepEqual(landmarkSpans(tree, 22 * MIB), [
    { first: 0, end: 2 },
    { first: 21, end: 22 },
  ]);
  t.deepEqual(landmarkSpans(tree, Infinity), [
    { first: 0, end: 2 },
    { first: 21, end: 24 },
    { first: 43, end: 44 },
  ]);
});

test('whatever is read in whatever order, a window holds what is asked for, and stays within bounds', (t) => {
  const size = fc.integer({ min: 1, max: 300 * KIB });
  const file = fc.record({ directory: fc.nat(5), chunks: fc.array(size, { minLength: 1, maxLength: 4 }) });
  fc.assert(
    fc.property(
      fc.array(file, { minLength: 1, maxLength: 60 }),
      fc.array(fc.nat(), { maxLength: 60 }),
      (files, reads) => {
        const sorted = files.map(({ directory, chunks }, i) => ({ name: `${directory}/${1000 + i}`, chunks }));
        const { ahead, known, tree } = layer(sorted.sort((a, b) => (a.name < b.name ? -1 : 1)));
        for (const read of reads) {
          const chunk = read % tree.counts.chunks;
          if (known.has(chunk)) continue;
          const { first, end } = ahead.window(chunk, chunk + 1);
          t.true(first >= 0 && first <= chunk && end > chunk && end <= tree.counts.chunks);
          t.true(tree.chunkEnd(end - 1) - tree.chunkOffset[first] <= 7 * MIB);
          for (let i = first; i < end; i++) known.add(i);
          const next = ahead.next(chunk + 1);
          if (next !== undefined) t.true(next.first >= chunk + 1 && next.end >= next.first);
        }
      },
    ),
    { numRuns: 500 },
  );
});
