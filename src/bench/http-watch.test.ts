import test from 'ava';
import fc from 'fast-check';
import { VirtualClock } from '../testing/virtual-clock.js';
import { HttpWatch, type SeenRequest } from './http-watch.js';

type Piece = readonly [from: 'client' | 'server', text: string];

/** What is told of a conversation that passes in pieces of this many bytes, a millisecond each. */
function watch(pieces: readonly Piece[], size = Infinity): SeenRequest[] {
  const clock = new VirtualClock();
  const seen: SeenRequest[] = [];
  const watching = new HttpWatch(1, clock, (request) => seen.push(request));
  for (const [from, text] of pieces) {
    const bytes = Buffer.from(text, 'latin1');
    for (let at = 0; at < bytes.length; at += size) {
      clock.run(clock.now() + 1);
      watching[from === 'client' ? 'fromClient' : 'fromServer'].push(bytes.subarray(at, at + size));
    }
  }
  watching.fromServer.close();
  return seen;
}

const get = (path: string, more = '') => `GET ${path} HTTP/1.1\r\nHost: a\r\nUser-Agent: test\r\n${more}\r\n`;
const conversation: readonly Piece[] = [
  ['client', get('/v2/')],
  ['server', 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}'],
  ['client', get('/range', 'Range: bytes=0-9\r\n')],
  ['server', 'HTTP/1.1 206 Partial Content\r\ncontent-length: 10\r\n\r\n0123456789'],
  ['client', 'HEAD /head HTTP/1.1\r\n\r\n'],
  ['server', 'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n'],
  ['client', 'POST /upload HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n'],
  ['server', 'HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 202 Accepted\r\nTransfer-Encoding: chunked\r\n\r\n'],
  ['server', 'a;x=y\r\n0123456789\r\n1\r\nx\r\n0\r\nTrailer: 1\r\n\r\n'],
  ['client', get('/old')],
  ['server', 'HTTP/1.0 200 OK\r\n\r\nuntil the end'],
];
const expected = [
  ['GET', '/v2/', undefined, 200, 2],
  ['GET', '/range', 'bytes=0-9', 206, 10],
  ['HEAD', '/head', undefined, 200, 0],
  ['POST', '/upload', undefined, 202, 11],
  ['GET', '/old', undefined, 200, 13],
];
const facts = (seen: readonly SeenRequest[]) =>
  seen.map(({ method, path, range, status, bytes }) => [method, path, range, status, bytes]);

for (const size of [1, 2, 3, 7, 64, Infinity])
  test(`requests and answers are told apart in pieces of ${size} bytes`, (t) => {
    const seen = watch(conversation, size);
    t.deepEqual(facts(seen), expected);
    for (const { start, firstByte, end } of seen) t.true(start < firstByte && firstByte <= end);
    t.deepEqual([seen[0].agent, seen[2].agent], ['test', undefined]);
  });

test('requests that do not wait for answers get theirs in order', (t) => {
  const seen = watch([
    ['client', get('/a') + get('/b')],
    [
      'server',
      'HTTP/1.1 404 Not Found\r\nContent-Length: 1\r\n\r\nxHTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n',
    ],
  ]);
  t.deepEqual(facts(seen), [
    ['GET', '/a', undefined, 404, 1],
    ['GET', '/b', undefined, 304, 0],
  ]);
});

for (const [what, pieces] of [
  ['TLS', [['client', '\x16\x03\x01\x02\x00\x01']]],
  ['a tunnel', [['client', 'CONNECT a:443 HTTP/1.1\r\n\r\n']]],
  ['an answer that nobody asked for', [['server', 'HTTP/1.1 200 OK\r\n\r\n']]],
  ['a head without end', [['client', `GET / HTTP/1.1\r\nX: ${'x'.repeat(70_000)}`]]],
] as const)
  test(`nothing is told of ${what}, nor of what follows`, (t) => {
    t.deepEqual(watch([...pieces, ['client', get('/after')], ['server', 'HTTP/1.1 200 OK\r\n\r\n']]), []);
  });

test('another protocol on the same connection ends the telling', (t) => {
  const seen = watch([
    ['client', get('/socket', 'Upgrade: x\r\n')],
    ['server', 'HTTP/1.1 101 Switching Protocols\r\n\r\n'],
    ['client', get('/no')],
  ]);
  t.deepEqual(facts(seen), [['GET', '/socket', undefined, 0, 0]]);
});

test('no bytes make it fail, however they are cut', (t) => {
  const words = fc.constantFrom(
    'GET / HTTP/1.1\r\n',
    '\r\n',
    'HTTP/1.1 200 OK\r\n',
    'Content-Length: 5\r\n',
    '5\r\n',
    '0',
    'x',
  );
  const text = fc.array(fc.oneof(words, fc.string({ maxLength: 5 })), { maxLength: 20 }).map((all) => all.join(''));
  const piece = fc.tuple(fc.constantFrom('client' as const, 'server' as const), text);
  fc.assert(
    fc.property(fc.array(piece, { maxLength: 10 }), fc.integer({ min: 1, max: 9 }), (pieces, size) => {
      const whole = facts(watch(pieces));
      t.deepEqual(facts(watch(pieces, size)), whole);
    }),
  );
});
