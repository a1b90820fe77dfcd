import { readdirSync, readFileSync } from 'node:fs';
import { posix } from 'node:path';
import test from 'ava';
import ts from 'typescript';

/** The floors in the order of the table in docs/architecture.md: the page is the rule, so the two cannot differ. */
function floorsOf(page: string): string[] {
  const rows = [...page.matchAll(/^\| `(src\/[^`]+)` \|/gm)].map((row) => row[1]);
  if (new Set(rows).size !== rows.length) throw new Error('docs/architecture.md: a floor is listed twice');
  return rows;
}

const TESTING = 'src/testing/';
const isTest = (file: string) => /\.test\.ts$/.test(file) || file.startsWith(TESTING);

/** Everything that a module takes from elsewhere: imports, types alone too, re-exports, dynamic imports, `import('x')` types. */
function importsOf(file: string, text: string): { name: string; line: number }[] {
  const source = ts.createSourceFile(file, text, ts.ScriptTarget.Latest, true);
  const found: { name: string; line: number }[] = [];
  const visit = (node: ts.Node): void => {
    let from: ts.Node | undefined;
    if (ts.isImportDeclaration(node) || ts.isExportDeclaration(node)) from = node.moduleSpecifier;
    else if (ts.isCallExpression(node) && node.expression.kind === ts.SyntaxKind.ImportKeyword)
      from = node.arguments[0];
    else if (ts.isImportTypeNode(node) && ts.isLiteralTypeNode(node.argument)) from = node.argument.literal;
    else if (
      ts.isNewExpression(node) &&
      node.expression.getText() === 'URL' &&
      node.arguments?.[1]?.getText() === 'import.meta.url'
    )
      from = node.arguments[0]; // a module that is run in a worker or a child process
    // A URL may also be that of a file that is no module.
    if (from !== undefined && ts.isStringLiteralLike(from) && (!ts.isNewExpression(node) || from.text.endsWith('.js')))
      found.push({ name: from.text, line: source.getLineAndCharacterOfPosition(from.getStart()).line + 1 });
    ts.forEachChild(node, visit);
  };
  visit(source);
  return found;
}

/** Every breach of the rules, one a line. `files` are texts by path from the project's directory. */
function breaches(page: string, files: ReadonlyMap<string, string>): string[] {
  const floors = floorsOf(page);
  const floorOf = (file: string) =>
    floors.findIndex((floor) => file === floor || (floor.endsWith('/') && file.startsWith(floor)));
  const found: string[] = [];
  for (const floor of floors)
    if (![...files.keys()].some((file) => file === floor || file.startsWith(floor)))
      found.push(`${floor} is listed and is not there`);
  for (const [file, text] of files) {
    const here = floorOf(file);
    if (here < 0 && !isTest(file)) found.push(`${file} is on no floor of docs/architecture.md`);
    for (const { name, line } of importsOf(file, text)) {
      if (!name.startsWith('.')) {
        if (name.startsWith('file:') || name.startsWith('/'))
          found.push(`${file}:${line} imports ${name} by an absolute path`);
        continue;
      }
      const target = posix.join(posix.dirname(file), name).replace(/\.js$/, '.ts');
      if (!target.startsWith('src/')) {
        if (!isTest(file)) found.push(`${file}:${line} imports ${target}, which is outside src/`);
      } else if (isTest(target) && !isTest(file)) found.push(`${file}:${line} imports ${target}, which is for tests`);
      else if (!isTest(file) && floorOf(target) > here)
        found.push(`${file}:${line} imports ${target}, which is on a floor below`);
    }
  }
  return found;
}

test('each floor imports only from the floors above it', (t) => {
  const files = new Map<string, string>();
  for (const name of readdirSync('src', { recursive: true, encoding: 'utf8' }))
    if (/\.[cm]?ts$/.test(name)) files.set(`src/${name}`, readFileSync(`src/${name}`, 'utf8'));
  t.deepEqual(breaches(readFileSync('docs/architecture.md', 'utf8'), files), []);
});

const page = '| folder | what |\n|---|---|\n| `src/top.ts` | x |\n| `src/a/` | x |\n| `src/b/` | x |\n';
const good: Record<string, string> = {
  'src/top.ts': '',
  'src/a/x.ts': "import '../top.js';",
  'src/b/y.ts': "import { type X } from '../a/x.js';",
};
const cases: [what: string, files: Record<string, string>, breach: string | undefined][] = [
  [
    'what is allowed',
    { 'src/a/x.test.ts': "import '../b/y.js'; import '../testing/z.js'", 'src/testing/z.ts': "import '../b/y.js'" },
    undefined,
  ],
  [
    'an import',
    { 'src/a/x.ts': "\nimport { y } from '../b/y.js';" },
    'src/a/x.ts:2 imports src/b/y.ts, which is on a floor below',
  ],
  [
    'an import of a type',
    { 'src/a/x.ts': "import type { Y } from '../b/y.js';" },
    'src/a/x.ts:1 imports src/b/y.ts, which is on a floor below',
  ],
  [
    'a type by import()',
    { 'src/top.ts': "let y: import('./b/y.js').Y;" },
    'src/top.ts:1 imports src/b/y.ts, which is on a floor below',
  ],
  [
    'a dynamic import',
    { 'src/a/x.ts': "await import('../b/y.js');" },
    'src/a/x.ts:1 imports src/b/y.ts, which is on a floor below',
  ],
  [
    'a re-export',
    { 'src/a/x.ts': "export * from '../b/y.js';" },
    'src/a/x.ts:1 imports src/b/y.ts, which is on a floor below',
  ],
  [
    'a worker',
    { 'src/a/x.ts': "new Worker(new URL('../b/y.js', import.meta.url));" },
    'src/a/x.ts:1 imports src/b/y.ts, which is on a floor below',
  ],
  [
    'a test double',
    { 'src/a/x.ts': "import '../testing/z.js';", 'src/testing/z.ts': '' },
    'src/a/x.ts:1 imports src/testing/z.ts, which is for tests',
  ],
  [
    'a test',
    { 'src/a/x.ts': "import './x.test.js';", 'src/a/x.test.ts': '' },
    'src/a/x.ts:1 imports src/a/x.test.ts, which is for tests',
  ],
  [
    'what is outside',
    { 'src/a/x.ts': "import '../../scripts/z.js';" },
    'src/a/x.ts:1 imports scripts/z.ts, which is outside src/',
  ],
  ['a folder that is not listed', { 'src/c/z.ts': '' }, 'src/c/z.ts is on no floor of docs/architecture.md'],
];

for (const [what, files, breach] of cases)
  test(`the rule is seen to hold for ${what}`, (t) => {
    const all = new Map(Object.entries({ ...good, ...files }));
    t.deepEqual(breaches(page, all), breach === undefined ? [] : [breach]);
  });
