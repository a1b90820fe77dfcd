import { closeSync, openSync, writeFileSync, readFileSync, truncateSync } from 'node:fs';
import { constants } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { temporaryDirectory } from '../testing/temporary.js';
import { pread, read, systemError, write } from './syscalls.js';

const { EBADF, ENOENT } = constants.errno;

test('bytes come and go where they should, in a part of a buffer too', async (t) => {
  const path = join(await temporaryDirectory(t, 'syscalls'), 'file');
  writeFileSync(path, 'hello world');
  const fd = openSync(path, 'r+');
  t.teardown(() => closeSync(fd));
  const whole = Buffer.alloc(16, '.');
  const part = whole.subarray(4, 12);
  t.is(read(fd, part), 8);
  t.is(whole.toString(), '....hello wo....');
  t.is(read(fd, part), 3, 'what is left');
  t.is(read(fd, part), 0, 'the end');
  t.is(pread(fd, part, 5, 6), 5);
  t.is(whole.toString(), '....world wo....');
  t.is(write(fd, Buffer.from('!!!???'), 3), 3);
  t.is(readFileSync(path, 'utf8'), 'hello world!!!');
});

test('positions beyond 4 GiB are positions', async (t) => {
  const path = join(await temporaryDirectory(t, 'syscalls'), 'sparse');
  writeFileSync(path, 'begin');
  const far = 2 ** 32 + 5;
  truncateSync(path, far + 3);
  const fd = openSync(path, 'r');
  t.teardown(() => closeSync(fd));
  const into = Buffer.alloc(8, '.');
  t.is(pread(fd, into, 8, far), 3);
  t.is(into.toString('latin1'), '\0\0\0.....');
});

test('a failure is a negated errno, and as an error what node:fs throws', (t) => {
  const into = Buffer.alloc(8);
  t.is(read(-1, into), -EBADF);
  t.is(pread(-1, into, 8, 0), -EBADF);
  t.is(write(-1, into, 8), -EBADF);
  const thrown = t.throws<NodeJS.ErrnoException>(() => closeSync(1_000_000));
  const made = systemError('close', -EBADF);
  t.deepEqual({ ...made }, { ...thrown });
  t.is(made.message, thrown.message);
  t.is(systemError('write', -ENOENT).code, 'ENOENT');
});

test('nothing beyond a buffer is touched', (t) => {
  const buffer = Buffer.alloc(8);
  for (const size of [9, -1, NaN]) {
    t.throws(() => pread(-1, buffer, size, 0), { instanceOf: RangeError });
    t.throws(() => write(-1, buffer, size), { instanceOf: RangeError });
  }
});
