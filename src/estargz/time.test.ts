import test from 'ava';
import fc from 'fast-check';
import { formatRfc3339, parseRfc3339 } from './time.js';

const parse = (text: string) => parseRfc3339(Buffer.from(text));

test('agrees with Date on every second of years 0 to 9999, and keeps nanoseconds', (t) => {
  const seconds = fc.integer({ min: -62_167_219_200, max: 253_402_300_799 });
  fc.assert(
    fc.property(seconds, fc.nat(999_999_999), (s, nanoseconds) => {
      t.is(parse(new Date(s * 1000).toISOString())?.seconds, s);
      t.deepEqual(parse(formatRfc3339({ seconds: s, nanoseconds })), { seconds: s, nanoseconds });
    }),
  );
});

test('zones, fractions of any length, lower case', (t) => {
  t.is(parse('1970-01-01T01:30:00+01:30')?.seconds, 0);
  t.is(parse('1969-12-31T16:00:00-08:00')?.seconds, 0);
  t.deepEqual(parse('2000-02-29t12:00:00.5z'), { seconds: 951_825_600, nanoseconds: 500_000_000 });
  t.is(parse('2000-02-29T12:00:00.1234567899999Z')?.nanoseconds, 123_456_789);
  t.is(formatRfc3339({ seconds: 1e15, nanoseconds: 0 }), '9999-12-31T23:59:59Z');
});

for (const bad of [
  '',
  '2000-01-01',
  '2000-13-01T00:00:00Z',
  '2000-01-00T00:00:00Z',
  '2000-01-01T24:00:00Z',
  '2000-01-01T00:00:00',
  '2000-01-01T00:00:00.Z',
  '2000-01-01T00:00:00Zx',
  '2000-01-01T00:00:00+0100',
  '2o00-01-01T00:00:00Z',
  '+2000-01-01T00:00:00Z',
])
  test(`refuses ${JSON.stringify(bad)}`, (t) => {
    t.is(parse(bad), undefined);
  });
