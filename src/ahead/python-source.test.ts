import test from 'ava';
import fc from 'fast-check';
import { told } from '../testing/pyc.js';
import { soon } from '../testing/soon.js';
import { libraryImports, sourceImports, type Import } from './python.js';

test('statements of a source', (t) => {
  const cases: [source: string, expected: Import[]][] = [
    ['import a, b as c', [told(0, 'a'), told(0, 'b')]],
    ['import a.b.c as d,e', [told(0, 'a.b.c'), told(0, 'e')]],
    ['import a # b, c', [told(0, 'a')]],
    ['import a\r\nfrom b import c\r\n', [told(0, 'a'), told(0, 'b', 'c')]],
    ['from a import b as c, d as e', [told(0, 'a', 'b', 'd')]],
    ['from a.b import (c, d,)', [told(0, 'a.b', 'c', 'd')]],
    [
      'from a import (\n  b,  # from x import y)\n\n  # import z\n  c as d\n)\nimport e',
      [told(0, 'a', 'b', 'c'), told(0, 'e')],
    ],
    ['from a import b, \\\n  c\nimport \\\n  d', [told(0, 'a', 'b', 'c'), told(0, 'd')]],
    ['from . import a', [told(1, '', 'a')]],
    ['from .import a', [told(1, '', 'a')]],
    ['from .. a import b', [told(2, 'a', 'b')]],
    ['from ...a.b import *', [told(3, 'a.b', '*')]],
    ['from\ta\timport\tb', [told(0, 'a', 'b')]],
    ['from importlib import import_module', [told(0, 'importlib', 'import_module')]],
    ['from a import(b)', [told(0, 'a', 'b')]],
    ['if x:\n\timport a\n\tdef f():\n\t\timport b\n\timport c', [told(0, 'a'), told(0, 'c')]],
    ['def f():\n  import a\n\n  if x:\n    import b\nimport c', [told(0, 'c')]],
    ['async def f():\n  import a\nclass A:\n  import b\n# no end\n  import c\nimport d', [told(0, 'd')]],
    ['if TYPE_CHECKING:\n  import a\nelse:\n  import b', [told(0, 'b')]],
    ['if typing.TYPE_CHECKING:\n  from a import b\nimport c', [told(0, 'c')]],
    ['if not TYPE_CHECKING:\n  import a', [told(0, 'a')]],
    ['if TYPE_CHECKING_TOO:\n  import a\ndefault = 1\nclassic = 2\nimport b', [told(0, 'a'), told(0, 'b')]],
    ['try:\n  import a\nexcept ImportError:\n  a = None\nfinally:\n  import b', [told(0, 'a'), told(0, 'b')]],
    ['def f(\n  a,\n):\n  import b\nimport c', [told(0, 'c')]],
    ['import a; from b import c', [told(0, 'a'), told(0, 'b', 'c')]],
    ['imports = 1\nimporter()\nfrom_a = 2\nfrom a\nimport\nimport\nfrom a import', []],
    ['', []],
  ];
  for (const [source, expected] of cases) t.deepEqual(sourceImports(source), expected, source);
});

test('a source tells no more than it may', (t) => {
  t.is(sourceImports('import a\n'.repeat(19_000)).length, 16_384);
  t.is(sourceImports(`${'\n'.repeat(20_000)}import a`).length, 0);
  t.deepEqual(sourceImports(`from a import (\n${'b,\n'.repeat(300)}`)[0].from.length, 256);
});

test('no text makes it fail or hang', (t) => {
  const pieces = [
    'import',
    'from',
    ' ',
    '  ',
    '\t',
    '\n',
    '\r',
    '\\',
    '(',
    ')',
    ',',
    '.',
    '*',
    '#',
    'a',
    'as',
    'def f():',
    'é',
    '\0',
    '\u2028',
  ];
  const text = fc.oneof(
    fc.array(fc.constantFrom(...pieces), { maxLength: 60 }).map((some) => some.join('')),
    fc.string({ unit: 'binary', maxLength: 200 }),
  );
  fc.assert(
    fc.property(text, (source) => {
      for (const { name, level, from } of soon(() => sourceImports(source)))
        t.true(level <= 128 && [name, ...from].every((one) => /^[\w.]*$|^\*$/.test(one)));
    }),
    { numRuns: 2000 },
  );
});

test('no long line makes it hang', (t) => {
  const starts = [
    '',
    'import',
    'import ',
    'from',
    'from ',
    'from .',
    'from . ',
    'from a',
    'from a import',
    'from a import (',
    'if',
    'if ',
    '\t',
  ];
  for (const start of starts)
    for (const filling of [' ', '.', 'a', 'a.', '. ', ',', 'a,', '(', '\\', '#', ' \r', '\n', 'import ', '\\\n', '(\n'])
      for (const end of ['', '!', '!\r!', ' import x'])
        t.true(Array.isArray(soon(() => sourceImports(start + filling.repeat(500_000 / filling.length) + end))), start);
});

test('names of a library: what lies between zeros and looks like one', (t) => {
  const names = (text: string) => {
    const found = libraryImports(Buffer.from(text, 'latin1'));
    for (const { level, from } of found) t.true(level === 0 && from.length === 0);
    return found.map(({ name }) => name);
  };
  t.deepEqual(names('datetime\0a.b_c2\0no name\0x\0\0%s\0a-b\0caf\xe9\0datetime\0_io'), ['datetime', 'a.b_c2', '_io']);
  t.deepEqual(names(''), []);
  t.deepEqual(names('ab'), ['ab']);
  t.deepEqual(names(`${'a'.repeat(128)}\0${'b'.repeat(129)}\0cd`), ['a'.repeat(128), 'cd']);
  const many = Array.from({ length: 20_000 }, (_, i) => `n${i}`);
  t.deepEqual(names(many.join('\0')), many.slice(0, 16_384));
  for (const byte of ['\0', 'a', ' ', 'a\0', 'ab\0'])
    t.true(soon(() => libraryImports(Buffer.from(byte.repeat(1_000_000 / byte.length)))).length <= 1);
});
