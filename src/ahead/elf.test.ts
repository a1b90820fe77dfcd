import test from 'ava';
import fc from 'fast-check';
import { open } from 'node:fs/promises';
import { elfFile } from '../testing/elf.js';
import { readDynamic, type ReadAt } from './elf.js';

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
