import { writeFile } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import test from 'ava';
import { writeProgram } from '../../testing/program.js';
import { temporaryDirectory } from '../../testing/temporary.js';
import { readWhole } from './whole.js';

test('a tree is read to its end', async (t) => {
  const directory = await temporaryDirectory(t, 'whole');
  await writeFile(join(directory, 'file'), 'x');
  await t.notThrowsAsync(readWhole(directory));
});

test('that tar breaks off counts, also after it has read something', async (t) => {
  const directory = await temporaryDirectory(t, 'whole');
  const failing = 'echo some bytes; echo "tar: ./file: Read error at byte 0: Input/output error" >&2; exit 2';
  writeProgram(join(directory, 'tar'), failing);
  const env = { PATH: [directory, process.env.PATH].join(delimiter) };
  await t.throwsAsync(readWhole(directory, [], { env }), {
    code: 'INTERNAL',
    message: /ended with 2: tar: \.\/file: Read error/,
  });
});

test('a tree that is gone is not read', async (t) => {
  const directory = await temporaryDirectory(t, 'whole');
  await t.throwsAsync(readWhole(join(directory, 'gone')), { code: 'INTERNAL', message: /Cannot open: No such file/ });
});
