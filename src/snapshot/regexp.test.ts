import fc from 'fast-check';
import test from 'ava';
import { codeOf } from '../errors.js';
import { compileRegexp } from './regexp.js';

const matches = (expression: string, text: string) => compileRegexp(expression).matches(text);

test("RE2's own syntax", (t) => {
  const yes: [string, string][] = [
    ['', ''],
    ['(?i)straße', 'STRAßE'],
    ['(?P<name>a)(?<other>b)', 'ab'],
    ['a(?i)b(?-i)c', 'aBc'],
    ['(?i:a)b', 'Ab'],
    ['(?s)a.b', 'a\nb'],
    ['(?m)^b$', 'a\nb\nc'],
    ['\\Aab\\z', 'ab'],
    ['\\bfoo\\b', 'a foo b'],
    ['o\\Bo', 'foo'],
    ['\\Qa.b*\\E+', 'a.b**'],
    ['[[:alpha:]_]+[[:^digit:]]', 'a_!'],
    ['\\pL\\p{Greek}\\PN\\p{^Lu}', 'aαxx'],
    ['\\x41\\x{1F600}\\101\\a', 'A😀A\x07'],
    ['^.$', '😀'],
    ['a{,2}', 'a{,2}'],
    ['x{2,}y{0,1}z{3}', 'xxxzzz'],
    ['[]a]+', ']a'],
    ['[a-]', '-'],
    ['[^\\d\\s]', 'x'],
    ['(a|)*b', 'aab'],
    ['(a*)*b', 'aab'],
    ['a+?b??', 'aa'],
    ['(?U)a+', 'a'],
  ];
  for (const [expression, text] of yes) t.true(matches(expression, text), expression);
  const no: [string, string][] = [
    ['a(?i)b(?-i)c', 'aBC'],
    ['(?i:a)b', 'AB'],
    ['((?i)a)b', 'aB'],
    ['a.b', 'a\nb'],
    ['^b$', 'a\nb'],
    ['[^a]', 'a'],
    ['(?i)[^a]', 'A'],
    ['\\PL', 'é'],
    ['x{3}', 'xx'],
  ];
  for (const [expression, text] of no) t.false(matches(expression, text), expression);
});

test('what RE2 refuses is refused', (t) => {
  const refused = [
    '(',
    ')',
    'a)',
    '[',
    '[a',
    '*',
    '+a',
    'a**',
    'a*+',
    'a{1}{2}',
    'a{1001}',
    'a{3,2}',
    '[b-a]',
    '(?x)',
    '(?=a)',
    '(?<!a)',
  ];
  const escapes = ['\\', '\\1', '\\q', '\\C', '\\p{Nonsense}', '[[:nonsense:]]', '\\x{110000}', '\\Z'];
  for (const expression of [...refused, ...escapes]) {
    const error = t.throws(() => compileRegexp(expression), undefined, expression);
    t.is(codeOf(error), 'INVALID_ARGUMENT', expression);
  }
});

test('no expression and no text takes long', (t) => {
  // Each of these takes a backtracking engine longer than anybody waits.
  const text = `${'a'.repeat(4000)}!`;
  for (const expression of ['(a+)+$', '^(a|a)*$', '(a|aa)+$', '(.*a){40}b', '(a?){500}a{500}b', '(x+x+)+y'])
    t.false(matches(expression, text), expression);
  // Written out, these are larger than any memory.
  for (const expression of [
    '((a{1000}){1000}){1000}',
    '(((){1000}){1000}){1000}',
    '((((a|b){0,1000}){0,1000})*){1000}',
  ])
    t.throws(() => compileRegexp(expression), { message: /at most \d+ steps/ });
  t.throws(() => compileRegexp('('.repeat(100_000)), { message: /nested groups/ });
});

/**
 * Expressions that this language's own engine reads the same way. Not nested deeply, and held against short texts: that engine
 * backtracks, and would take for ever on some.
 */
const shared = fc.letrec<{ node: string; atom: string }>((tie) => ({
  atom: fc.oneof(
    { maxDepth: 2 },
    fc.constantFrom('a', 'b', 'c', '.', '\\d', '\\w', '[ab]', '[^a]', '[a-c0]', '^', '$', '\\b', '\\.', '1'),
    tie('node').map((node) => `(?:${node})`),
    tie('node').map((node) => `(${node})`),
  ),
  node: fc
    .array(
      fc
        .tuple(tie('atom'), fc.constantFrom('', '', '', '*', '+', '?', '{2}', '{1,3}', '{0,}', '*?', '|'))
        .map(([atom, suffix]) => (/^[\^$]$|^\\b$/.test(atom) ? atom : atom + suffix)),
      { maxLength: 4 },
    )
    .map((parts) => parts.join('')),
})).node;

test("expressions of both languages mean what they mean to the language's own engine", (t) => {
  const text = fc.string({ unit: fc.constantFrom('a', 'b', 'c', '1', '.', ' ', 'é', '😀'), maxLength: 8 });
  fc.assert(
    fc.property(shared, fc.array(text, { minLength: 1, maxLength: 5 }), (expression, texts) => {
      const regexp = compileRegexp(expression);
      for (const one of texts)
        if (regexp.matches(one) !== new RegExp(expression, 'u').test(one)) t.fail(`${expression}: ${one}`);
    }),
    { numRuns: 3000 },
  );
  t.pass();
});
