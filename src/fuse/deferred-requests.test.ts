import { closeSync, openSync, readFileSync } from 'node:fs';
import { constants } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { LazylayerError } from '../errors.js';
import { temporaryDirectory } from '../testing/temporary.js';
import { DeferredRequests } from './deferred-requests.js';
import type { FuseHost } from './server.js';
import type { DeferredRead } from './session-output.js';

const { EACCES, EIO } = constants.errno;

/** A file stands in for the device: what is written to it are the replies, one behind the other. */
async function start(t: ExecutionContext, host: FuseHost) {
  const directory = await temporaryDirectory(t, 'deferred');
  const path = join(directory, 'device');
  const fd = openSync(path, 'ax');
  t.teardown(() => closeSync(fd));
  const lookups: [number, number][] = [];
  const requests = new DeferredRequests(fd, host, ({ uniqueLow }, errno) => void lookups.push([uniqueLow, errno]));
  const replies = () => {
    const bytes = readFileSync(path);
    const found: { unique: bigint; error: number; data: string }[] = [];
    for (let at = 0; at < bytes.byteLength; at += bytes.readUInt32LE(at)) {
      const data = bytes.toString('latin1', at + 16, at + bytes.readUInt32LE(at));
      found.push({ unique: bytes.readBigUInt64LE(at + 8), error: 0 - bytes.readInt32LE(at + 4), data });
    }
    return found;
  };
  return { requests, replies, lookups };
}

const read = (uniqueLow: number, size: number): DeferredRead => ({
  uniqueLow,
  uniqueHigh: 0x8000_0000,
  pid: process.pid,
  slot: 1,
  inode: 2,
  offset: 3,
  size,
});

test('a READ is answered once: by its bytes, or by an errno; fewer bytes than asked for are an error', async (t) => {
  const errors: unknown[] = [];
  const answers = ['bytes', 'few', new LazylayerError('PERMISSION_DENIED', 'no')];
  const { requests, replies } = await start(t, {
    async read() {
      const answer = answers.shift()!;
      if (typeof answer !== 'string') throw answer;
      return Buffer.from(answer);
    },
    onError: (error) => errors.push(error),
  });
  for (const unique of [2, 4, 6]) await requests.read(read(unique, 5));
  const high = 0x8000_0000n << 32n;
  t.deepEqual(replies(), [
    { unique: high | 2n, error: 0, data: 'bytes' },
    { unique: high | 4n, error: EIO, data: '' },
    { unique: high | 6n, error: EACCES, data: '' },
  ]);
  t.deepEqual(
    errors.map((e) => (e as LazylayerError).code),
    ['DATA_LOSS', 'PERMISSION_DENIED'],
  );
  t.is(requests.reads, 0);
});

test("after close the host is told, and nothing is written to a descriptor that may be another file's", async (t) => {
  let answer!: (bytes: Uint8Array) => void;
  let signal!: AbortSignal;
  const { requests, replies } = await start(t, {
    read: (_slot, _inode, _offset, _length, s) => {
      signal = s;
      return new Promise((resolve) => (answer = resolve));
    },
  });
  const waiting = requests.read(read(2, 5));
  t.is(requests.reads, 1);
  requests.close();
  t.true(signal.aborted);
  answer(Buffer.from('bytes'));
  await waiting;
  await requests.read(read(4, 5));
  t.deepEqual(replies(), []);
});

test('a signal that does not kill changes nothing; one of a request that is not there neither', async (t) => {
  let answer!: (bytes: Uint8Array) => void;
  const { requests, replies } = await start(t, { read: () => new Promise((resolve) => (answer = resolve)) });
  const waiting = requests.read(read(2, 5));
  requests.interrupt(2, 0x8000_0000);
  requests.interrupt(99, 0);
  t.deepEqual(replies(), []);
  answer(Buffer.from('bytes'));
  await waiting;
  t.deepEqual(
    replies().map((r) => r.data),
    ['bytes'],
  );
});

test('a LOOKUP is answered by who keeps it', async (t) => {
  const paths: (readonly string[])[] = [];
  const { requests, lookups } = await start(t, {
    read: () => Promise.reject(new Error('unexpected')),
    async resolve(path) {
      paths.push(path);
      if (path[0] === 'bad') throw new LazylayerError('UNAVAILABLE', 'down');
    },
  });
  await requests.lookup({ uniqueLow: 2, uniqueHigh: 0, pid: 0, path: ['good'] });
  await requests.lookup({ uniqueLow: 4, uniqueHigh: 0, pid: 0, path: ['bad', 'x'] });
  t.deepEqual(paths, [['good'], ['bad', 'x']]);
  t.deepEqual(lookups, [
    [2, 0],
    [4, EIO],
  ]);
});

test('a use that the kernel tells of again, after a process that died, is known by the same number', async (t) => {
  const told: unknown[] = [];
  const use = async (_path: unknown, request: unknown) => void told.push(request);
  const { requests } = await start(t, { store: { use, release: use } } as unknown as FuseHost);
  for (const uniqueHigh of [1, 0x8000_0001])
    for (const change of ['use', 'release'] as const)
      await requests.use({ uniqueLow: 6, uniqueHigh, pid: 0, change, path: ['r', 'd'] });
  const id = 2 ** 32 + 6;
  t.deepEqual(told, [
    { id, again: false },
    { id, again: false },
    { id, again: true },
    { id, again: true },
  ]);
});

test('the host is told which process waits', async (t) => {
  const pids: number[] = [];
  const { requests } = await start(t, {
    read: async (_slot, _inode, _offset, length, _signal, pid) => {
      pids.push(pid);
      return Buffer.alloc(length);
    },
  });
  await requests.read({ ...read(2, 5), pid: 7 });
  await requests.read(read(4, 5));
  t.deepEqual(pids, [7, process.pid]);
});
