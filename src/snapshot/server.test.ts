import { link, mkdir, stat, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { once } from 'node:events';
import test, { type ExecutionContext } from 'ava';
import { LazylayerError } from '../errors.js';
import { fails } from '../testing/snapshotter-suite.js';
import { connectSnapshots } from '../testing/snapshots-client.js';
import { temporaryDirectory } from '../testing/temporary.js';
import { OverlaySnapshotter } from './overlay-snapshotter.js';
import { serveSnapshots } from './server.js';
import type { Snapshotter } from './snapshotter.js';

const log = { info: () => undefined, warn: () => undefined };

async function ordinary(t: ExecutionContext, directory: string): Promise<Snapshotter> {
  const snapshotter = await OverlaySnapshotter.open({ root: join(directory, 'root'), log });
  t.teardown(() => snapshotter.close());
  return snapshotter;
}

test('the socket is for owner and group, in a directory for the owner, and gone at the end', async (t) => {
  const directory = await temporaryDirectory(t, 'server');
  const address = join(directory, 'run', 'deep', 's.sock');
  const server = await serveSnapshots(await ordinary(t, directory), address);
  t.teardown(() => server.close());
  t.is((await stat(address)).mode & 0o777, 0o660);
  t.is((await stat(join(directory, 'run', 'deep'))).mode & 0o777, 0o700);
  await server.close();
  await server.close();
  await t.throwsAsync(stat(address), { code: 'ENOENT' });
});

test('a socket that is served is left alone, a stale one is replaced, anything else stays', async (t) => {
  const directory = await temporaryDirectory(t, 'server');
  const snapshotter = await ordinary(t, directory);
  const address = join(directory, 's.sock');
  const first = await serveSnapshots(snapshotter, address);
  t.teardown(() => first.close());
  const refused = await t.throwsAsync(serveSnapshots(snapshotter, address));
  t.like(refused, { code: 'BUSY' });
  t.regex(refused.message, /another process serves/);
  const client = connectSnapshots(address);
  t.teardown(() => client.close());
  await fails(t, 'NOT_FOUND', client.stat('none'));

  const stale = join(directory, 'stale.sock');
  const dead = createServer().listen(stale);
  await once(dead, 'listening');
  await link(stale, `${stale}.kept`);
  dead.close();
  await once(dead, 'close');
  await link(`${stale}.kept`, stale);
  const second = await serveSnapshots(snapshotter, stale);
  await second.close();

  const file = join(directory, 'file');
  await writeFile(file, 'mine');
  await fails(t, 'FAILED_PRECONDITION', serveSnapshots(snapshotter, file));
  await mkdir(join(directory, 'dir'));
  await fails(t, 'FAILED_PRECONDITION', serveSnapshots(snapshotter, join(directory, 'dir')));
  await fails(t, 'INVALID_ARGUMENT', serveSnapshots(snapshotter, 'relative.sock'));
  await fails(t, 'INVALID_ARGUMENT', serveSnapshots(snapshotter, `/${'x'.repeat(108)}`));
});

test('thousands of snapshots are listed in batches', async (t) => {
  const infos = Array.from({ length: 2345 }, (_, i) => ({
    name: `n${i}`,
    parent: '',
    kind: 'committed' as const,
    labels: { label: 'x'.repeat(3000) },
    created: 1_700_000_000_123,
    updated: 1_700_000_000_456,
  }));
  const many: Partial<Snapshotter> = {
    async *walk() {
      yield* infos;
    },
  };
  const directory = await temporaryDirectory(t, 'server');
  const server = await serveSnapshots(many as Snapshotter, join(directory, 's.sock'));
  t.teardown(() => server.close());
  const client = connectSnapshots(server.address);
  t.teardown(() => client.close());
  const found: unknown[] = [];
  for await (const info of client.walk()) found.push(info);
  t.deepEqual(found, infos);
  // A client that stops in the middle.
  for await (const info of client.walk()) {
    t.is(info.name, 'n0');
    break;
  }
});

test('a call under way ends before the server does; a client that leaves is told to the work', async (t) => {
  let open!: () => void;
  const gate = new Promise<void>((resolve) => (open = resolve));
  let signal: AbortSignal | undefined;
  let started = () => {};
  const slow: Partial<Snapshotter> = {
    async prepare(_key, _parent, options) {
      signal = options?.signal;
      started();
      await gate;
      throw new LazylayerError('BUSY', 'at the end');
    },
  };
  const directory = await temporaryDirectory(t, 'server');
  const server = await serveSnapshots(slow as Snapshotter, join(directory, 's.sock'));
  t.teardown(() => server.close());
  const client = connectSnapshots(server.address);
  t.teardown(() => client.close());
  const controller = new AbortController();
  const begin = new Promise<void>((resolve) => (started = resolve));
  const left = client.prepare('key', '', { signal: controller.signal });
  await begin;
  controller.abort(new LazylayerError('ABORTED', 'I leave'));
  await fails(t, 'ABORTED', left);
  if (!signal!.aborted) await once(signal!, 'abort');

  const again = new Promise<void>((resolve) => (started = resolve));
  const waiting = client.prepare('key', '');
  await again;
  const closed = server.close();
  open();
  await fails(t, 'FAILED_PRECONDITION', waiting);
  await closed;
});
