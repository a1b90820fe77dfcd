import { constants } from 'node:os';
import test from 'ava';
import fc from 'fast-check';
import { LookedUp } from '../ahead/looked-up.js';
import { nodeNumber, UPPER, UPPER_ROOT } from '../fs/nodes.js';
import { FIXTURE_CHUNK, fixtureContent } from '../testing/fs-fixture.js';
import { entries, inSlot, readIn, SLOT, startSession } from '../testing/session-fixture.js';
import { Message, Opcode } from './codec.js';
import { ReadRing } from './read-ring.js';
import { Count } from './messages.js';

const { EINVAL, EISDIR, ENODATA, ENOENT, ENOSYS, ENOTDIR, EROFS, ESTALE, EPROTO } = constants.errno;

test('INIT: the newest minor that both have, and of the flags only those that are offered', (t) => {
  const { send, negotiated } = startSession();
  const init = (major: number, minor: number, flags: number, flags2 = 0x5fd) => {
    const body = Buffer.alloc(64);
    [major, minor, 0x20000, flags, flags2].forEach((word, i) => body.writeUInt32LE(word >>> 0, i * 4));
    return send(Opcode.INIT, 0, body)!;
  };
  const { body } = init(7, 45, 0x73ff_fffb);
  t.is(body.byteLength, 64);
  t.deepEqual([body.readUInt32LE(0), body.readUInt32LE(4)], [7, 45]);
  t.is(body.readUInt32LE(12), 0x43e6_2001);
  t.deepEqual([body.readUInt16LE(16), body.readUInt16LE(18), body.readUInt32LE(20)], [64, 48, 4096]);
  t.deepEqual([body.readUInt32LE(24), body.readUInt16LE(28)], [1, 256]);
  t.is(body.readUInt32LE(32), 0x100);
  t.is(init(7, 45, 0x73ff_fffb, 0x4fd).body.readUInt32LE(32), 0, 'id-mapped mounts came with Linux 6.12');
  t.is(init(7, 31, 0x73ff_fffb).body.readUInt32LE(4), 31);
  t.is(init(7, 99, 1).body.readUInt32LE(4), 45);
  t.deepEqual(negotiated.at(-1), { minor: 45, flags: 1, flags2: 0 }, 'flags2 counts only with its own flag');
  t.is(init(7, 30, 0).error, EPROTO);
  t.is(init(6, 0, 0).error, EPROTO);
  t.is(init(8, 0, 0).body.readUInt32LE(0), 7, 'a newer kernel is told ours, and asks again');
  t.is(negotiated.length, 4);
});

test('LOOKUP and GETATTR give every attribute, and validity without end in a layer', (t) => {
  const { send, layer } = startSession();
  const inode = layer.find('file');
  const entry = send(Opcode.LOOKUP, inSlot(0), 'file\0', 0x8000_0000_0000_0006n)!;
  t.is(entry.unique, 0x8000_0000_0000_0006n, 'unique is echoed, bit 63 too');
  t.is(entry.body.byteLength, 128);
  t.is(entry.body.readBigUInt64LE(0), BigInt(inSlot(inode)));
  t.deepEqual([entry.body.readBigUInt64LE(16), entry.body.readBigUInt64LE(24)], [0x7fff_ffffn, 0x7fff_ffffn]);
  const out = send(Opcode.GETATTR, inSlot(inode), Buffer.alloc(16))!.body;
  t.deepEqual(out.subarray(16), entry.body.subarray(40));
  const attr = out.subarray(16);
  t.is(attr.readBigUInt64LE(0), BigInt(inSlot(inode)));
  t.is(attr.readBigUInt64LE(8), BigInt(2 * FIXTURE_CHUNK + 10));
  t.is(attr.readBigUInt64LE(16), BigInt(Math.ceil((2 * FIXTURE_CHUNK + 10) / 512)));
  t.deepEqual(
    [24, 32, 40].map((at) => attr.readBigInt64LE(at)),
    [-3n, -3n, -3n],
  );
  t.deepEqual(
    [48, 52, 56].map((at) => attr.readUInt32LE(at)),
    [7, 7, 7],
  );
  t.deepEqual(
    [60, 64, 68, 72, 76].map((at) => attr.readUInt32LE(at)),
    [0o104751, 1, 2 ** 32 - 2, 9, 0],
  );
});

test('a name that is not there: kept for good in a layer, not at all above', (t) => {
  const { send } = startSession();
  const layer = send(Opcode.LOOKUP, inSlot(0), 'missing\0')!;
  t.deepEqual([layer.error, layer.body.readBigUInt64LE(0), layer.body.readBigUInt64LE(16)], [0, 0n, 0x7fff_ffffn]);
  t.is(send(Opcode.LOOKUP, nodeNumber(UPPER, UPPER_ROOT), 'missing\0')!.error, ENOENT);
  const l = Number(send(Opcode.LOOKUP, 1, 'l\0')!.body.readBigUInt64LE(0));
  const slot = send(Opcode.LOOKUP, l, `${SLOT}\0`)!.body;
  t.deepEqual([slot.readBigUInt64LE(0), slot.readBigUInt64LE(16)], [BigInt(inSlot(0)), 1n]);
});

test('READDIR and READDIRPLUS give the same names however small the buffer is', (t) => {
  const { send, layer } = startSession();
  const directory = inSlot(layer.find('many'));
  for (const [opcode, fixed] of [
    [Opcode.READDIR, 0],
    [Opcode.READDIRPLUS, 128],
  ])
    for (const size of [fixed + 24 + 208, 1000, 4096, 1 << 20]) {
      const names: string[] = [];
      for (let offset = 0, left = 1000; left > 0; left--) {
        const { body } = send(opcode, directory, readIn(offset, size))!;
        t.true(body.byteLength <= size);
        if (body.byteLength === 0) break;
        for (let at = 0; at < body.byteLength;) {
          const dirent = body.subarray(at + fixed);
          const length = dirent.readUInt32LE(16);
          const name = dirent.toString('latin1', 24, 24 + length);
          names.push(name);
          offset = Number(dirent.readBigUInt64LE(8));
          if (fixed > 0) {
            const node = body.readBigUInt64LE(at);
            t.is(node, name.startsWith('.') ? 0n : dirent.readBigUInt64LE(0));
          }
          at += (fixed + 24 + length + 7) & ~7;
        }
      }
      t.deepEqual(names.sort(), ['.', '..', ...layerNames()].sort(), `opcode ${opcode}, ${size} bytes`);
    }
});

test('READDIRPLUS of what may change: the name of a layer is good for a moment, what the layer is for good', (t) => {
  const { send } = startSession();
  const l = Number(send(Opcode.LOOKUP, 1, 'l\0')!.body.readBigUInt64LE(0));
  const { body } = send(Opcode.READDIRPLUS, l, readIn(2, 4096))!;
  t.is(body.readBigUInt64LE(0), BigInt(inSlot(0)));
  t.deepEqual([body.readBigUInt64LE(16), body.readBigUInt64LE(24)], [1n, 0x7fff_ffffn]);
});

const layerNames = () => entries.filter((e) => e.name.startsWith('many/')).map((e) => e.name.slice(5));

test('READ: cached bytes come at once, missing ones are deferred, clipped to the file', (t) => {
  const { send, layer, deferred, counts } = startSession();
  const cached = inSlot(layer.find('cached'));
  t.deepEqual(send(Opcode.READ, cached, readIn(10, 4096))!.body, fixtureContent('cached', 10, 90));
  t.is(send(Opcode.READ, cached, readIn(100, 10))!.body.byteLength, 0);
  t.is(send(Opcode.READ, cached, readIn(2 ** 40, 10))!.body.byteLength, 0);
  const file = layer.find('file');
  t.is(send(Opcode.READ, inSlot(file), readIn(FIXTURE_CHUNK, 1 << 20), 0x8000_0001_0000_0004n), undefined);
  const expected = { slot: SLOT, inode: file, pid: 77, uniqueLow: 4, uniqueHigh: 0x8000_0001 };
  t.deepEqual(deferred, [{ ...expected, offset: FIXTURE_CHUNK, size: FIXTURE_CHUNK + 10 }]);
  layer.fill('file', FIXTURE_CHUNK, FIXTURE_CHUNK);
  t.deepEqual(
    send(Opcode.READ, inSlot(file), readIn(FIXTURE_CHUNK + 1, FIXTURE_CHUNK - 1))!.body,
    fixtureContent('file', FIXTURE_CHUNK + 1, FIXTURE_CHUNK - 1),
  );
  t.is(send(Opcode.READ, inSlot(file), readIn(FIXTURE_CHUNK + 1, FIXTURE_CHUNK)), undefined, 'one byte is missing');
  t.is(send(Opcode.READ, inSlot(0), readIn(0, 10))!.error, EISDIR);
  t.deepEqual([counts[Count.cachedReads], counts[Count.deferredReads]], [4, 2]);
});

test('READ: a ring is told of what the cache answers while there is one, and of nothing else', (t) => {
  const { send, layer, session } = startSession();
  const [cached, file] = ['cached', 'file'].map((name) => layer.find(name));
  const ring = ReadRing.allocate(8);
  send(Opcode.READ, inSlot(cached), readIn(0, 5));
  session.ring = ring;
  send(Opcode.READ, inSlot(cached), readIn(10, 4096));
  send(Opcode.READ, inSlot(file), readIn(0, 4096));
  send(Opcode.READ, inSlot(0), readIn(0, 10));
  session.ring = undefined;
  send(Opcode.READ, inSlot(cached), readIn(0, 5));
  const [{ start: from, end, ...read }, ...others] = [...ring];
  t.deepEqual([read, others], [{ slot: SLOT, inode: cached, offset: 10, size: 90 }, []]);
  t.true(from > 1.6e12 && from <= end);
});

test('READ: where the cache file does not give what the bits promise, the host is asked', (t) => {
  const { send, layer, deferred } = startSession();
  layer.presence.set(layer.tree.first[layer.find('last')]);
  t.is(send(Opcode.READ, inSlot(layer.find('last')), readIn(0, 4096)), undefined);
  t.is(deferred.length, 1);
});

test('GETXATTR, LISTXATTR, READLINK', (t) => {
  const { send, layer } = startSession();
  const node = inSlot(layer.find('attributed'));
  const sized = (size: number, name = '') => {
    const body = Buffer.concat([Buffer.alloc(8), Buffer.from(name === '' ? '' : `${name}\0`)]);
    body.writeUInt32LE(size);
    return body;
  };
  t.is(send(Opcode.GETXATTR, node, sized(0, 'user.a'))!.body.readUInt32LE(0), 5);
  t.is(send(Opcode.GETXATTR, node, sized(5, 'user.a'))!.body.toString(), 'value');
  t.is(send(Opcode.GETXATTR, node, sized(4, 'user.a'))!.error, constants.errno.ERANGE);
  t.is(send(Opcode.GETXATTR, node, sized(4, 'user.b'))!.error, ENODATA);
  t.is(send(Opcode.LISTXATTR, node, sized(0))!.body.readUInt32LE(0), 7);
  t.is(send(Opcode.LISTXATTR, node, sized(7))!.body.toString(), 'user.a\0');
  t.is(send(Opcode.LISTXATTR, inSlot(layer.find('cached')), sized(100))!.body.byteLength, 0);
  t.is(send(Opcode.READLINK, inSlot(layer.find('link')))!.body.toString(), 'file');
  t.is(send(Opcode.READLINK, node)!.error, EINVAL);
});

test('what is refused, and what has no reply', (t) => {
  const { send, layer, interrupts, tree } = startSession();
  t.is(send(Opcode.MKDIR, 1, Buffer.alloc(20))!.error, EROFS);
  t.is(send(Opcode.CREATE, 1, Buffer.alloc(20))!.error, EROFS);
  for (const opcode of [14, 25, 27, 34, 46, 52, 4096, 0]) t.is(send(opcode, 1)!.error, ENOSYS);
  t.is(send(Opcode.FORGET, 1, Buffer.alloc(8)), undefined);
  t.is(send(Opcode.BATCH_FORGET, 0, Buffer.alloc(8)), undefined);
  const unique = Buffer.alloc(8);
  unique.writeBigUInt64LE(0x8000_0000_0000_0008n);
  t.is(send(Opcode.INTERRUPT, 0, unique), undefined);
  t.deepEqual(interrupts, [[8, 0x8000_0000]]);
  t.is(send(Opcode.DESTROY, 0)!.error, 0);
  t.is(send(Opcode.LOOKUP, inSlot(layer.find('cached')), 'x\0')!.error, ENOTDIR);
  t.is(send(Opcode.GETATTR, nodeNumber(9, 0))!.error, ESTALE);
  t.is(send(Opcode.GETATTR, inSlot(1_000_000))!.error, ESTALE);
  t.is(send(Opcode.GETATTR, 12345)!.error, ESTALE);
  tree.detach(SLOT);
  t.is(send(Opcode.GETATTR, inSlot(0))!.error, ESTALE);
});

test('malformed messages: a reply or silence, never an exception, never two replies', (t) => {
  const { session, replies, deferred, lookups, layer } = startSession(true);
  const nodes = [1, inSlot(0), inSlot(layer.find('file')), inSlot(layer.find('many')), 2 ** 53];
  const opcodes = fc.oneof(fc.constantFrom(...Object.values(Opcode)), fc.nat(70));
  const message = fc.record({
    opcode: opcodes,
    node: fc.oneof(fc.constantFrom(...nodes).map(BigInt), fc.bigInt({ min: 0n, max: 2n ** 64n - 1n })),
    body: fc.uint8Array({ maxLength: 200 }),
    cut: fc.nat(60),
    lie: fc.boolean(),
  });
  fc.assert(
    fc.property(fc.array(message, { maxLength: 20 }), (messages) => {
      const request = new Message(16 * 1024);
      for (const { opcode, node, body, cut, lie } of messages) {
        const length = Math.max(0, 40 + body.byteLength - cut);
        request.bytes.set(body, 40);
        request.words[0] = lie ? length + 1 : length;
        request.words[1] = opcode;
        request.bytes.writeBigUInt64LE(6n, 8);
        request.bytes.writeBigUInt64LE(node, 16);
        const before = replies.length + deferred.length + lookups.length;
        session.handle(request, length);
        const answers = replies.length + deferred.length + lookups.length - before;
        t.true(answers <= (lie || length < 40 ? 0 : 1));
      }
      replies.length = deferred.length = lookups.length = 0;
    }),
    { numRuns: 500, endOnFailure: true },
  );
});

test('who looks for a name in a layer is told of', (t) => {
  const { send, session, tree } = startSession();
  const seen: number[][] = [];
  session.lookedBy = (slot, pid) => void seen.push([slot, pid]);
  tree.setReference('r', [{ digest: 'd', slot: SLOT }]);
  send(Opcode.LOOKUP, nodeNumber(UPPER, UPPER_ROOT), 'cg==\0');
  t.deepEqual(seen, []);
  for (const name of ['file', 'gone']) send(Opcode.LOOKUP, inSlot(0), `${name}\0`);
  t.deepEqual(seen, [
    [SLOT, 77],
    [SLOT, 77],
  ]);
});

test('files that are found by name, READs and listings of a layer are told of', (t) => {
  const { send, session, layer, tree } = startSession();
  const brought: number[][] = [];
  const later: (() => void)[] = [];
  session.lookedUp = new LookedUp(
    (slot, { whole, beginnings }) => void brought.push([slot, ...whole, ...beginnings]),
    (work) => void later.push(work),
  );
  session.lookedUp.attach(layer.view(SLOT));
  const [file, last] = [layer.find('file'), layer.find('last')];
  tree.setReference('r', [{ digest: 'd', slot: SLOT, files: { info: 10, blob: 10 } }]);
  const r = Number(send(Opcode.LOOKUP, nodeNumber(UPPER, UPPER_ROOT), 'cg==\0')!.body.readBigUInt64LE(0));
  const d = Number(send(Opcode.LOOKUP, r, 'd\0')!.body.readBigUInt64LE(0));
  for (const name of ['info', 'blob']) t.is(send(Opcode.LOOKUP, d, `${name}\0`)!.error, 0);
  for (const name of ['cached', 'last', 'file', 'gone', 'many']) send(Opcode.LOOKUP, inSlot(0), `${name}\0`);
  t.is(later.length, 1);
  send(Opcode.READ, inSlot(file), readIn(0, 100));
  later.pop()!();
  t.deepEqual(brought, [[SLOT, last]]);

  send(Opcode.READ, inSlot(last), readIn(0, 100));
  send(Opcode.READDIR, inSlot(0), readIn(0, 4096));
  send(Opcode.LOOKUP, inSlot(0), 'last\0');
  t.deepEqual(later, [], 'of a directory that was listed');
});
