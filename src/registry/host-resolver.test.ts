import { mkdir, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { temporaryDirectory } from '../testing/temporary.js';
import { HostResolver } from './host-resolver.js';
import type { Endpoint } from './hosts.js';

async function directory(t: ExecutionContext, files: Record<string, string>) {
  const root = await temporaryDirectory(t, 'certs');
  const write = async (name: string, text: string) => {
    await mkdir(dirname(join(root, name)), { recursive: true });
    await writeFile(join(root, name), text);
  };
  for (const [name, text] of Object.entries(files)) await write(name, text);
  return { root, write };
}

const bases = (endpoints: readonly Endpoint[]) => endpoints.map((e) => e.base);

test('without configuration: the default host by its registry, loopback by HTTP, all else by HTTPS', (t) => {
  const resolver = new HostResolver({ plainHttp: ['inside:5000'] });
  for (const [host, base] of [
    ['docker.io', 'https://registry-1.docker.io/v2'],
    ['quay.io', 'https://quay.io/v2'],
    ['localhost:5000', 'http://localhost:5000/v2'],
    ['127.0.0.2:5000', 'http://127.0.0.2:5000/v2'],
    ['[::1]:5000', 'http://[::1]:5000/v2'],
    ['localhost:443', 'https://localhost:443/v2'],
    ['inside:5000', 'http://inside:5000/v2'],
    ['inside', 'https://inside/v2'],
  ] as const) {
    const [endpoint] = resolver.endpoints(host);
    t.is(endpoint.base, base);
    t.is(endpoint.credentialHost, host);
    t.is(endpoint.namespace, undefined);
  }
});

test('mirrors come in the order of the file, the server last, each with its own settings', async (t) => {
  const { root } = await directory(t, {
    'docker.io/hosts.toml': `
      [host."https://b.io/prefix/"]
        capabilities = ["pull"]
        header.X-One = ["1", "2"]
      [host."http://a.io/v2"]
      [host."https://c.io/whole/path"]
        override_path = true
        dial_timeout = "3s"
        ca = "ca.pem"
        client = [["client.pem", "client.key"], "both.pem"]
        skip_verify = true`,
    'docker.io/ca.pem': 'CA',
    'docker.io/client.pem': 'CERT',
    'docker.io/client.key': 'KEY',
    'docker.io/both.pem': 'BOTH',
  });
  const endpoints = new HostResolver({ certsDirs: [root] }).endpoints('docker.io');
  t.deepEqual(bases(endpoints), [
    'https://b.io/prefix/v2',
    'http://a.io/v2',
    'https://c.io/whole/path',
    'https://registry-1.docker.io/v2',
  ]);
  t.deepEqual([...endpoints[0].capabilities], ['pull']);
  t.deepEqual(endpoints[0].headers, { 'x-one': '1, 2' });
  t.deepEqual(
    endpoints.map((e) => [e.namespace, e.credentialHost]),
    [
      ['docker.io', 'b.io'],
      ['docker.io', 'a.io'],
      ['docker.io', 'c.io'],
      [undefined, 'docker.io'],
    ],
  );
  t.deepEqual(endpoints[2].connection, {
    ca: ['CA'],
    clients: [
      { cert: 'CERT', key: 'KEY' },
      { cert: 'BOTH', key: 'BOTH' },
    ],
    skipVerify: true,
    connectTimeoutMs: 3000,
  });
});

test('directories: with and without colon, _default, the first root, the configuration, Docker style certificates', async (t) => {
  const one = await directory(t, {
    'a.io_5000_/hosts.toml': 'server = "https://one"',
    'b.io:5000/hosts.toml': 'server = "https://two"',
    'docker.style/ca.crt': 'CA',
    'docker.style/client.cert': 'CERT',
    'docker.style/client.key': 'KEY',
  });
  const two = await directory(t, {
    'a.io:5000/hosts.toml': 'server = "https://hidden"',
    '_default/hosts.toml': '[host."https://cache"]',
  });
  const hosts = {
    'conf.io': { server: 'http://three', hosts: [{ url: 'four' }] },
    _default: { server: 'https://never' },
  };
  const resolver = new HostResolver({ certsDirs: [one.root, two.root, '/nonexistent'], hosts });
  t.deepEqual(bases(resolver.endpoints('a.io:5000')), ['https://one/v2']);
  t.deepEqual(bases(resolver.endpoints('b.io:5000')), ['https://two/v2']);
  t.deepEqual(bases(resolver.endpoints('other.io')), ['https://cache/v2', 'https://other.io/v2']);
  t.deepEqual(bases(resolver.endpoints('conf.io')), ['https://four/v2', 'http://three/v2']);
  const [styled] = resolver.endpoints('docker.style');
  t.deepEqual(styled.connection, { ca: ['CA'], clients: [{ cert: 'CERT', key: 'KEY' }] });
  t.is(styled.base, 'https://docker.style/v2');
  t.deepEqual(bases(new HostResolver({ hosts }).endpoints('x.io')), ['https://never/v2']);
  t.deepEqual(bases(new HostResolver({ hosts }).endpoints('toString')), ['https://never/v2']);
});

test('edits count at once: a new file, a change, a certificate, a removal; what did not change is kept', async (t) => {
  const { root, write } = await directory(t, {});
  const resolver = new HostResolver({ certsDirs: [root] });
  t.deepEqual(bases(resolver.endpoints('h')), ['https://h/v2']);
  await write('h/hosts.toml', 'server = "http://one"\nca = "ca.pem"');
  t.throws(() => resolver.endpoints('h'), { code: 'INVALID_ARGUMENT', message: /ca\.pem: expected a PEM file/ });
  await write('h/ca.pem', 'CA1');
  const first = resolver.endpoints('h');
  t.deepEqual(bases(first), ['http://one/v2']);
  t.is(resolver.endpoints('h'), first);
  await write('h/ca.pem', 'CA22');
  t.deepEqual(resolver.endpoints('h')[0].connection.ca, ['CA22']);
  await write('h/hosts.toml', 'server = 1');
  t.throws(() => resolver.endpoints('h'), { message: /h\/hosts\.toml:1: server: expected string, found 1/ });
  await rm(join(root, 'h'), { recursive: true });
  t.deepEqual(bases(resolver.endpoints('h')), ['https://h/v2']);
});
