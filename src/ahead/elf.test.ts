import test from 'ava';
import fc from 'fast-check';
import { open } from 'node:fs/promises';
import { elfFile } from '../testing/elf.js';
import { guessDynamic, readDynamic, type ReadAt } from './elf.js';

const over =
  (bytes: Uint8Array): ReadAt =>
  async (offset, length) =>
    bytes.subarray(offset, offset + length);

const text = fc.stringMatching(/^[a-z][a-z0-9.+-]{0,20}$/);

test('what a file says is read, whatever it is', async (t) => {
  const path = text.map((name) => `/lib/${name}`);
  await fc.assert(
    fc.asyncProperty(
      fc.record({
        interpreter: fc.option(path, { nil: undefined }),
        needed: fc.array(text, { maxLength: 8 }),
        runpath: fc.option(fc.uniqueArray(path, { minLength: 1, maxLength: 3 }), { nil: undefined }),
        machine: fc.nat(65535),
      }),
      async ({ interpreter, needed, runpath, machine }) => {
        const file = elfFile({ interpreter, needed, runpath: runpath?.join(':'), machine });
        t.deepEqual(await readDynamic(over(file)), {
          ...(interpreter !== undefined && { interpreter }),
          needed,
          runpath: runpath ?? [],
          machine,
          place: file.byteLength - 16 * (needed.length + (runpath === undefined ? 3 : 4)),
          loaded: file.byteLength,
        });
      },
    ),
    { numRuns: 200 },
  );
});

test('a program of this machine: what ldd would say of node', async (t) => {
  await using file = await open(process.execPath);
  const found = await readDynamic(async (offset, length) => {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(length), 0, length, offset);
    return buffer.subarray(0, bytesRead);
  });
  t.true(found!.needed.includes('libc.so.6'));
  t.regex(found!.interpreter!, /^\/lib.*\/ld-linux/);
});

test('other files are passed over: empty, text, 32 bits, big-endian, without a dynamic section', async (t) => {
  const sound = elfFile({ needed: ['libc.so.6'] });
  const changed = (at: number, value: number) => {
    const copy = Buffer.from(sound);
    copy[at] = value;
    return copy;
  };
  const others = [
    Buffer.alloc(0),
    Buffer.from('#!/bin/sh\n'.repeat(20)),
    changed(4, 1),
    changed(5, 2),
    changed(54, 32),
    changed(64 + 56, 6),
  ];
  for (const bytes of others) t.is(await readDynamic(over(bytes)), undefined);
});

test('no bytes make it fail, hang, or ask for more than it may', async (t) => {
  const sound = elfFile({ interpreter: '/lib/ld.so', needed: ['liba.so', 'libb.so'], runpath: '$ORIGIN' });
  const change = fc.record({ at: fc.nat(sound.byteLength - 1), to: fc.nat(255) });
  await fc.assert(
    fc.asyncProperty(fc.array(change, { maxLength: 12 }), fc.nat(sound.byteLength), async (changes, length) => {
      const bytes = Buffer.from(sound.subarray(0, length));
      for (const { at, to } of changes) if (at < length) bytes[at] = to;
      let asked = 0;
      const found = await readDynamic(async (offset, count) => {
        asked += count;
        return bytes.subarray(offset, offset + count);
      });
      t.true(asked <= 5 * 1024 * 1024);
      for (const name of found?.needed ?? []) t.true(name.length > 0);
    }),
    { numRuns: 2000 },
  );
});

test('by the beginning alone: libraries by the form of their names, directories that count from the file', async (t) => {
  const needed = [
    'libm.so.6',
    'ld-linux-x86-64.so.2',
    'libstdc++.so.6',
    'lib_a-b.cpython-311.so',
    'printf',
    '.so',
    'a/b.so',
    'x.sox',
  ];
  const runpath = '$ORIGIN/../own:$ORIGIN';
  const file = elfFile({ interpreter: '/lib64/ld.so', needed, runpath, code: Buffer.alloc(50_000), loaded: 40_000 });
  const guessed = await guessDynamic(file.subarray(0, 20_000));
  t.deepEqual(guessed, {
    interpreter: '/lib64/ld.so',
    needed: needed.slice(0, 4),
    runpath: ['$ORIGIN/../own', '$ORIGIN'],
    machine: 62,
    place: file.byteLength - 16 * (needed.length + 4),
    loaded: 40_000,
  });
  // Nothing has to be guessed where all is there.
  t.deepEqual((await guessDynamic(file))!.needed.length, needed.length);
  t.is(await guessDynamic(Buffer.from('#!/bin/sh\nliba.so\0')), undefined);
  // A name that is cut off is none.
  const end = file.indexOf('ld-linux') + 18;
  t.deepEqual((await guessDynamic(file.subarray(0, end)))!.needed, ['libm.so.6']);
});

test('no beginning makes it fail, or name more than it may', async (t) => {
  const many = Array.from({ length: 300 }, (_, i) => `lib${i}.so`);
  const sound = elfFile({ needed: many, runpath: '$ORIGIN:'.repeat(50), code: Buffer.alloc(9000, '.so\0') });
  const change = fc.record({ at: fc.nat(sound.byteLength - 1), to: fc.nat(255) });
  await fc.assert(
    fc.asyncProperty(fc.array(change, { maxLength: 12 }), fc.nat(sound.byteLength - 1), async (changes, length) => {
      const bytes = Buffer.from(sound.subarray(0, length));
      for (const { at, to } of changes) if (at < length) bytes[at] = to;
      const found = await guessDynamic(bytes);
      t.true((found?.needed.length ?? 0) <= 256 && (found?.runpath.length ?? 0) <= 32);
    }),
    { numRuns: 300 },
  );
});
