import test from 'ava';
import fc from 'fast-check';
import { FormatError } from '../errors.js';
import { normalizeName } from './names.js';

const normal = (name: string | Uint8Array) => normalizeName(Buffer.from(name as string));

test('every spelling of one place is one path', (t) => {
  for (const name of ['usr/bin', './usr/bin', '/usr/bin', '//usr//bin//', 'usr/./bin/.', '././usr/bin/'])
    t.is(normal(name), 'usr/bin', name);
  for (const name of ['', '.', './', '/', '//', '/./']) t.is(normal(name), '', name);
  for (const name of ['...', '..a', 'a..', '.a', 'a/...']) t.is(normal(name), name);
});

test('one character is one byte', (t) => {
  t.is(normal(Buffer.from([0xff, 0x2f, 0xe9, 0x0a])), '\xff/\xe9\n');
});

for (const [name, message] of [
  ['..', 'entry: expected a name without ".." in it, found ".."'],
  ['usr/../../etc/passwd', 'entry: expected a name without ".." in it, found "usr/../../etc/passwd"'],
  ['/..', 'entry: expected a name without ".." in it, found "/.."'],
  ['a\0b', 'entry: expected a name without NUL bytes, found "a\\u0000b"'],
  [
    'a'.repeat(256),
    `entry: expected name components of at most 255 bytes, found one of 256 bytes in "${'a'.repeat(256)}"`,
  ],
  ['a/'.repeat(2049), `entry: expected a name of at most 4096 bytes, found 4098 bytes, beginning "${'a/'.repeat(32)}"`],
] as const)
  test(`refuses: ${message.slice(0, 80)}`, (t) => {
    t.throws(() => normal(name), { instanceOf: FormatError, message });
  });

test('a component of 255 bytes passes', (t) => {
  t.is(normal(`d/${'n'.repeat(255)}`).length, 257);
});

test('whatever the bytes, a path stays below the root and normalising it again changes nothing', (t) => {
  const bytes = fc.array(fc.constantFrom(0x2f, 0x2e, 0x61, 0x00, 0xff), { maxLength: 20 }).map((a) => Buffer.from(a));
  fc.assert(
    fc.property(bytes, (name) => {
      let path: string;
      try {
        path = normalizeName(name);
      } catch (error) {
        t.true(error instanceof FormatError);
        return;
      }
      const parts = path === '' ? [] : path.split('/');
      t.true(parts.every((part) => part !== '' && part !== '.' && part !== '..' && !part.includes('\0')));
      t.is(normalizeName(Buffer.from(path, 'latin1')), path);
    }),
    { numRuns: 500 },
  );
});
