import test from 'ava';
import fc from 'fast-check';
import { age, humanBytes, percent, plural, shortDigest, table } from './text.js';

test('bytes', (t) => {
  const cases: [number, string][] = [
    [0, '0 B'],
    [1023, '1023 B'],
    [1024, '1.0 KiB'],
    [1536, '1.5 KiB'],
    [102_348, '99.9 KiB'],
    [102_400, '100 KiB'],
    [1024 * 999, '999 KiB'],
    [1024 * 1023, '1.0 MiB'],
    [20 * 2 ** 30, '20.0 GiB'],
  ];
  for (const [bytes, text] of cases) t.is(humanBytes(bytes), text);
  fc.assert(
    fc.property(fc.maxSafeNat(), (n) => t.regex(humanBytes(n), /^(\d{1,4} B|(\d\d?\.\d|\d{3}|\d{4}) [KMGTP]iB)$/)),
  );
});

test('percent reaches 100 only when all is there', (t) => {
  t.is(percent(999, 1000), '99%');
  t.is(percent(1000, 1000), '100%');
  t.is(percent(0, 0), '100%');
});

test('ages and counts', (t) => {
  t.is(age(-5), '0 seconds ago');
  t.is(age(1000), '1 second ago');
  t.is(age(60_000), '1 minute ago');
  t.is(age(2 * 3600_000), '2 hours ago');
  t.is(age(3 * 86_400_000), '3 days ago');
  t.is(plural(0, 'layer'), '0 layers');
  t.is(shortDigest(`sha256:${'0123456789abcdef'.repeat(4)}`), 'sha256:0123456789ab');
});

test('tables are aligned and have no trailing spaces', (t) => {
  const text = table(
    [{ title: 'NAME' }, { title: 'SIZE', right: true }, { title: 'X' }],
    [
      ['a', '10 B', 'y'],
      ['long name', '1.0 KiB', ''],
    ],
  );
  t.is(text, 'NAME          SIZE  X\na             10 B  y\nlong name  1.0 KiB\n');
  t.is(table([{ title: 'A' }, { title: 'B' }], []), 'A  B\n');
  t.is(table([{}, { right: true }], []), '');
});
