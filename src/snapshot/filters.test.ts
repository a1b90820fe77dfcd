import fc from 'fast-check';
import test from 'ava';
import { codeOf } from '../errors.js';
import { parseFilters } from './filters.js';
import type { Info } from './snapshotter.js';

const info = (fields: Partial<Info>): Info => ({
  name: 'name',
  parent: '',
  kind: 'committed',
  labels: {},
  created: 0,
  updated: 0,
  ...fields,
});

const takes = (filter: string, fields: Partial<Info>) => parseFilters([filter])(info(fields));

const holds: [filter: string, fields: Partial<Info>][] = [
  ['', {}],
  ['name', {}],
  ['name==foo', { name: 'foo' }],
  ['name==sha256:abc/def', { name: 'sha256:abc/def' }],
  ['  name  ==  foo', { name: 'foo' }],
  ['name=="foo"', { name: 'foo' }],
  ['name=="a, b"', { name: 'a, b' }],
  ['"name"==foo', { name: 'foo' }],
  ['name==foo, kind==view', { name: 'foo', kind: 'view' }],
  ['parent', { parent: '' }],
  ['parent==""', { parent: '' }],
  ['labels.foo', { labels: { foo: '1' } }],
  ['labels.a.b-c_d', { labels: { 'a.b-c_d': '1' } }],
  [
    'labels."containerd.io/snapshot.ref"==sha256:12,parent=="default/3/sha256:34"',
    {
      labels: { 'containerd.io/snapshot.ref': 'sha256:12' },
      parent: 'default/3/sha256:34',
    },
  ],
  ['labels."with \\\\ and \\"".post==x', { labels: { 'with \\ and ".post': 'x' } }],
  ['labels.foo!=bar', {}],
  ['labels.foo~=^$', {}],
  ['labels.__proto__==x', { labels: Object.fromEntries([['__proto__', 'x']]) }],
  ['name=="\\x41\\102\\u00e9\\U0001F600\\t"', { name: 'ABé😀\t' }],
  ['name~=[abc]+', { name: 'xxbxx' }],
  ['name~=/^[abc]{1,2}$/', { name: 'ab' }],
  ['name~=|a\\\\d/|', { name: 'a7/' }],
  ['name~=/a\\/b/', { name: 'a/b' }],
  ['name~=/"x|y"/', { name: 'y"' }],
  ['name~=(?i)FOO', { name: 'a foo' }],
];

const holdsNot: [filter: string, fields: Partial<Info>][] = [
  ['name==foo', { name: 'foobar' }],
  ['name!=foo', { name: 'foo' }],
  ['name==foo,kind==view', { name: 'foo' }],
  ['labels.foo', { labels: { bar: '1' } }],
  ['labels', { labels: { foo: '1' } }],
  ['labels.toString', {}],
  ['nonsense', {}],
  ['labels.foo==""', {}],
  ['name~=^b', { name: 'ab' }],
];

const refused = [
  'name==',
  'name=',
  'name===x',
  'name!x',
  'name==foo,',
  ',name',
  'labels.',
  '.name',
  'labels.?"x"==y',
  'labels.|foo|==x',
  'name==/foo/',
  'name==|foo|',
  'name=="foo',
  'name=="foo"bar',
  'name=="\\q"',
  'name=="\\x4"',
  'name=="\\400"',
  'name=="\\U00110000"',
  'name ==foo bar',
  'image~=,id?=?fbaq',
  'name~=/(/',
  'name~=/a{2,1}/',
  'name~=[z-a]',
  'name\0',
];

test('filters take what containerd takes', (t) => {
  for (const [filter, fields] of holds) t.true(takes(filter, fields), filter);
  for (const [filter, fields] of holdsNot) t.false(takes(filter, fields), filter);
});

test('a filter that cannot be read is refused, with the place', (t) => {
  for (const filter of refused) {
    const error = t.throws(() => parseFilters(['name', filter]), undefined, filter);
    t.is(codeOf(error), 'INVALID_ARGUMENT', filter);
  }
  t.throws(() => parseFilters(['name==foo,']), {
    message: 'filter name==foo, at character 10: expected a field, or one in double quotes, found the end',
  });
});

test('any filter takes a snapshot, all selectors of one must', (t) => {
  const filter = parseFilters(['name==a,kind==view', 'name==b']);
  t.deepEqual(
    (['a', 'b', 'c'] as const).map((name) => filter(info({ name }))),
    [false, true, false],
  );
  t.true(filter(info({ name: 'a', kind: 'view' })));
  t.true(parseFilters([])(info({})));
});

/** A Go string literal. */
const quoted = (text: string) =>
  `"${text.replace(/[\\"\n\0]/g, (c) => (c === '\n' ? '\\n' : c === '\0' ? '\\x00' : `\\${c}`))}"`;

test('any key and value can be asked for in quotes', (t) => {
  const text = fc.string({ unit: 'grapheme', maxLength: 20 });
  fc.assert(
    fc.property(text, text, text, (key, value, other) => {
      const found = info({ labels: Object.fromEntries([[key, value]]) });
      const field = `labels.${quoted(key)}`;
      t.true(parseFilters([field])(found));
      t.true(parseFilters([`${field}==${quoted(value)}`])(found));
      t.is(parseFilters([`${field}==${quoted(other)}`])(found), other === value);
      t.is(parseFilters([`${field}!=${quoted(other)}`])(found), other !== value);
    }),
  );
  t.pass();
});

test('whatever is sent as a filter is read or refused', (t) => {
  const pieces = fc.constantFrom(
    'name',
    'labels',
    '.',
    ',',
    '==',
    '!=',
    '~=',
    '"',
    '/',
    '|',
    '\\',
    'x41',
    '(',
    '[',
    '*',
    ' ',
    '{9}',
  );
  const garbage = fc.oneof(
    fc.string({ unit: 'binary' }),
    fc.array(pieces, { maxLength: 12 }).map((parts) => parts.join('')),
  );
  fc.assert(
    fc.property(garbage, garbage, (filter, name) => {
      try {
        parseFilters([filter])(info({ name }));
      } catch (error) {
        if (codeOf(error) !== 'INVALID_ARGUMENT') throw error;
      }
    }),
    { numRuns: 2000 },
  );
  t.pass();
});
