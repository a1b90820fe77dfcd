import { once } from 'node:events';
import { createServer as createHttp, request } from 'node:http';
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { buffer } from 'node:stream/consumers';
import test, { type ExecutionContext } from 'ava';
import { unshaped } from './network.js';
import { ProxyHandle } from './proxy.js';
import { ShapingProxy } from './shaping-proxy.js';

async function listening(t: ExecutionContext, server: Server): Promise<number> {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.teardown(() => void server.close());
  return (server.address() as AddressInfo).port;
}

async function proxied(t: ExecutionContext, server: Server, network = unshaped): Promise<ShapingProxy> {
  const proxy = await ShapingProxy.start({ host: '127.0.0.1', port: await listening(t, server) }, network);
  t.teardown(() => proxy[Symbol.asyncDispose]());
  return proxy;
}

async function get(port: number, path: string): Promise<Buffer> {
  const asked = request({ host: '127.0.0.1', port, path, agent: false, headers: { 'user-agent': 'test' } }).end();
  const [answer] = (await once(asked, 'response')) as [NodeJS.ReadableStream];
  return buffer(answer);
}

/** To the end of one direction; the other one stays open. */
async function all(socket: Socket): Promise<Buffer> {
  const pieces: Buffer[] = [];
  socket.on('data', (bytes: Buffer) => pieces.push(bytes));
  await once(socket, 'end');
  return Buffer.concat(pieces);
}

const bodyOf = (path: string) => Buffer.alloc(Number(path.slice(1)), path);

test('what passes is unchanged, and counted', async (t) => {
  const proxy = await proxied(
    t,
    createHttp((incoming, outgoing) => outgoing.end(bodyOf(incoming.url!))),
    { rttMs: 2, bytesPerMs: 1e6 },
  );
  const sizes = [1, 100_000, 3_000_000];
  await Promise.all(sizes.map(async (size) => t.deepEqual(await get(proxy.port, `/${size}`), bodyOf(`/${size}`))));
  const { connections, requests, bytesDown, bytesUp } = proxy.traffic;
  t.is(connections, 3);
  t.deepEqual(
    requests.map(({ bytes }) => bytes).sort((a, b) => a - b),
    sizes,
  );
  t.deepEqual(new Set(requests.map(({ status, agent }) => `${status} ${agent}`)), new Set(['200 test']));
  t.true(bytesDown > 3_100_001 && bytesDown < 3_102_000, `${bytesDown}`);
  t.true(bytesUp > 100);
  // A connection has been shaken hands on, then a request has gone there and an answer come back.
  for (const { start, firstByte } of requests) t.true(firstByte - start >= 3, `${firstByte - start}`);
  proxy.reset();
  t.deepEqual(proxy.traffic, { connections: 0, bytesDown: 0, bytesUp: 0, requests: [] });
});

test('bytes that are no HTTP pass, in both directions and to their end', async (t) => {
  const proxy = await proxied(
    t,
    createServer({ allowHalfOpen: true }, (socket) => {
      void all(socket).then((bytes) => socket.end(bytes.reverse()));
    }),
  );
  const sent = Buffer.from(Array.from({ length: 500_000 }, (_, i) => i % 251));
  const socket = connect({ port: proxy.port, host: '127.0.0.1', allowHalfOpen: true });
  socket.end(sent);
  t.true((await all(socket)).equals(Buffer.from(sent).reverse()));
  const { requests, bytesDown, bytesUp } = proxy.traffic;
  t.deepEqual({ requests, bytesDown, bytesUp }, { requests: [], bytesDown: sent.length, bytesUp: sent.length });
});

test('a reader that does not read stops the sender: what waits in between is bounded', async (t) => {
  let taken = 0;
  const piece = Buffer.alloc(64 * 1024);
  const server = createServer((socket) => {
    socket.on('error', () => {});
    const more = (): void => {
      do taken += piece.length;
      while (taken < 1e9 && socket.write(piece));
    };
    socket.on('drain', more);
    more();
  });
  const proxy = await proxied(t, server);
  const socket = connect(proxy.port, '127.0.0.1').pause();
  t.teardown(() => socket.destroy());
  await once(socket, 'connect');
  // Until nothing more is taken.
  for (let before = -1; before !== taken;) {
    before = taken;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  t.true(taken < 64e6, `${taken} bytes are under way`);
});

test('a side that breaks off breaks the other one off', async (t) => {
  const server = createServer((socket) => void socket.once('data', () => socket.resetAndDestroy()));
  const proxy = await proxied(t, server);
  const socket = connect(proxy.port, '127.0.0.1');
  socket.on('error', () => {});
  socket.write('x');
  await once(socket, 'close');
  t.pass();
});

test('a server that is not there ends the connection', async (t) => {
  const server = createServer();
  const port = await listening(t, server);
  server.close();
  const proxy = await ShapingProxy.start({ host: '127.0.0.1', port }, unshaped);
  t.teardown(() => proxy[Symbol.asyncDispose]());
  const socket = connect(proxy.port, '127.0.0.1');
  socket.on('error', () => {});
  await once(socket, 'close');
  t.pass();
});

test('in a process of its own it does the same, and ends with its handle', async (t) => {
  const port = await listening(
    t,
    createHttp((incoming, outgoing) => outgoing.end(bodyOf(incoming.url!))),
  );
  const proxy = await ProxyHandle.start({ host: '127.0.0.1', port }, unshaped);
  t.deepEqual(await get(proxy.port, '/10'), bodyOf('/10'));
  const { requests, cpuMs } = await proxy.traffic();
  t.deepEqual(
    requests.map(({ path, bytes }) => [path, bytes]),
    [['/10', 10]],
  );
  t.true(cpuMs > 0);
  await proxy.reset();
  t.is((await proxy.traffic()).connections, 0);
  await proxy[Symbol.asyncDispose]();
  await t.throwsAsync(get(proxy.port, '/10'), { code: 'ECONNREFUSED' });
});
