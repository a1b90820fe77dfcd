import { gunzipSync } from 'node:zlib';
import test from 'ava';
import fc from 'fast-check';
import { FormatError } from '../errors.js';
import { encodeFooter, FOOTER_BYTES, parseFooter, type FooterKind } from './footer.js';

const kinds: readonly FooterKind[] = ['estargz', 'stargz', 'external'];

test('each footer has its length, is an empty gzip member, and is found behind any bytes', (t) => {
  fc.assert(
    fc.property(
      fc.constantFrom(...kinds),
      fc.nat(2 ** 40),
      fc.uint8Array({ maxLength: 80 }),
      (kind, offset, before) => {
        const footer = encodeFooter(kind, offset);
        t.is(footer.length, FOOTER_BYTES[kind]);
        t.is(gunzipSync(footer).length, 0);
        const size = offset + 1 + footer.length;
        const expected = kind === 'external' ? size - footer.length : offset;
        t.deepEqual(parseFooter(Buffer.concat([before, footer]), size), { kind, tocOffset: expected });
      },
    ),
  );
});

test('the bytes are those of the format', (t) => {
  t.is(
    encodeFooter('estargz', 0x1234abcd).toString('hex'),
    '1f8b08040000000000ff' +
      '1a00' +
      '53471600' +
      Buffer.from('000000001234abcdSTARGZ').toString('hex') +
      '010000ffff' +
      '0000000000000000',
  );
});

test('mtime, xfl and os of the header do not matter', (t) => {
  const footer = encodeFooter('estargz', 5);
  footer.fill(0x42, 4, 10);
  t.is(parseFooter(footer, 1000)?.tocOffset, 5);
});

test('an offset outside the blob is refused', (t) => {
  for (const kind of ['estargz', 'stargz'] as const) {
    const length = FOOTER_BYTES[kind];
    t.throws(() => parseFooter(encodeFooter(kind, 1000 - length), 1000), {
      instanceOf: FormatError,
      message: `eStargz footer at offset ${1000 - length}: expected a TOC offset below ${1000 - length}, found 0x${(1000 - length).toString(16).padStart(16, '0')}`,
    });
    const huge = encodeFooter(kind);
    huge.write('ffffffffffffffff', length - 35, 'latin1');
    t.throws(() => parseFooter(huge, 1000), { message: /found 0xffffffffffffffff$/ });
  }
});

test('any change is no footer, or one that leads elsewhere inside the blob', (t) => {
  fc.assert(
    fc.property(fc.constantFrom(...kinds), fc.nat(50), fc.integer({ min: 1, max: 255 }), (kind, at, flip) => {
      const footer = encodeFooter(kind, 500);
      footer[at % footer.length] ^= flip;
      try {
        const found = parseFooter(footer, 1000);
        t.true(found === undefined || (found.tocOffset >= 0 && found.tocOffset <= 1000 - footer.length));
      } catch (error) {
        t.true(error instanceof FormatError);
      }
    }),
    { numRuns: 500 },
  );
});

test('short and foreign tails are no footers', (t) => {
  t.is(parseFooter(Buffer.alloc(0), 0), undefined);
  t.is(parseFooter(Buffer.alloc(45), 45), undefined);
  t.is(parseFooter(Buffer.alloc(200, 0x1f), 200), undefined);
});
