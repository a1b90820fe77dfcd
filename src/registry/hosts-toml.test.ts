import test from 'ava';
import fc from 'fast-check';
import { stringify } from 'smol-toml';
import { LazylayerError } from '../errors.js';
import { parseDuration, parseHostsToml } from './hosts-toml.js';

const example = `
server = "https://registry-1.docker.io"
capabilities = ["pull"]

[host."https://mirror.io"]
  capabilities = ["pull", "resolve"]
  ca = "ca.pem"
  [host."https://mirror.io".header]
    x-custom = ["a", "b"]

[host."http://second:5000"]
  ca = ["a.pem", "/b.pem"]
  client = [["c.pem", "c.key"], "both.pem", ["d.pem", ""]]
  skip_verify = true
  override_path = true
  dial_timeout = "1m1.5s"

[host."third.io"]
  client = "both.pem"
  unknown = 1
`;

test('reads every key of a hosts.toml, the hosts in the order of the file', (t) => {
  t.deepEqual(parseHostsToml('hosts.toml', example), {
    server: 'https://registry-1.docker.io',
    capabilities: ['pull'],
    hosts: [
      {
        url: 'https://mirror.io',
        capabilities: ['pull', 'resolve'],
        ca: 'ca.pem',
        header: { 'x-custom': ['a', 'b'] },
      },
      {
        url: 'http://second:5000',
        ca: ['a.pem', '/b.pem'],
        client: [['c.pem', 'c.key'], 'both.pem', ['d.pem', '']],
        skip_verify: true,
        override_path: true,
        dial_timeout: '1m1.5s',
      },
      { url: 'third.io', client: 'both.pem' },
    ],
  });
});

for (const [name, text, message] of [
  ['broken TOML', 'server = "a"\nx = [', /^dir\/hosts\.toml:2: /],
  [
    'a wrong type',
    'server = "https://a"\n\n[host."https://m"]\n  skip_verify = "no"',
    /^dir\/hosts\.toml:4: host\."https:\/\/m\/?"\.skip_verify: expected boolean, found "no"/,
  ],
  [
    'an unknown capability',
    '[host."https://m"]\n\ncapabilities = ["pull", "fly"]',
    /hosts\.toml:3: host\."https:\/\/m\/?"\.capabilities\.1: expected \("pull" \| "resolve"/,
  ],
  [
    'an element some lines into an array',
    'capabilities = [\n  "pull",\n  "fly",\n]',
    /hosts\.toml:3: capabilities\.1: expected \("pull" \| "resolve"/,
  ],
  [
    'a key of an inline table',
    '[host]\n"https://l" = { skip_verify = true }\n"https://m" = { skip_verify = 1 }',
    /hosts\.toml:3: host\."https:\/\/m\/?"\.skip_verify: expected boolean, found 1/,
  ],
  ['a broken pair', 'client = [["a", "b", "c"]]', /hosts\.toml:1: client/],
  [
    'a number as header',
    '[header]\nx = 1',
    /hosts\.toml:2: header\.x: expected a string or an array of strings, found another value/,
  ],
  ['a bad duration', 'dial_timeout = "soon"', /hosts\.toml:1: dial_timeout: expected a duration/],
  [
    'a server with a user',
    'server = "https://joe:pw@a"',
    /hosts\.toml:1: server: expected a http or https URL without user/,
  ],
  ['a host that is none', '\n[host."http://"]', /hosts\.toml:2: host\."http:\/\/": expected a http or https URL/],
] as const)
  test(`refuses ${name}, with file, line and key`, (t) => {
    const error = t.throws(() => parseHostsToml('dir/hosts.toml', text), { code: 'INVALID_ARGUMENT', message });
    t.false(error.message.includes('joe'));
  });

test('durations as Go writes them', (t) => {
  t.deepEqual(['3s', '1m30s', '500ms', '1.5h', '', '3', 's', '-1s'].map(parseDuration), [
    3000,
    90_000,
    500,
    5_400_000,
    undefined,
    undefined,
    undefined,
    undefined,
  ]);
});

test('any text, and any value under any key, is read or refused in words', (t) => {
  const keys = fc.constantFrom(
    'server',
    'host',
    'ca',
    'client',
    'capabilities',
    'header',
    'skip_verify',
    'dial_timeout',
  );
  const value: fc.Arbitrary<unknown> = fc.letrec((tie) => ({
    value: fc.oneof(
      { maxDepth: 3 },
      fc.string({ unit: 'grapheme-ascii' }),
      fc.boolean(),
      fc.integer(),
      fc.array(tie('value'), { maxLength: 3 }),
      fc.dictionary(fc.oneof(keys, fc.constantFrom('https://m.io', 'm:1')), tie('value'), { maxKeys: 3 }),
    ),
  })).value;
  const documents = fc.dictionary(keys, value, { maxKeys: 4 }).map((table) => stringify(table));
  fc.assert(
    fc.property(fc.oneof(fc.string(), documents), (text) => {
      try {
        parseHostsToml('hosts.toml', text);
      } catch (error) {
        if (!(error instanceof LazylayerError) || !error.message.startsWith('hosts.toml')) throw error;
      }
    }),
    { numRuns: 500 },
  );
  t.pass();
});
