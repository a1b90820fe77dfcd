import { deflateRawSync, gzipSync } from 'node:zlib';
import test from 'ava';
import fc from 'fast-check';
import { FormatError } from '../errors.js';
import { seededBytes } from '../testing/image-files.js';
import { gzipHeaderBytes, inflateBeginning, MemberReader } from './member.js';

function inflate(member: Uint8Array, innerOffset: number, size: number): Buffer {
  const out = Buffer.alloc(size + 20, 0xaa);
  new MemberReader(member).read(innerOffset, size, out, 10);
  if (out.subarray(0, 10).some((b) => b !== 0xaa) || out.subarray(10 + size).some((b) => b !== 0xaa))
    throw new Error('wrote outside its range');
  return out.subarray(10, 10 + size);
}

test('any range of a member, of any level, and of several members after each other', (t) => {
  const content = seededBytes(300_000, 5);
  const one = gzipSync(content);
  const three = Buffer.concat([
    gzipSync(content.subarray(0, 1000), { level: 0 }),
    gzipSync(content.subarray(1000, 1000)),
    gzipSync(content.subarray(1000, 200_000), { level: 1 }),
    gzipSync(content.subarray(200_000)),
  ]);
  fc.assert(
    fc.property(fc.nat(300_000), fc.nat(300_000), fc.constantFrom(one, three), (a, b, member) => {
      const [start, end] = [Math.min(a, b), Math.max(a, b)];
      t.true(inflate(member, start, end - start).equals(content.subarray(start, end)));
    }),
    { numRuns: 60 },
  );
});

test('reads of a member in any order, others between them, a damaged one among them', (t) => {
  const content = seededBytes(20_000, 7);
  const sound = Buffer.concat([gzipSync(content.subarray(0, 9000)), gzipSync(content.subarray(9000))]);
  const cut = sound.subarray(0, -2000);
  const range = fc.tuple(fc.nat(20_000), fc.nat(20_000), fc.constantFrom(0, 1, 2));
  fc.assert(
    fc.property(fc.array(range, { minLength: 1, maxLength: 12 }), (reads) => {
      const readers = [new MemberReader(sound), new MemberReader(sound), new MemberReader(cut)];
      for (const [a, b, which] of reads) {
        const [start, end] = [Math.min(a, b), Math.max(a, b)];
        const out = Buffer.alloc(end - start);
        try {
          readers[which].read(start, end - start, out, 0);
        } catch (error) {
          t.true(error instanceof FormatError && which === 2 && end > 15_000, String(error));
          continue;
        }
        t.true(out.equals(content.subarray(start, end)));
      }
    }),
    { numRuns: 200, endOnFailure: true },
  );
});

test('every optional field of a gzip header is passed over', (t) => {
  const header = Buffer.concat([
    Buffer.from('1f8b081e0000000000ff', 'hex'), // FHCRC, FEXTRA, FNAME, FCOMMENT
    Buffer.from('0300abcdef', 'hex'),
    Buffer.from('name\0comment\0', 'latin1'),
    Buffer.from('1234', 'hex'),
  ]);
  t.is(gzipHeaderBytes(header), header.length);
  const member = Buffer.concat([header, deflateRawSync(Buffer.from('hello')), Buffer.alloc(8)]);
  t.is(inflate(member, 1, 3).toString(), 'ell');
});

const good = gzipSync(seededBytes(5000, 1));
const refused: readonly [message: RegExp, member: Uint8Array, size: number][] = [
  [/^gzip member at offset 0: expected a gzip header of at least 10 bytes, found 4 bytes$/, good.subarray(0, 4), 1],
  [/^gzip member at offset 0: expected 1f 8b 08, found 000000$/, Buffer.alloc(20), 1],
  [/^gzip member at offset 3: expected flags below 0x20, found 0x80$/, Buffer.from('1f8b08800000000000ff', 'hex'), 1],
  [
    /^gzip member at offset 0: expected a whole gzip header, found 12 bytes$/,
    Buffer.from('1f8b08040000000000ffffff', 'hex'),
    1,
  ],
  [
    /^gzip member at offset 10: expected a text that ends with NUL, found 2 bytes$/,
    Buffer.from('1f8b08080000000000ff4142', 'hex'),
    1,
  ],
  [/expected [0-9]+ more bytes of content, found 0 bytes$/, good.subarray(0, 1000), 5000],
  [/expected 1 more bytes of content, found 0 bytes$/, good, 5001],
  [
    /^gzip member: expected a deflate stream, found "invalid block type"$/,
    Buffer.from('1f8b08000000000000ff0707070707', 'hex'),
    1,
  ],
];
for (const [message, member, size] of refused)
  test(`refuses: ${message.source}`, (t) => {
    t.throws(() => inflate(member, 0, size), { instanceOf: FormatError, message });
    // A failure leaves nothing behind that the next call would meet.
    t.is(inflate(gzipSync('after'), 0, 5).toString(), 'after');
  });

test('room that is too small is a fault of the caller', (t) => {
  t.throws(() => new MemberReader(good).read(0, 10, new Uint8Array(12), 3), { instanceOf: RangeError });
});

test('no mutation does more than raise a FormatError or give other bytes', (t) => {
  fc.assert(
    fc.property(fc.nat(good.length - 1), fc.integer({ min: 1, max: 255 }), fc.nat(4999), (at, flip, inner) => {
      const bad = Buffer.from(good);
      bad[at] ^= flip;
      try {
        inflate(bad, inner, 5000 - inner);
      } catch (error) {
        t.true(error instanceof FormatError, String(error));
      }
    }),
    { numRuns: 500 },
  );
});

test('of a member that was cut off, what there is', (t) => {
  const content = seededBytes(300_000, 6);
  const member = gzipSync(content);
  let before = 0;
  for (const share of [0.1, 0.5, 0.9, 1]) {
    const found = inflateBeginning(member.subarray(0, member.byteLength * share), Buffer.alloc(400_000));
    t.true(found.byteLength > before && content.subarray(0, found.byteLength).equals(found));
    before = found.byteLength;
  }
  t.is(before, content.byteLength);
  t.true(content.subarray(0, 5000).equals(inflateBeginning(member.subarray(0, 100_000), Buffer.alloc(5000))));
  t.throws(() => inflateBeginning(Buffer.alloc(100), Buffer.alloc(100)), { instanceOf: FormatError });
  t.throws(
    () => inflateBeginning(Buffer.concat([member.subarray(0, 10), Buffer.alloc(100, 0xff)]), Buffer.alloc(100)),
    {
      instanceOf: FormatError,
    },
  );
  // Whoever inflates next is not disturbed.
  t.true(inflate(member, 1000, 1000).equals(content.subarray(1000, 2000)));
});
