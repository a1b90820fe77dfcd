import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import type { RandomAccessReader, ReadOptions } from '../io/reader.js';
import { BlobWindows } from './blob-windows.js';

const MIB = 1024 * 1024;

/** A blob whose every byte says which MiB it is of. `hold` keeps its answers back. */
function blobOf(size: number) {
  const asked: { readonly offset: number; readonly length: number; readonly signal: AbortSignal }[] = [];
  let held: Promise<void> | undefined;
  const reader = {
    size,
    async read(offset: number, length: number, options?: ReadOptions): Promise<Uint8Array> {
      const signal = options!.signal!;
      asked.push({ offset, length, signal });
      await held;
      signal.throwIfAborted();
      return Uint8Array.from({ length }, (_, i) => (offset + i) >>> 20);
    },
  } as unknown as RandomAccessReader;
  const hold = () => {
    let release!: () => void;
    held = new Promise((resolve) => (release = resolve));
    return () => {
      held = undefined;
      release();
    };
  };
  return { asked, reader, hold };
}

test('reading in order asks for ranges that grow, each once', async (t) => {
  const { asked, reader } = blobOf(8 * MIB);
  using windows = new BlobWindows();
  for (let at = 0; at < 8 * MIB; at += MIB / 2) {
    const bytes = await windows.read('a', reader, at, MIB / 2);
    t.true(bytes.byteLength === MIB / 2 && bytes.every((byte) => byte === at >>> 20), `${at}`);
  }
  t.deepEqual(
    asked.map(({ offset, length }) => [offset / MIB, length / MIB]),
    [
      [0, 1],
      [1, 4],
      [5, 3],
    ],
  );
});

test('what nobody reads any more is dropped, and asked for again', async (t) => {
  const { asked, reader } = blobOf(MIB);
  using windows = new BlobWindows({ keptMs: 20 });
  await windows.read('a', reader, 0, 10);
  for (const deadline = Date.now() + 20_000; windows.bytes > 0 && Date.now() < deadline;) await sleep(5);
  t.is(windows.bytes, 0);
  await windows.read('a', reader, 0, 10);
  t.is(asked.length, 2);
});

test('a request ends when the last who waits for it leaves, not before', async (t) => {
  const { asked, reader, hold } = blobOf(MIB);
  using windows = new BlobWindows();
  let release = hold();
  const [first, second] = [new AbortController(), new AbortController()];
  const one = windows.read('a', reader, 0, 10, first.signal);
  const two = windows.read('a', reader, 10, 10, second.signal);
  first.abort(new Error('killed'));
  await t.throwsAsync(one, { message: 'killed' });
  t.false(asked[0].signal.aborted);
  release();
  t.is((await two).byteLength, 10);
  second.abort();
  t.is((await windows.read('a', reader, 20, 10)).byteLength, 10);
  t.is(asked.length, 1);

  release = hold();
  const third = new AbortController();
  const alone = windows.read('b', reader, 0, 10, third.signal);
  third.abort(new Error('killed'));
  await t.throwsAsync(alone, { message: 'killed' });
  t.true(asked[1].signal.aborted);
  const again = windows.read('b', reader, 0, 10);
  release();
  t.is((await again).byteLength, 10);
  t.is(asked.length, 3);
});
