import { OverlaySnapshotter } from '../src/snapshot/overlay-snapshotter.js';
import { serveSnapshots } from '../src/snapshot/server.js';

/** Serves a snapshotter without lazy layers until SIGTERM. Arguments: the socket's address and the snapshotter's root. */
const [address, root] = process.argv.slice(2);

const say = (fields: object, message: string) => console.log(JSON.stringify({ message, ...fields }));
const snapshotter = await OverlaySnapshotter.open({ root, log: { info: say, warn: say } });
const server = await serveSnapshots(snapshotter, address);
say({ address }, 'serving');

process.once('SIGTERM', () => {
  void server.close().then(() => snapshotter.close());
});
