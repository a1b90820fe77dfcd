import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { lstat, open, readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import anyTest, { type ExecutionContext } from 'ava';
import { FIXTURE_CHUNK, fixtureContent } from '../src/testing/fs-fixture.js';
import { unmount } from '../src/util/unmount.js';
import { startMount, type ServedMount } from './fs-client.js';
import { halfSize, manyNames, odd } from './fs-layers.js';
import type { ServerSetup } from './fs-server.js';

const run = promisify(execFile);

/** The part of the suite that is about contents: reads of every kind, readers that wait, and what an end does to them. */
export function readingTests(backend: ServerSetup['backend'], mounted: () => ServedMount): void {
  const { serial: test } = anyTest;
  const at = (...path: string[]) => join(mounted().mountpoint, 'l/1', ...path);

  /** The bytes of a file at an offset, and what they must be. */
  async function same(t: ExecutionContext, name: string, offset: number, length: number, size: number): Promise<void> {
    await using file = await open(at(name));
    const into = Buffer.alloc(length, 0xee);
    const { bytesRead } = await file.read(into, 0, length, offset);
    const expected = Math.max(0, Math.min(length, size - offset));
    t.is(bytesRead, expected, `${name}: ${length} bytes at ${offset}`);
    t.true(into.subarray(0, expected).equals(fixtureContent(name, offset, expected)), `${name}: bytes at ${offset}`);
  }

  test('reads at every class of offset, cached or not', async (t) => {
    const offsets = [0, 1, 511, 4095, 4096, 4097, FIXTURE_CHUNK - 1, FIXTURE_CHUNK, FIXTURE_CHUNK + 1];
    offsets.push(2 * FIXTURE_CHUNK - 4096, odd - 4097, odd - 1, odd, odd + 1, odd + 100_000);
    for (const name of ['odd', 'odd-cached'])
      for (const offset of offsets)
        for (const length of [1, 4096, 5000, FIXTURE_CHUNK + 2, odd + 9]) await same(t, name, offset, length, odd);
    await same(t, 'half', 0, halfSize, halfSize);
    await same(t, 'half', FIXTURE_CHUNK + 5, 2 * FIXTURE_CHUNK - 10, halfSize);
    await same(t, 'empty', 0, 10, 0);
    await same(t, 'empty', 10, 10, 0);
  });

  test('big reads, and what the cache answers costs the host nothing', async (t) => {
    const size = 8 * 2 ** 20;
    t.true((await readFile(at('big-lazy'))).equals(fixtureContent('big-lazy', 0, size)));
    const before = await mounted().server.stats();
    t.true((await readFile(at('big'))).equals(fixtureContent('big', 0, size)));
    const after = await mounted().server.stats();
    t.is(after.deferredReads, before.deferredReads);
    t.true(after.cachedReads > before.cachedReads);
    await readFile(at('big'));
    t.is((await mounted().server.stats()).cachedReads, after.cachedReads, 'the kernel keeps what it has read');
  });

  test('direct reads pass the page cache by', async (t) => {
    const { stdout } = await run('dd', [`if=${at('odd')}`, 'iflag=direct', 'bs=4096', 'status=none'], {
      encoding: 'buffer',
      maxBuffer: 1 << 20,
    });
    t.true(stdout.equals(fixtureContent('odd', 0, odd)));
    for (const name of ['odd', 'odd-cached']) {
      const flags = ['iflag=direct,skip_bytes,count_bytes', 'bs=5000', 'skip=65533', 'count=70001', 'status=none'];
      const part = await run('dd', [`if=${at(name)}`, ...flags], { encoding: 'buffer', maxBuffer: 1 << 20 });
      t.true(part.stdout.equals(fixtureContent(name, 65_533, 70_001)), 'at offsets that no page cache would ask for');
    }
  });

  test('readers side by side all get the right bytes', async (t) => {
    const { server } = mounted();
    await server.call('stall', 'lazy/a');
    const readers = Array.from({ length: 8 }, () => run('sha256sum', [at('lazy/a')]));
    await server.untilWaiting('lazy/a');
    await server.call('release', 'lazy/a');
    const sums = (await Promise.all(readers)).map((r) => r.stdout.split(' ')[0]);
    t.is(new Set(sums).size, 1);
    t.true((await readFile(at('lazy/a'))).equals(fixtureContent('lazy/a', 0, 100_000)));
  });

  test('slow reads block nothing else', async (t) => {
    const { server } = mounted();
    const stalled = ['lazy/b', 'lazy/c', 'lazy/d', 'lazy/e', 'lazy/f'];
    for (const name of stalled) await server.call('stall', name);
    const readers = stalled.map((name) => run('cat', [at(name)], { encoding: 'buffer' }));
    for (const name of stalled) await server.untilWaiting(name);
    t.is((await lstat(at('dev/block'))).mode & 0o777, 0o660);
    t.true((await readFile(at('odd-cached'))).equals(fixtureContent('odd-cached', 0, odd)));
    t.true((await readFile(at('lazy/g'))).equals(fixtureContent('lazy/g', 0, 100_000)), 'another that is not cached');
    t.is((await readdir(at('many'))).length, manyNames.length);
    for (const name of stalled) await server.call('release', name);
    for (const [i, { stdout }] of (await Promise.all(readers)).entries())
      t.true(stdout.equals(fixtureContent(stalled[i], 0, 100_000)), stalled[i]);
  });

  test('a reader that is killed goes at once, and the file can be read afterwards', async (t) => {
    const { server } = mounted();
    await server.call('stall', 'lazy/h');
    const reader = spawn('cat', [at('lazy/h')], { stdio: 'ignore' });
    const exit = once(reader, 'exit');
    await server.untilWaiting('lazy/h');
    reader.kill('SIGKILL');
    t.deepEqual(await exit, [null, 'SIGKILL'], 'while the read is still stalled');
    await server.call('release', 'lazy/h');
    t.true((await readFile(at('lazy/h'))).equals(fixtureContent('lazy/h', 0, 100_000)));
  });

  test('a read that failed is EIO, and nothing of it is kept', async (t) => {
    await mounted().server.call('fail', 'lazy/i');
    const read = () =>
      run('dd', [`if=${at('lazy/i')}`, 'iflag=direct', 'bs=100000', 'status=none'], { encoding: 'buffer' });
    t.regex(String(await t.throwsAsync(read())), /Input\/output error/);
    t.true((await read()).stdout.equals(fixtureContent('lazy/i', 0, 100_000)));
  });

  test('unmounting while busy is refused, then lazy; the server hears of the end', async (t) => {
    await using own = await startMount(backend);
    const file = await open(join(own.mountpoint, 'l/1/odd'));
    await t.throwsAsync(unmount(own.mountpoint), { code: 'BUSY' });
    await unmount(own.mountpoint, { lazy: true });
    t.false((await readFile('/proc/self/mountinfo', 'utf8')).includes(own.mountpoint));
    const { buffer } = await file.read(Buffer.alloc(100), 0, 100, 5);
    t.true(buffer.equals(fixtureContent('odd', 5, 100)), 'who has it open goes on');
    await file.close();
    await own.server.ended.promise;
  });

  test('a forced unmount frees who waits, and the server hears of the end', async (t) => {
    await using own = await startMount(backend);
    await own.server.call('stall', 'lazy/a');
    const reader = run('cat', [join(own.mountpoint, 'l/1/lazy/a')]);
    await own.server.untilWaiting('lazy/a');
    await unmount(own.mountpoint, { lazy: true, force: true });
    await t.throwsAsync(reader, { code: 1 });
    await own.server.ended.promise;
  });

  test('a disposed server ends', async (t) => {
    await using own = await startMount(backend);
    await own.server.call('dispose');
    await t.notThrowsAsync(own.server.ended.promise);
  });
}
