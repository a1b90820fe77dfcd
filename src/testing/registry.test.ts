import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { startTestRegistry } from './registry.js';
import { temporaryDirectory } from './temporary.js';

test('serves blobs from memory and from files by the same ranges', async (t) => {
  const dir = await temporaryDirectory(t, 'registry');
  await using server = await startTestRegistry();
  const bytes = Buffer.alloc(200_000, 'abcdefg');
  await writeFile(join(dir, 'blob'), bytes);
  const other = Buffer.concat([bytes, bytes]);
  await writeFile(join(dir, 'other'), other);
  const inMemory = server.putBlob(bytes);
  t.deepEqual(await server.putBlobFile(join(dir, 'blob')), inMemory);
  const inFile = await server.putBlobFile(join(dir, 'other'));
  for (const [digest, content] of [
    [inMemory.digest, bytes],
    [inFile.digest, other],
  ] as const)
    for (const [range, status, expected] of [
      [undefined, 200, content],
      ['bytes=5-9', 206, content.subarray(5, 10)],
      ['bytes=100000-', 206, content.subarray(100_000)],
      ['bytes=-7', 206, content.subarray(-7)],
      ['bytes=10-99999999', 206, content.subarray(10)],
      ['bytes=99999999-', 416, Buffer.alloc(0)],
      ['bytes=0-1,5-6', 200, content],
      ['bytes=9-5', 200, content],
    ] as const) {
      const answer = await fetch(`${server.url}/v2/any/name/blobs/${digest}`, {
        headers: range === undefined ? {} : { range },
      });
      t.is(answer.status, status);
      t.true(Buffer.from(await answer.arrayBuffer()).equals(expected));
    }
  const head = await fetch(`${server.url}/v2/a/blobs/${inFile.digest}`, { method: 'HEAD' });
  t.is(head.headers.get('content-length'), '400000');
  t.is((await fetch(`${server.url}/v2/a/blobs/sha256:0`)).status, 404);
  t.is((await fetch(`${server.url}/v2/`)).status, 200);
});

test('stops and starts on the same port, counts, and strikes only what a fault names', async (t) => {
  await using server = await startTestRegistry();
  const { digest } = server.putManifest('app', 'v1', Buffer.from('{}'), 'text/plain');
  const { port } = server;
  await server.stop();
  await t.throwsAsync(fetch(server.url));
  await server.start();
  t.is(server.port, port);
  const off = server.faults.add({ path: 'manifests', nth: 2, times: 1, action: { kind: 'status', status: 418 } });
  const statuses = [];
  for (const name of ['v1', digest, 'v1', 'v2'])
    statuses.push((await fetch(`${server.url}/v2/app/manifests/${name}`)).status);
  t.deepEqual(statuses, [200, 418, 200, 404]);
  off();
  t.is(server.count('manifests'), 4);
  server.reset();
  t.is(server.count(), 0);
});
