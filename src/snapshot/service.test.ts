import { join } from 'node:path';
import test from 'ava';
import { connectSnapshots } from '../testing/snapshots-client.js';
import { snapshotterSuite } from '../testing/snapshotter-suite.js';
import { OverlaySnapshotter } from './overlay-snapshotter.js';
import { serveSnapshots } from './server.js';

const log = { info: () => undefined, warn: () => undefined };

snapshotterSuite(test, 'gRPC', async (t, root) => {
  const snapshotter = await OverlaySnapshotter.open({ root, log });
  t.teardown(() => snapshotter.close());
  const server = await serveSnapshots(snapshotter, join(root, 'run', 's.sock'));
  t.teardown(() => server.close());
  const client = connectSnapshots(server.address);
  t.teardown(() => client.close());
  return client;
});
