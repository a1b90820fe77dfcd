import test from 'ava';
import fc from 'fast-check';
import { boundedTreeOf } from '../testing/bounded-tree.js';
import { IncludeFinder, includesOf, isCompiler, isSource } from './includes.js';

const shown = (source: string) =>
  includesOf(Buffer.from(source)).map(({ name, quoted, next }) => `${next ? '+' : ''}${quoted ? `"${name}"` : name}`);

test('directives, as they are written', (t) => {
  t.deepEqual(shown('#include <stdio.h>\n#include "own.h"\n'), ['stdio.h', '"own.h"']);
  t.deepEqual(shown('  # \t include/* x */<sys/types.h> // why\r\n#include<a>'), ['sys/types.h', 'a']);
  t.deepEqual(shown('/* a\n b */ #include <a.h>\n#include_next <b.h>\n#import "c.h"'), ['a.h', '+b.h', '"c.h"']);
  t.deepEqual(shown('#if 0\n#include <a.h>\n#endif\n'), ['a.h'], 'whatever the condition');
  t.deepEqual(shown('#inc\\\nlude <a.h>\n#\\\ninclude \\\n<b.h>'), ['b.h']);
});

test('what is no directive', (t) => {
  for (const source of [
    '',
    '#include',
    '#include NAME',
    '#include <>',
    '#include <a.h\n>',
    '#include "a.h',
    '#included <a.h>',
    'x #include <a.h>',
    '/* \n#include <a.h>\n*/',
    '/*\n#include <a.h>',
    '// a \\\n#include <a.h>\n',
    '#define A "/*" \\\n#include <a.h>\n',
    `#include <${'a'.repeat(256)}>`,
    '#include <a\0b>',
  ])
    t.deepEqual(shown(source), [], source);
  t.deepEqual(shown('char *s = "/*";\n#include <a.h>\n'), ['a.h']);
  t.deepEqual(shown("char c = '\"'; char d = '\\''; /* */\n#include <a.h>\n"), ['a.h']);
  t.deepEqual(shown('// "\n#include <a.h>\n'), ['a.h']);
});

test('any names are read back, whatever stands between', (t) => {
  const name = fc.stringMatching(/^[\w.+/-]{1,40}$/);
  const between = fc.constantFrom(
    '',
    '\n',
    'int x;\n',
    '/* <a> " */\n',
    '// "\n',
    '"a\\"b"\n',
    "'\\''\n",
    '#pragma x\n',
  );
  const line = fc.record({ name, quoted: fc.boolean(), next: fc.boolean(), between });
  fc.assert(
    fc.property(fc.array(line, { maxLength: 20 }), (lines) => {
      const text = lines.map(
        ({ name, quoted, next, between }) =>
          `${between}#include${next ? '_next' : ''} ${quoted ? `"${name}"` : `<${name}>`}\n`,
      );
      const wanted = lines.map(({ name, quoted, next }) => ({ name, quoted, next }));
      t.deepEqual(includesOf(Buffer.from(text.join(''))), wanted);
    }),
  );
});

test('no bytes make it fail, hang, or tell more than it may', (t) => {
  const piece = fc.constantFrom(
    '#',
    'include',
    '<',
    '>',
    '"',
    "'",
    '\\',
    '\n',
    '/*',
    '*/',
    '//',
    ' ',
    'a',
    '\0',
    '_next',
  );
  fc.assert(
    fc.property(fc.array(piece, { maxLength: 200 }), fc.uint8Array({ maxLength: 50 }), (pieces, bytes) => {
      for (const one of includesOf(Buffer.concat([Buffer.from(pieces.join('')), bytes])))
        t.true(one.name.length > 0 && one.name.length <= 255 && !one.name.includes('\n'));
    }),
    { numRuns: 3000 },
  );
  t.is(shown('#include <a>\n'.repeat(5000)).length, 1024);
});

test('no long text takes more than its length', (t) => {
  const before = performance.now();
  for (const part of ['/*', '/* */', '#', '# include <', '"', '\\\n', '//', ' ', '#include "', "/'\\"])
    includesOf(Buffer.from(part.repeat(500_000)));
  t.true(performance.now() - before < 3000);
});

const GCC = '/usr/lib/gcc/x86_64-linux-gnu/12';
const HEADERS = [
  `${GCC}/cc1`,
  `${GCC}/include/stddef.h`,
  `${GCC}/include/limits.h`,
  '/usr/local/include/mine.h',
  '/usr/include/x86_64-linux-gnu/sys/types.h',
  '/usr/include/stdc-predef.h',
  '/usr/include/stdio.h',
  '/usr/include/stdlib.h',
  '/usr/include/limits.h',
  '/usr/include/mine.h',
  '/usr/include/c++/12/vector',
  '/usr/include/c++/12/stdlib.h',
  '/usr/include/x86_64-linux-gnu/c++/12/bits/config.h',
  '/src/main.c',
  '/src/main.cc',
  '/src/own.h',
  '/src/stdio.h',
  '/own.h',
];

function finder(...paths: string[]) {
  const tree = boundedTreeOf(paths);
  const found = new IncludeFinder(tree);
  const leads = (path: string, source: string) =>
    found.leadsTo({ path, node: tree.root }, Buffer.from(source)).map((one) => {
      same(tree.resolve(one.path), one.node);
      return one.path;
    });
  return { found, tree, leads };
}

function same(one: { layer: number; inode: number }, other: { layer: number; inode: number }): void {
  if (one.layer !== other.layer || one.inode !== other.inode) throw new Error('another file');
}

test('headers where GCC looks for them', (t) => {
  const { leads } = finder(...HEADERS);
  const main = '/src/main.c';
  t.deepEqual(leads(main, '#include <stdio.h>\n#include <sys/types.h>\n#include <stddef.h>\n#include <gone.h>'), [
    '/usr/include/stdio.h',
    '/usr/include/x86_64-linux-gnu/sys/types.h',
    `${GCC}/include/stddef.h`,
  ]);
  t.deepEqual(leads(main, '#include "stdio.h"\n#include "stdlib.h"\n#include "../own.h"\n#include "/src/own.h"'), [
    '/src/stdio.h',
    '/usr/include/stdlib.h',
    '/own.h',
    '/src/own.h',
  ]);
  t.deepEqual(leads(main, '#include <mine.h>\n#include <own.h>\n#include <sys>\n#include <vector>'), [
    '/usr/local/include/mine.h',
  ]);
  t.deepEqual(leads(`${GCC}/include/limits.h`, '#include_next <limits.h>'), ['/usr/include/limits.h']);
});

test('headers of C++, and what these include', (t) => {
  const { leads } = finder(...HEADERS);
  t.deepEqual(leads('/src/main.cc', '#include <vector>\n#include <stdlib.h>\n#include <mine.h>'), [
    '/usr/include/c++/12/vector',
    '/usr/include/c++/12/stdlib.h',
    '/usr/local/include/mine.h',
  ]);
  t.deepEqual(leads('/usr/include/c++/12/vector', '#include <bits/config.h>'), [
    '/usr/include/x86_64-linux-gnu/c++/12/bits/config.h',
  ]);
  t.deepEqual(leads('/usr/include/c++/12/stdlib.h', '#include_next <stdlib.h>'), ['/usr/include/stdlib.h']);
  t.deepEqual(leads('/src/main.c', '#include <stdlib.h>'), ['/usr/include/stdlib.h']);
});

test('what a compiler begins with, and its own headers among those of several', (t) => {
  const other = '/usr/local/lib/gcc/x86_64-linux-gnu/13.2.0';
  const { found, leads } = finder(...HEADERS, `${other}/include/stddef.h`, '/usr/local/include/c++/13.2.0/string');
  t.deepEqual(leads('/src/main.c', '#include <stddef.h>'), [`${other}/include/stddef.h`]);
  const paths = (compiler: string) => found.start(compiler).map(({ path }) => path);
  t.deepEqual(
    paths(`${GCC}/cc1`),
    ['stdc-predef.h', 'stdio.h', 'stdlib.h'].map((name) => `/usr/include/${name}`),
  );
  t.deepEqual(leads('/src/main.c', '#include <stddef.h>'), [`${GCC}/include/stddef.h`]);
  t.deepEqual(paths('/usr/local/libexec/gcc/x86_64-linux-gnu/13.2.0/cc1plus'), [
    '/usr/include/stdc-predef.h',
    '/usr/local/include/c++/13.2.0/string',
  ]);
});

test('an image without GCC, links, and links that lead in circles', (t) => {
  const { leads } = finder(
    '/usr/include/a.h -> b.h',
    '/usr/include/b.h',
    '/usr/include/c.h -> c.h',
    '/usr/include/d.h/',
  );
  const umlauts = finder('/ä/ö.h');
  t.deepEqual(umlauts.leads('/ä/m.c', '#include "ö.h"'), ['/ä/ö.h']);
  t.deepEqual(leads('/m.c', '#include <a.h>\n#include <c.h>\n#include <d.h>\n#include <.>\n#include "/"'), [
    '/usr/include/a.h',
  ]);
});

test('what sources are called, and compilers', (t) => {
  for (const name of ['a.c', 'a.h', 'a.cc', 'a.cpp', 'a.hxx', 'a.C', 'a.c++']) t.true(isSource(name), name);
  for (const name of ['c', 'a.o', 'a.ch', 'a.py', 'h']) t.false(isSource(name), name);
  t.true(isCompiler('cc1') && isCompiler('cc1plus'));
  t.false(isCompiler('cc') || isCompiler('constructor'));
});

test('a walk looks up no more than it may', (t) => {
  const { leads, tree } = finder(...HEADERS);
  let looked = 0;
  const child = tree.child.bind(tree);
  tree.child = (...args) => (looked++, child(...args));
  for (let file = 0; file < 100; file++)
    leads(
      '/src/main.c',
      Array.from({ length: 1000 }, (_, i) => `#include <x${file}/y${i}.h>\n#include <y${i}.h>`).join('\n'),
    );
  t.true(looked > 10_000 && looked < 40_000, String(looked));
});
