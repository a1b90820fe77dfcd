import { readFile, writeFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { dirname, join, relative } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import fc from 'fast-check';
import { exitStatusOf, LazylayerError } from '../errors.js';
import { temporaryDirectory } from '../testing/temporary.js';
import { configPath, defaultConfig, loadConfig, parseConfig } from './config.js';
import { formatConfig } from './format.js';
import { ConfigError } from './problems.js';
import { exactSize, parseSize } from './size.js';

const root = { env: {}, uid: 0 };

async function file(t: ExecutionContext, text: string): Promise<string> {
  const dir = await temporaryDirectory(t, 'config');
  const path = join(dir, 'config.toml');
  await writeFile(path, text);
  return path;
}

test('config.example.toml is what the program writes, and holds every default', async (t) => {
  const example = await readFile('config.example.toml', 'utf8');
  t.is(example, formatConfig(defaultConfig(root)));
  t.deepEqual(await loadConfig('config.example.toml', root), defaultConfig(root));
  const keys = example.split('\n').filter((line) => /^[a-z_]+ = /.test(line)).length;
  const { version, root: _root, log_level: _level, allow_no_verification: _allow, ...tables } = defaultConfig(root);
  const known = Object.values(tables).flatMap((table) => Object.keys(table));
  t.is(version, 2);
  t.is(keys, 4 + known.length - 1, 'every key but registry.hosts is written');
});

test('any configuration survives being written', (t) => {
  const hosts = {
    'docker.io': {
      server: 'https://registry.example',
      header: { 'x-a': 'b' },
      hosts: [
        {
          url: 'https://one.example/v2',
          ca: ['/a', '/b'],
          client: [['/c', '/k']],
          header: { a: ['1', '2'] },
          override_path: true,
        },
        { url: 'http://two.example:5000', capabilities: ['pull' as const], skip_verify: true, dial_timeout: '3s' },
      ],
    },
    'localhost:5000': {},
  };
  const config = {
    ...defaultConfig(root),
    cache: { max_bytes: 12345 },
    fuse: { backend: 'fuse-native' as const, layer_idle_sec: 7, stay_awake: false, erofs: false },
    registry: { certs_dir: [], hosts },
  };
  t.deepEqual(parseConfig(formatConfig(config), 'x'), config);
});

test('certificates are found from where the file is, not from where the program runs', async (t) => {
  const text = `
[registry.hosts.a]
ca = "ca.pem"
[registry.hosts.a.host."https://m"]
ca = ["../ca.pem", "/abs.pem"]
client = ["both.pem", ["c.pem", "keys/c.key"], ["d.pem", ""], ["/e.pem"]]
[registry.hosts.b]
client = "./both.pem"
`;
  const hosts = {
    a: {
      ca: '/etc/x/ca.pem',
      hosts: [
        {
          url: 'https://m',
          ca: ['/etc/ca.pem', '/abs.pem'],
          client: ['/etc/x/both.pem', ['/etc/x/c.pem', '/etc/x/keys/c.key'], ['/etc/x/d.pem', ''], ['/e.pem']],
        },
      ],
    },
    b: { client: '/etc/x/both.pem' },
  };
  t.deepEqual(parseConfig(text, '/etc/x/config.toml').registry.hosts, hosts);
  const path = await file(t, text);
  const { registry } = await loadConfig(relative(process.cwd(), path), root);
  t.is(registry.hosts.a.ca, join(dirname(path), 'ca.pem'));
});

const refused: [what: string, text: string, messages: string[]][] = [
  ['a syntax error', 'version = 2\nroot = "x\n', ['f:2: ']],
  ['an unknown key', 'log_levle = "info"\n', ['f:1: log_levle: unknown key; did you mean log_level?']],
  ['an unknown key with no likeness', '\n\nzebra = 1\n', ['f:3: zebra: unknown key']],
  ['a key in the wrong table', 'background = true\n', ['f:1: background: unknown key; did you mean fetch.background?']],
  [
    'a top key in a table',
    '[fetch]\nlog_level = "info"\n',
    ['f:2: fetch.log_level: unknown key; did you mean log_level?'],
  ],
  ['an unknown table', '[fetcher]\nx = 1\n', ['f:1: fetcher: unknown key; did you mean fetch?']],
  ['a wrong type', '[fetch]\n\nbackground = "yes"\n', ['f:3: fetch.background: expected true or false, found "yes"']],
  [
    'a dotted key',
    'fetch.max_retries = 1.5\n',
    ['f:1: fetch.max_retries: expected a whole number from 0 to 100, found 1.5'],
  ],
  [
    'an inline table',
    'pool = { max_entries = 0 }\n',
    ['f:1: pool.max_entries: expected a whole number from 1 to 100000, found 0'],
  ],
  ['a value where a table is', 'pool = 3\n', ['f:1: pool: expected a table, found 3']],
  [
    'a table where a value is',
    '[cache.max_bytes]\n',
    ['f:1: cache.max_bytes: expected a number of bytes, or a string such as "512MiB" or "20GB", found a table'],
  ],
  [
    'a bad size',
    '[cache]\nmax_bytes = "20 gigs"\n',
    ['f:2: cache.max_bytes: expected a number of bytes, or a string such as "512MiB" or "20GB", found "20 gigs"'],
  ],
  ['an array of tables', '[[fuse]]\nbackend = "kernel"\n', ['f:1: fuse: expected a table, found an array']],
  ['a relative root', 'root = "here"\n', ['f:1: root: expected an absolute path, found "here"']],
  [
    'another version',
    'version = 1\n',
    ['f:1: version: expected 2, the version of the format that this program reads, found 1'],
  ],
  [
    'a relative socket',
    '[snapshotter]\naddress = "run/x.sock"\n',
    [
      'f:2: snapshotter.address: expected the absolute path of a socket, at most 107 bytes long, or "" for none, found "run/x.sock"',
    ],
  ],
  [
    'a port that there is not',
    '[metrics]\naddress = "127.0.0.1:65536"\n',
    [
      'f:2: metrics.address: expected HOST:PORT, the absolute path of a socket, or "" for none, found "127.0.0.1:65536"',
    ],
  ],
  ['a date', 'root = 1979-05-27\n', ['f:1: root: expected an absolute path, found 1979-05-27']],
  ['a prototype', '__proto__ = 1\n', ['f:1: __proto__: unknown key']],
  [
    'an element of an array',
    '[registry]\ncerts_dir = [\n  "/a",\n  "b",\n]\n',
    ['f:4: registry.certs_dir[1]: expected an absolute path, found "b"'],
  ],
  [
    'a mirror',
    '[registry.hosts."docker.io".host."https://m"]\nca = "/a"\nskip_verfy = true\n',
    [
      'f:3: registry.hosts."docker.io".host."https://m".skip_verfy: unknown key; did you mean registry.hosts."docker.io".host."https://m".skip_verify?',
    ],
  ],
  [
    'a wrong value of a mirror',
    '[registry.hosts.a]\nserver = "ftp://x y"\n[registry.hosts.a.host."https://m"]\ncapabilities = ["pull", "fly"]\n',
    [
      'f:2: registry.hosts.a.server: expected a http or https URL without user, query and fragment, or a host name, found "ftp://x y"',
      'f:4: registry.hosts.a.host."https://m".capabilities[1]: expected ("pull" | "resolve" | "push" | "referrers"), found "fly"',
    ],
  ],
  [
    'several things, in the order of the file',
    'zebra = 1\n[fetch]\nmax_retries = "x"\n[pool]\nhold_sec = -1\n',
    ['f:1: zebra', 'f:3: fetch.max_retries', 'f:5: pool.hold_sec: expected a number from 0 to 86400, found -1'],
  ],
];

for (const [what, text, messages] of refused)
  test(`refuses ${what} by file, line and key`, (t) => {
    const error = t.throws(() => parseConfig(text, 'f'), { instanceOf: ConfigError });
    const lines = error.message.split('\n');
    t.is(lines.length, messages.length, error.message);
    messages.forEach((message, i) =>
      t.true(lines[i] === message || (lines[i].startsWith(message) && !message.includes('expected')), error.message),
    );
    t.is(exitStatusOf(error), 2);
  });

test('no text makes anything but a configuration or a ConfigError', (t) => {
  const word = fc.constantFrom(
    'root',
    'fetch',
    'registry.hosts',
    '"x"',
    '=',
    '[',
    ']',
    '[[',
    ']]',
    '{',
    '}',
    ',',
    '1',
    'true',
    '"""',
    "'",
    '\n',
    '#',
    '.',
    ' ',
  );
  const text = fc.oneof(
    fc.string(),
    fc.array(word, { maxLength: 20 }).map((words) => words.join('')),
  );
  fc.assert(
    fc.property(text, (input) => {
      try {
        parseConfig(input, 'f');
      } catch (error) {
        if (!(error instanceof ConfigError)) throw error;
      }
    }),
    { numRuns: 3000 },
  );
  t.pass();
});

test('flags go before the environment, the environment before the file, the file before defaults', async (t) => {
  const path = await file(
    t,
    'root = "/file"\nlog_level = "error"\n[fetch]\nbackground = false\n[fuse]\nbackend = "fuse-native"\n',
  );
  const env = { LAZYLAYER_CONFIG: path, LAZYLAYER_ROOT: '/env', LAZYLAYER_LOG_LEVEL: 'debug' };
  const fromFile = await loadConfig(path, root);
  t.like(fromFile, { root: '/file', log_level: 'error', fuse: { backend: 'fuse-native' } });
  t.false(fromFile.fetch.background);
  t.is(fromFile.cache.max_bytes, 20 * 2 ** 30);
  t.like(await loadConfig(undefined, { env, uid: 0 }), { root: '/env', log_level: 'debug' });
  const flags = {
    root: 'relative',
    logLevel: 'warn',
    backend: 'kernel',
    backgroundFetch: true,
    allowNoVerification: true,
  };
  const config = await loadConfig(undefined, { env, uid: 0, flags });
  t.like(config, { root: join(process.cwd(), 'relative'), log_level: 'warn', allow_no_verification: true });
  t.is(config.fuse.backend, 'kernel');
  t.true(config.fetch.background);
  t.is((await loadConfig('/dev/null', { env, uid: 0 })).fuse.backend, 'kernel');
});

test('bad flags and variables are named', async (t) => {
  await t.throwsAsync(loadConfig('/dev/null', { ...root, flags: { backend: 'fuse' } }), {
    instanceOf: ConfigError,
    message: '--backend: expected one of "kernel", "fuse-native", found "fuse"',
  });
  await t.throwsAsync(loadConfig('/dev/null', { ...root, flags: { metricsAddress: 'here' } }), {
    instanceOf: ConfigError,
    message: /^--metrics: expected HOST:PORT, .*, found "here"$/,
  });
  await t.throwsAsync(loadConfig('/dev/null', { uid: 0, env: { LAZYLAYER_LOG_LEVEL: 'loud' } }), {
    message: /^LAZYLAYER_LOG_LEVEL: expected one of "trace", .*, found "loud"$/,
  });
});

test('a file that was named must be there; the default one need not', async (t) => {
  const error = await t.throwsAsync(loadConfig('/nowhere/config.toml', root), { instanceOf: LazylayerError });
  t.is(error.message, '/nowhere/config.toml: there is no such configuration file');
  t.like(configPath(undefined, root), { path: '/etc/lazylayer/config.toml', required: false });
  t.like(configPath(undefined, { uid: 1000, env: { XDG_CONFIG_HOME: '/xdg' } }), {
    path: '/xdg/lazylayer/config.toml',
  });
  t.like(configPath(undefined, { uid: 1000, env: { XDG_CONFIG_HOME: 'relative' } }), {
    path: join(homedir(), '.config/lazylayer/config.toml'),
  });
  t.like(configPath(undefined, { uid: 0, env: { LAZYLAYER_CONFIG: '/c' } }), { path: '/c', required: true });
  t.is(defaultConfig({ uid: 1000, env: { XDG_DATA_HOME: '/data' } }).root, '/data/lazylayer');
  t.is(defaultConfig({ uid: 1000, env: {} }).root, join(homedir(), '.local/share/lazylayer'));
});

test('sizes', (t) => {
  t.is(parseSize('20GiB'), 20 * 2 ** 30);
  t.is(parseSize('1.5 MiB'), 1.5 * 2 ** 20);
  t.is(parseSize('20GB'), 20e9);
  t.is(parseSize('4096'), 4096);
  for (const bad of ['', 'GiB', '-1', '1gib', '1 XB', '1e3', '99999999999999TiB', '1KB'])
    t.is(parseSize(bad), undefined, bad);
  fc.assert(fc.property(fc.maxSafeNat(), (n) => t.is(parseSize(exactSize(n)), n)));
});
