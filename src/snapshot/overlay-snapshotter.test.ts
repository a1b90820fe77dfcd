import test from 'ava';
import { snapshotterSuite } from '../testing/snapshotter-suite.js';
import { OverlaySnapshotter } from './overlay-snapshotter.js';

const log = { info: () => undefined, warn: () => undefined };

snapshotterSuite(test, 'in-process', async (t, root) => {
  const snapshotter = await OverlaySnapshotter.open({ root, log });
  t.teardown(() => snapshotter.close());
  return snapshotter;
});
