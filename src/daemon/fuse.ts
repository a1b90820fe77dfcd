import type { Config } from '../config/config.js';
import { serveConnection } from '../fuse/kernel-server.js';
import type { FuseHost, FuseServer } from '../fuse/server.js';
import type { ServedLayers } from '../fuse/served.js';
import { layoutOf } from './layout.js';
import { descriptors } from './protocol.js';

/** Serves the layers by the backend that is configured: `kernel` over the holder's descriptor, or `fuse-native` with its own. */
export async function startFuse(
  config: Config,
  served: ServedLayers,
  options: { resume: boolean; onError: (what: string, error: unknown) => void },
): Promise<FuseServer> {
  const { fuse: mountpoint, pool } = layoutOf(config.root);
  const host: FuseHost = {
    read: async (slot, inode, offset, length, signal) => served.get(slot).read(inode, offset, length, { signal }),
    onError: (error, read) => options.onError(read === undefined ? 'fuse' : `read ${JSON.stringify(read)}`, error),
  };
  const serve = { pool, ...served.initial() };
  const server =
    config.fuse.backend === 'kernel'
      ? await serveConnection({ fd: descriptors.fuse, mountpoint }, host, { ...serve, resume: options.resume })
      : await (await import('../fuse/native-server.js')).mountNative(mountpoint, host, serve);
  served.bind(server);
  return server;
}
