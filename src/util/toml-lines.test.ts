import test from 'ava';
import fc from 'fast-check';
import { parse, stringify } from 'smol-toml';
import { KeyLines, type KeyPath } from './toml-lines.js';

const document = `# a comment = [ "with", brackets ]
title = "x = 1 # no comment"

[a.'b c']   # table
one.two = 1
"quo\\"ted" = '''
not.a.key = 1
[nor.a.table]
''''
list = [ # of tables
  { x = 1, y.z = 2 },
  { x = [1,
         2], "w" = """
q\\"""" },
]
at = 1979-05-27 07:32:00
after = true

[[many]]
name = 'first'
[many.sub]
deep = { inner = { most = 1 } }
[[many]]
name = 'second'
sub.deep = 2
[many.other]
`;

const places: [KeyPath, number][] = [
  [['title'], 2],
  [['a'], 4],
  [['a', 'b c'], 4],
  [['a', 'b c', 'one'], 5],
  [['a', 'b c', 'one', 'two'], 5],
  [['a', 'b c', 'quo"ted'], 6],
  [['a', 'b c', 'list'], 10],
  [['a', 'b c', 'list', 0], 11],
  [['a', 'b c', 'list', 0, 'y', 'z'], 11],
  [['a', 'b c', 'list', 1, 'x', 1], 13],
  [['a', 'b c', 'list', 1, 'w'], 13],
  [['a', 'b c', 'at'], 16],
  [['a', 'b c', 'after'], 17],
  [['many'], 19],
  [['many', 0, 'name'], 20],
  [['many', 0, 'sub'], 21],
  [['many', 0, 'sub', 'deep', 'inner', 'most'], 22],
  [['many', 1], 23],
  [['many', 1, 'name'], 24],
  [['many', 1, 'sub', 'deep'], 25],
  [['many', 1, 'other'], 26],
];

test('finds tables, dotted keys, quoted keys, arrays of tables and inline tables', (t) => {
  t.notThrows(() => parse(document));
  const lines = new KeyLines(document);
  for (const [path, line] of places) t.is(lines.lineOf(path), line, path.join(' '));
});

test('what is not written down lies where the table around it does', (t) => {
  const lines = new KeyLines(document);
  t.is(lines.lineOf(['many', 1, 'other', 'absent', 'too']), 26);
  t.is(lines.lineOf(['absent']), undefined);
  t.is(lines.lineOf([]), undefined);
});

const key = fc.oneof(
  fc.string({ minLength: 1, maxLength: 6 }),
  fc.constantFrom('a', 'b-c', 'd_1', 'e f', '"', "'", '#', '[x]'),
);
const scalar = fc.oneof(
  fc.string(),
  fc.constantFrom('"""', "'''", '\n', '# x', 'a\\', '[', '}'),
  fc.integer(),
  fc.boolean(),
  fc.constant(1.5),
);
const { value } = fc.letrec<{ value: unknown }>((tie) => ({
  value: fc.oneof(
    { maxDepth: 3, withCrossShrink: true },
    scalar,
    fc.array(tie('value'), { maxLength: 3 }),
    fc.dictionary(key, tie('value'), { maxKeys: 3, noNullPrototype: true }),
  ),
}));
const tables = fc.dictionary(key, value, { maxKeys: 4, noNullPrototype: true });

function* pathsOf(node: unknown, path: KeyPath = []): Generator<KeyPath> {
  if (path.length > 0) yield path;
  if (typeof node !== 'object' || node === null) return;
  for (const [name, inner] of Object.entries(node))
    yield* pathsOf(inner, [...path, Array.isArray(node) ? Number(name) : name]);
}

test('every key that the parser sees in a document is found, on a line that holds it', (t) => {
  fc.assert(
    fc.property(tables, (table) => {
      const text = stringify(table);
      const rows = text.split('\n');
      const lines = new KeyLines(text);
      for (const path of pathsOf(parse(text))) {
        const line = lines.lineOf(path);
        t.true(line !== undefined && line <= rows.length, text);
        const name = path.at(-1);
        if (typeof name === 'string' && /^[\w-]+$/.test(name)) t.true(rows[line! - 1].includes(name), text);
      }
    }),
    { numRuns: 300 },
  );
});

test('the last key of any document is found on the line after all that stands before it', (t) => {
  fc.assert(
    fc.property(tables, (table) => {
      const before = Object.keys(table).length === 0 ? '' : `${stringify({ table })}\n`;
      t.is(new KeyLines(`${before}[last]\nkey=1`).lineOf(['last', 'key']), before.split('\n').length + 1, before);
    }),
    { numRuns: 300 },
  );
});
