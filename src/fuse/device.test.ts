import { execFileSync } from 'node:child_process';
import { closeSync, constants, fstatSync, openSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { temporaryDirectory } from '../testing/temporary.js';
import { watchDevice } from './device.js';

/** A fifo stands in for the device: it too has read(2) and epoll, and an end. */
async function fifo(t: ExecutionContext): Promise<{ reader: number; writer: number }> {
  const directory = await temporaryDirectory(t, 'device');
  const path = join(directory, 'fifo');
  execFileSync('mkfifo', [path]);
  const reader = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  return { reader, writer: openSync(path, 'w') };
}

test('gives each message in the one buffer, and an end after which the descriptor is still open', async (t) => {
  const { reader, writer } = await fifo(t);
  const buffer = Buffer.alloc(64);
  const seen: string[] = [];
  await new Promise<void>((resolve) => {
    const device = watchDevice(reader, buffer, {
      message: (length) => {
        seen.push(buffer.toString('latin1', 0, length));
        if (seen.length < 3) writeSync(writer, `message ${seen.length}`);
        else closeSync(writer);
      },
      end: () => {
        t.notThrows(() => fstatSync(reader), 'late writers still have a descriptor of their own');
        device.close();
        t.throws(() => fstatSync(reader), { code: 'EBADF' });
        resolve();
      },
    });
    writeSync(writer, 'message 0');
  });
  t.deepEqual(seen, ['message 0', 'message 1', 'message 2']);
});

test('who does not wait for the loop takes the next message at once, where there is one', async (t) => {
  const { reader, writer } = await fifo(t);
  const buffer = Buffer.alloc(64);
  const seen: string[] = [];
  const device = watchDevice(reader, buffer, {
    message: (length) => seen.push(buffer.toString('latin1', 0, length)),
    end: () => t.fail(),
  });
  device.take();
  t.deepEqual(seen, []);
  writeSync(writer, 'at once');
  device.take();
  device.take();
  t.deepEqual(seen, ['at once']);
  writeSync(writer, 'unread');
  device.close();
  device.take();
  closeSync(writer);
  t.deepEqual(seen, ['at once']);
});

test('a closed device says nothing more', async (t) => {
  const { reader, writer } = await fifo(t);
  let calls = 0;
  const count = () => calls++;
  const device = watchDevice(reader, Buffer.alloc(64), { message: count, end: count });
  writeSync(writer, 'unread');
  device.close();
  closeSync(writer);
  await new Promise((resolve) => setTimeout(resolve, 20));
  t.is(calls, 0);
  t.throws(() => fstatSync(reader), { code: 'EBADF' });
});
