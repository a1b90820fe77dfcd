import { createServer, request as httpRequest } from 'node:http';
import { connect } from 'node:net';
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import test from 'ava';
import { parseReference } from '../image/reference.js';
import { startTestRegistry } from '../testing/registry.js';
import { makeCertificates } from '../testing/registry-tls.js';
import { Registry } from './client.js';
import { isLoopback, proxyFor } from './proxy.js';

const env = {
  http_proxy: 'plain:3128',
  HTTPS_PROXY: 'http://joe:pw@secure:3128',
  no_proxy: 'exact.io,.sub.io, *.star.io 10.0.0.0/8,[fd00::1],fd01::/16,port.io:8443',
};

for (const [url, proxy] of [
  ['http://other.io/', 'http://plain:3128'],
  ['https://other.io/', env.HTTPS_PROXY],
  ['https://exact.io/', undefined],
  ['https://a.exact.io/', undefined],
  ['https://notexact.io/', env.HTTPS_PROXY],
  ['https://a.sub.io/', undefined],
  ['https://sub.io/', env.HTTPS_PROXY],
  ['https://b.star.io/', undefined],
  ['https://10.1.2.3/', undefined],
  ['https://11.1.2.3/', env.HTTPS_PROXY],
  ['https://[fd00::1]/', undefined],
  ['https://[fd01::5]/', undefined],
  ['https://port.io:8443/', undefined],
  ['https://port.io/', env.HTTPS_PROXY],
  ['http://localhost:5000/', undefined],
  ['https://127.0.0.9/', undefined],
  ['http://[::1]:5000/', undefined],
] as const)
  test(`${url} goes by ${proxy ?? 'no proxy'}`, (t) => t.is(proxyFor(new URL(url), env), proxy));

test('"*" is everything, and no variable is no proxy', (t) => {
  t.is(proxyFor(new URL('https://a.io/'), { https_proxy: 'p:1', NO_PROXY: '*' }), undefined);
  t.is(proxyFor(new URL('https://a.io/'), { http_proxy: 'p:1' }), undefined);
  t.true(isLoopback('LOCALHOST:5000'));
  t.false(isLoopback('localhost.io'));
  t.false(isLoopback('127.evil.io'));
});

test('requests go through the proxy: absolute-form for HTTP, CONNECT for HTTPS, with its own login', async (t) => {
  const { ca, cert, key } = await makeCertificates(t, 'registry.test');
  await using plain = await startTestRegistry();
  await using secure = await startTestRegistry({ tls: { cert, key } });
  for (const server of [plain, secure]) server.putManifest('app', '1', Buffer.from('{}'), 'application/json');
  const seen: string[] = [];
  const proxy = createServer((request, response) => {
    seen.push(`${request.method} ${request.url} ${request.headers['proxy-authorization']}`);
    const path = new URL(request.url!).pathname;
    httpRequest({ host: '127.0.0.1', port: plain.port, path, headers: request.headers }, (answer) => {
      response.writeHead(answer.statusCode!, answer.headers);
      answer.pipe(response);
    }).end();
  });
  proxy.on('connect', (request, socket) => {
    seen.push(`CONNECT ${request.url} ${request.headers['proxy-authorization']}`);
    const upstream = connect(secure.port, '127.0.0.1', () => {
      socket.write('HTTP/1.1 200 OK\r\n\r\n');
      upstream.pipe(socket).pipe(upstream);
    });
    upstream.on('error', () => socket.destroy());
    socket.on('error', () => upstream.destroy());
  });
  proxy.listen(0, '127.0.0.1');
  await once(proxy, 'listening');
  t.teardown(() => proxy.close().closeAllConnections());
  const address = `http://joe:pw@127.0.0.1:${(proxy.address() as AddressInfo).port}`;
  await using registry = new Registry({
    env: { http_proxy: address, https_proxy: address, HOME: '/nonexistent' },
    plainHttp: ['plain.test'],
    hosts: { 'registry.test': { ca } },
  });
  await registry.fetchManifest(parseReference('plain.test/app:1'));
  await registry.fetchManifest(parseReference('registry.test/app:1'));
  const login = `Basic ${Buffer.from('joe:pw').toString('base64')}`;
  t.deepEqual(seen, [`GET http://plain.test/v2/app/manifests/1 ${login}`, `CONNECT registry.test:443 ${login}`]);
  for (const request of secure.requests) t.is(request.headers['proxy-authorization'], undefined);
});
