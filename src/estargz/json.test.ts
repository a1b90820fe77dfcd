import test from 'ava';
import fc from 'fast-check';
import { FormatError } from '../errors.js';
import { JsonCursor, Words } from './json.js';

const cursor = (text: string | Buffer) => new JsonCursor(Buffer.from(text as string), 'JSON');

function accepts(text: string): boolean {
  try {
    const json = cursor(text);
    json.skip();
    return json.peek() === -1;
  } catch (error) {
    if (error instanceof FormatError) return false;
    throw error;
  }
}

function isJson(text: string): boolean {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

test('accepts what JSON.parse accepts, and nothing else, also after mutations', (t) => {
  const change = fc.record({ at: fc.nat(200), to: fc.constantFrom(...'{}[],:"\\ 0123456789-+.eEtfnu\n\x01a') });
  fc.assert(
    fc.property(fc.json({ maxDepth: 3 }), fc.array(change, { maxLength: 3 }), (json, changes) => {
      const characters = [...json];
      for (const { at, to } of changes) characters[at % characters.length] = to;
      const text = characters.join('');
      t.is(accepts(text), isJson(text), text);
    }),
    { numRuns: 3000 },
  );
});

test('strings and numbers have the values that JSON.parse gives', (t) => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), fc.double({ noNaN: true, noDefaultInfinity: true }), (text, number) => {
      t.is(cursor(JSON.stringify(text)).string().toString('utf8'), Buffer.from(text, 'utf8').toString('utf8'));
      t.is(cursor(JSON.stringify(number)).number(), JSON.parse(JSON.stringify(number)));
    }),
  );
  t.is(cursor('"\\u00e9\\ud83d\\ude00\\/\\b"').string().toString('utf8'), '\u00e9\u{1f600}/\b');
  t.is(cursor('"\\ud83dx"').string().toString('utf8'), '\ufffdx');
  for (const n of ['0', '7', '-0', '123456789012345', '1234567890123456', '9007199254740991', '1e3', '-1.5E-2'])
    t.is(cursor(n).number(), Number(n));
});

test('bytes that are not UTF-8 survive, also beside escapes', (t) => {
  t.deepEqual(cursor(Buffer.from('"\xff\xe9"', 'latin1')).string(), Buffer.from('\xff\xe9', 'latin1'));
  t.deepEqual(cursor(Buffer.from('"\xff\\n\xe9"', 'latin1')).string(), Buffer.from('\xff\n\xe9', 'latin1'));
});

test('deep nesting is refused, not followed', (t) => {
  t.throws(() => cursor('['.repeat(100_000)).skip(), { instanceOf: FormatError, message: /nesting of at most 64/ });
});

test('words are found in place, also behind escapes', (t) => {
  const words = new Words([
    ['name', 1],
    ['mode', 2],
  ]);
  t.is(cursor('"mode"').word(words), 2);
  t.is(cursor('"\\u006eame"').word(words), 1);
  t.is(cursor('"modes"').word(words), undefined);
  t.throws(
    () =>
      new Words([
        ['a', 1],
        ['a', 2],
      ]),
    { message: "a has another word's hash" },
  );
});

for (const [text, message] of [
  ['"abc', 'JSON at offset 4: expected the end of a string, found the end'],
  ['"a\nb"', 'JSON at offset 2: expected a string without control characters, found "\\nb\\""'],
  ['"\\x"', 'JSON at offset 1: expected an escape, found "\\\\x\\""'],
  ['"\\u12g4"', 'JSON at offset 3: expected four hex digits, found "12g4\\""'],
] as const)
  test(`refuses: ${message}`, (t) => {
    t.throws(() => cursor(text).string(), { instanceOf: FormatError, message });
  });

test('escapes take no more memory than their text', (t) => {
  const json = cursor(`"${'\\n'.repeat(300_000)}"`);
  const before = process.memoryUsage().heapUsed;
  t.is(json.string().length, 300_000);
  t.true(process.memoryUsage().heapUsed - before < 20_000_000);
});
