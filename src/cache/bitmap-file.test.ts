import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { temporaryDirectory } from '../testing/temporary.js';
import { loadBitmap, saveBitmap } from './bitmap-file.js';
import { Presence } from './presence.js';

test('bits are believed for the tree that they were saved of, and as they were saved', async (t) => {
  const path = join(await temporaryDirectory(t, 'bitmap'), 'present');
  t.is(await loadBitmap(path, 70, 'a'), undefined);
  const presence = new Presence(new SharedArrayBuffer(Presence.bytes(70)));
  for (const chunk of [0, 31, 69]) presence.set(chunk);
  await saveBitmap(path, presence, 70, 'a');
  const loaded = (await loadBitmap(path, 70, 'a'))!;
  t.deepEqual(Buffer.from(loaded.buffer), Buffer.from(presence.buffer));
  t.is(await loadBitmap(path, 70, 'b'), undefined, 'another tree');
  t.is(await loadBitmap(path, 71, 'a'), undefined, 'as many bytes of bits, but another tree');
  const file = await readFile(path);
  for (let at = 0; at < file.length; at++) {
    const other = Buffer.from(file);
    other[at] ^= 1;
    await writeFile(path, other);
    t.is(await loadBitmap(path, 70, 'a'), undefined, `byte ${at}`);
  }
  for (const length of [0, 20, 48, file.length - 1]) {
    await writeFile(path, file.subarray(0, length));
    t.is(await loadBitmap(path, 70, 'a'), undefined, `${length} bytes`);
  }
});
