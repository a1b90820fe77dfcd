import { constants } from 'node:os';
import test from 'ava';
import { nodeNumber, UPPER, UPPER_ROOT } from '../fs/nodes.js';
import { inSlot, readIn, SLOT, startSession } from '../testing/session-fixture.js';
import { Opcode } from './codec.js';
import { Count } from './messages.js';

const { EINVAL, EIO, ENOENT, EROFS, ESTALE } = constants.errno;

test('making `use` and removing a layer are told of, then answered ENOENT; nothing else is made or removed', (t) => {
  const { send, session, uses, replies, tree } = startSession(true);
  const base64 = Buffer.from('r/a:1').toString('base64');
  tree.setReference('r/a:1', [{ digest: 'd', slot: SLOT, files: { info: 3, blob: 9 } }]);
  const nodeOf = (parent: number, name: string) =>
    Number(send(Opcode.LOOKUP, parent, `${name}\0`)!.body.readBigUInt64LE(0));
  const reference = nodeOf(1, base64);
  const layer = nodeOf(reference, 'd');
  const modes = '\0'.repeat(16);
  let unique = 100n;
  for (const [opcode, node, body, change] of [
    [Opcode.CREATE, layer, `${modes}use\0`, 'use'],
    [Opcode.MKNOD, layer, `${modes}use\0`, 'use'],
    [Opcode.RMDIR, reference, 'd\0', 'release'],
    [Opcode.RMDIR, reference, 'not there\0', 'release'],
  ] as const) {
    unique += 2n;
    t.is(send(opcode, node, body, unique), undefined);
    const path = [base64, change === 'use' ? 'd' : body.slice(0, -1)];
    t.deepEqual(uses.pop(), { uniqueLow: Number(unique), uniqueHigh: 0, pid: 77, change, path });
    t.true(session.locks(node));
    session.lookAgain(Number(unique), 0, 0);
    t.is(replies.pop()?.error, ENOENT);
    t.false(session.locks(node));
    t.is(send(opcode, node, body, unique), undefined, 'told of each time');
    uses.pop();
    session.lookAgain(Number(unique), 0, EROFS);
    t.is(replies.pop()?.error, EROFS, 'what the store says');
  }
  for (const [opcode, node, body, errno] of [
    [Opcode.CREATE, layer, `${modes}used\0`, EROFS],
    [Opcode.CREATE, reference, `${modes}use\0`, EROFS],
    [Opcode.CREATE, 1, `${modes}use\0`, EROFS],
    [Opcode.RMDIR, layer, 'diff\0', EROFS],
    [Opcode.RMDIR, 1, `${base64}\0`, EROFS],
    [Opcode.CREATE, inSlot(0), `${modes}use\0`, EROFS],
    [Opcode.RMDIR, inSlot(0), 'dir\0', EROFS],
    [Opcode.CREATE, layer, modes, EINVAL],
    [Opcode.CREATE, layer, 'short', EINVAL],
    [Opcode.MKNOD, layer, `${modes}use`, EINVAL],
    [Opcode.RMDIR, reference, '', EINVAL],
    [Opcode.RMDIR, reference, '\0', EINVAL],
    [Opcode.MKDIR, layer, `${modes}use\0`, EROFS],
    [Opcode.UNLINK, layer, 'use\0', EROFS],
  ] as const)
    t.is(send(opcode, node, body)?.error, errno, `${opcode} ${body}`);
  tree.setReference('r/a:1', undefined);
  t.is(send(Opcode.CREATE, layer, `${modes}use\0`)?.error, ESTALE, 'the kernel looks its names up again');
  t.is(send(Opcode.RMDIR, reference, 'd\0')?.error, ESTALE);
  t.is(uses.length, 0);

  const plain = startSession();
  t.is(plain.send(Opcode.CREATE, 1, `${modes}use\0`)?.error, EROFS, 'no store, nothing to say');
});

test('at the end all requests that wait are refused, and those that come after it and would wait', (t) => {
  const { send, session, replies, tree, layer, lookups, uses, wakes } = startSession(true);
  const base64 = Buffer.from('r/a:1').toString('base64');
  tree.setReference('r/a:1', [{ digest: 'd', slot: SLOT, files: { info: 3, blob: 9 } }]);
  const reference = Number(send(Opcode.LOOKUP, 1, `${base64}\0`)!.body.readBigUInt64LE(0));
  for (const unique of [10n, 12n, 14n]) t.is(send(Opcode.LOOKUP, 1, `${unique}\0`, unique), undefined);
  t.true(session.locks(1));
  session.close();
  t.deepEqual(
    replies.map(({ error, unique }) => [error, unique]),
    [10n, 12n, 14n].map((unique) => [EIO, unique]),
  );
  t.false(session.locks(1));

  const told = [lookups.length, uses.length, wakes.length];
  t.is(send(Opcode.LOOKUP, 1, 'later\0', 16n)?.error, EIO);
  t.is(send(Opcode.RMDIR, reference, 'd\0', 18n)?.error, EIO);
  tree.sleep({ slot: SLOT, statistics: { bytes: 1, files: 1 } });
  t.is(send(Opcode.READDIR, inSlot(0), readIn(0, 4096), 20n)?.error, EIO);
  t.false(session.locks(1) || session.locks(reference));
  t.deepEqual([lookups.length, uses.length, wakes.length], told, 'nobody would answer');
  t.is(send(Opcode.LOOKUP, 1, `${base64}\0`, 22n)?.error, 0, 'what is known is');
  tree.attach(layer.view(SLOT));
  t.is(send(Opcode.GETATTR, inSlot(0), Buffer.alloc(16), 24n)?.error, 0);
});

test('LOOKUP of a name that may come to be: asked for, then looked up again', (t) => {
  const { send, session, lookups, replies, tree } = startSession(true);
  const base64 = Buffer.from('r/a:1').toString('base64');
  t.is(send(Opcode.LOOKUP, 1, `${base64}\0`, 0x8000_0000_0000_000cn), undefined);
  t.deepEqual(lookups.pop(), { uniqueLow: 12, uniqueHigh: 0x8000_0000, pid: 77, path: [base64] });
  tree.setReference('r/a:1', []);
  session.lookAgain(12, 0x8000_0000, 0);
  const { error, unique, body } = replies.pop()!;
  t.deepEqual([error, unique], [0, 0x8000_0000_0000_000cn]);
  const reference = Number(body.readBigUInt64LE(0));
  session.lookAgain(12, 0x8000_0000, 0);
  t.is(replies.length, 0, 'one reply');

  t.is(send(Opcode.LOOKUP, reference, 'sha256:a\0', 14n), undefined);
  t.deepEqual(lookups.pop()?.path, [base64, 'sha256:a']);
  session.lookAgain(14, 0, 0);
  t.is(replies.pop()?.error, ENOENT, 'nobody made it');
  t.is(send(Opcode.LOOKUP, reference, 'sha256:a\0', 16n), undefined, 'asked for anew each time');
  session.lookAgain(16, 0, constants.errno.EIO);
  t.is(replies.pop()?.error, constants.errno.EIO);
  t.is(send(Opcode.LOOKUP, Number(send(Opcode.LOOKUP, 1, 'l\0')!.body.readBigUInt64LE(0)), '99\0')!.error, ENOENT);
});

test('a request that needs a sleeping layer has the reply that an awake one gives, once it is awake', (t) => {
  const { send, tree, layer, session, replies, wakes, deferred, counts } = startSession();
  const inodeOf = (path: string) => inSlot(layer.find(path));
  const requests: [opcode: number, node: number, body: Buffer | string][] = [
    [Opcode.LOOKUP, inSlot(0), 'file\0'],
    [Opcode.LOOKUP, inSlot(0), 'nothing\0'],
    [Opcode.GETATTR, inodeOf('file'), Buffer.alloc(16)],
    [Opcode.READ, inodeOf('cached'), readIn(0, 4096)],
    [Opcode.READDIR, inodeOf('many'), readIn(0, 4096)],
    [Opcode.READDIRPLUS, inodeOf('many'), readIn(7, 4096)],
    [Opcode.READLINK, inodeOf('link'), ''],
    [Opcode.READLINK, inodeOf('file'), ''],
    [Opcode.GETXATTR, inodeOf('attributed'), Buffer.from('\xff\0\0\0\0\0\0\0user.a\0', 'latin1')],
    [Opcode.LISTXATTR, inodeOf('attributed'), Buffer.from('\xff\0\0\0\0\0\0\0', 'latin1')],
    [Opcode.LOOKUP, nodeNumber(UPPER, UPPER_ROOT), 'l\0'],
  ];
  const layers = Number(send(...requests.at(-1)!)!.body.readBigUInt64LE(0));
  requests.splice(-1, 1, [Opcode.LOOKUP, layers, `${SLOT}\0`]);
  const awake = requests.map((request, i) => send(...request, BigInt(2 * i + 2))!);
  tree.sleep({ slot: SLOT, statistics: { bytes: 1, files: 1 } });
  const before = counts[Count.requests];
  requests.forEach((request, i) => t.is(send(...request, BigInt(2 * i + 2)), undefined, `${i}`));
  t.deepEqual(
    wakes,
    requests.map((_, i) => ({ uniqueLow: 2 * i + 2, uniqueHigh: 0, pid: 77, slot: SLOT })),
  );
  t.is(counts[Count.requests], before + requests.length);
  tree.attach(layer.view(SLOT));
  for (const { uniqueLow, uniqueHigh } of wakes) session.lookAgain(uniqueLow, uniqueHigh, 0);
  t.deepEqual(replies, awake);
  t.is(counts[Count.requests], before + requests.length, 'each is one request');
  t.is(deferred.length, 0);
});

test('a layer that cannot be woken is an errno, and asked for again by the next request', (t) => {
  const { send, tree, layer, session, replies, wakes } = startSession();
  tree.sleep({ slot: SLOT, statistics: { bytes: 1, files: 1 } });
  const look = (unique: bigint) => send(Opcode.GETATTR, inSlot(0), Buffer.alloc(16), unique);
  for (const unique of [2n, 4n]) t.is(look(unique), undefined);
  session.lookAgain(2, 0, constants.errno.EIO);
  session.lookAgain(4, 0, constants.errno.EINTR);
  session.lookAgain(4, 0, 0);
  t.deepEqual(
    replies.splice(0).map(({ error, unique }) => [error, unique]),
    [
      [constants.errno.EIO, 2n],
      [constants.errno.EINTR, 4n],
    ],
    'each request has one reply',
  );
  look(6n);
  tree.attach(layer.view(SLOT));
  tree.sleep({ slot: SLOT, statistics: { bytes: 1, files: 1 } });
  session.lookAgain(6, 0, 0);
  t.is(wakes.length, 4, 'fell asleep again before it was looked at again');
  tree.detach(SLOT);
  session.lookAgain(6, 0, 0);
  t.is(replies[0].error, ESTALE);
});

test('a listing of the layers wakes none, and what is asked for is noted by slot', (t) => {
  const { send, tree, wakes, touched } = startSession();
  tree.sleep({ slot: SLOT, statistics: { bytes: 100, files: 5 } });
  tree.sleep({ slot: 9, statistics: { bytes: 20, files: 2 } });
  const layers = Number(send(Opcode.LOOKUP, nodeNumber(UPPER, UPPER_ROOT), 'l\0')!.body.readBigUInt64LE(0));
  touched.fill(0);
  const { body } = send(Opcode.READDIRPLUS, layers, readIn(2, 4096))!;
  t.is(body.byteLength, 2 * (128 + 32));
  t.is(body.readBigUInt64LE(0), 0n, 'no attributes: the kernel asks when it wants them');
  t.deepEqual(
    [128, 288].map((at) => body.readBigUInt64LE(at)),
    [BigInt(inSlot(0)), BigInt(nodeNumber(9, 0))],
  );
  t.is(wakes.length, 0);
  t.deepEqual(
    [...touched].flatMap((one, slot) => (one === 1 ? [slot] : [])),
    [UPPER],
  );
  send(Opcode.GETATTR, nodeNumber(9, 1), Buffer.alloc(16));
  send(Opcode.GETATTR, nodeNumber(40, 1), Buffer.alloc(16));
  t.deepEqual(
    [...touched].flatMap((one, slot) => (one === 1 ? [slot] : [])),
    [UPPER, 9],
  );
});
