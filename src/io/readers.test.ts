import { truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { collect } from '../testing/image-bytes.js';
import { temporaryDirectory } from '../testing/temporary.js';
import { BufferReader, FileReader, SliceReader } from './readers.js';
import type { RandomAccessReader } from './reader.js';

const bytes = Buffer.alloc(700_000, 'lazylayer');

test('every reader gives the same bytes, whole, in part, as a stream, and refuses what lies outside', async (t) => {
  const dir = await temporaryDirectory(t, 'io');
  await writeFile(join(dir, 'file'), bytes);
  const wider = new BufferReader(Buffer.concat([Buffer.alloc(10), bytes, Buffer.alloc(10)]));
  const readers: RandomAccessReader[] = [
    new BufferReader(bytes),
    await FileReader.open(join(dir, 'file')),
    new SliceReader(wider, 10, bytes.length),
  ];
  for (const reader of readers) {
    await using r = reader;
    t.is(r.size, bytes.length);
    for (const [offset, length] of [
      [0, 0],
      [0, bytes.length],
      [262_143, 262_146],
      [699_999, 1],
    ] as const) {
      const expected = bytes.subarray(offset, offset + length);
      t.deepEqual(Buffer.from(await r.read(offset, length)), expected);
      t.deepEqual(await collect(r.stream(offset, length)), expected);
    }
    await t.throwsAsync(r.read(bytes.length, 1), { message: /expected one within 700000 bytes/ });
    await t.throwsAsync(r.read(-1, 1), { message: /found 1 bytes from offset -1/ });
  }
});

test('a file that shrinks under its reader is an error, not a short read', async (t) => {
  const dir = await temporaryDirectory(t, 'io');
  await writeFile(join(dir, 'file'), bytes);
  await using reader = await FileReader.open(join(dir, 'file'));
  await truncate(join(dir, 'file'), 100);
  await t.throwsAsync(reader.read(0, 200), { message: /expected 700000 bytes, found the end of the file at byte 100/ });
});
