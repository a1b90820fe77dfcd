import { gzipSync } from 'node:zlib';
import { compress } from '@cloudpss/zstd';
import test from 'ava';
import { collect, inPieces } from '../testing/image-bytes.js';
import { decompressed } from './decompress.js';

const text = Buffer.from('a tar, as far as anybody here knows'.repeat(10));
const packed = {
  gzip: gzipSync(text),
  zstd: Buffer.from(compress(text)),
  'nothing at all': text,
  'two bytes': text.subarray(0, 2),
};

for (const [what, bytes] of Object.entries(packed))
  test(`what comes byte by byte is told by what it begins with: ${what}`, async (t) => {
    t.deepEqual(await collect(decompressed(inPieces(bytes, 1))), what === 'two bytes' ? bytes : text);
  });

for (const how of ['in the same piece', 'in another piece', 'a while later'])
  test(`what lies behind the compressed stream is read to its end, and a failure there is not lost: ${how}`, async (t) => {
    for (const failure of [undefined, new Error('not what the digest says')]) {
      let ended = false;
      const source = async function* () {
        const rest = Buffer.alloc(200_000);
        if (how === 'in the same piece') yield Buffer.concat([packed.gzip, rest]);
        else yield packed.gzip;
        if (how === 'a while later') await new Promise((resolve) => setTimeout(resolve, 10));
        yield rest;
        ended = true;
        if (failure !== undefined) throw failure;
      };
      const reading = collect(decompressed(source()));
      if (failure === undefined) t.deepEqual(await reading, text);
      else t.is(await t.throwsAsync(reading), failure);
      t.true(ended);
    }
  });
