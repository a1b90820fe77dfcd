import { constants } from 'node:os';
import type { Wanted } from '../ahead/looked-up.js';
import type { ProgramsAhead } from '../ahead/programs.js';
import type { Config } from '../config/config.js';
import type { Negotiated } from '../fuse/codec.js';
import { serveConnection } from '../fuse/kernel-server.js';
import { errnoOf, LazylayerError } from '../errors.js';
import type { FuseHost, FuseServer, StoreHost } from '../fuse/server.js';
import type { ServedLayers } from '../fuse/served.js';
import type { ReadSource } from '../layer/chunk-fetcher.js';
import type { Layer } from '../layer/layer.js';
import { PREFETCH } from '../layer/scheduler.js';
import { layoutOf } from './layout.js';
import { descriptors } from './protocol.js';
import type { Tracer } from './tracer.js';

/** Serves the layers by the backend that is configured: `kernel` over the holder's descriptor, or `fuse-native` with its own. */
export async function startFuse(
  config: Config,
  served: ServedLayers,
  options: {
    resume: Negotiated | undefined;
    tracer: Tracer;
    programs?: ProgramsAhead;
    /** Of an additional layer store. It tells of its own failures. */
    store?: StoreHost & Required<Pick<FuseHost, 'resolve'>>;
    onError: (what: string, error: unknown) => void;
  },
): Promise<FuseServer> {
  const { fuse: mountpoint, pool } = layoutOf(config.root);
  const { store } = options;
  const told = new WeakSet<object>();
  const host: FuseHost = {
    read: async (slot, inode, offset, length, signal, pid) => {
      const traced = options.tracer.read(slot, inode, offset, length);
      const onSource = traced && ((source: ReadSource) => void (traced.source = source));
      const work = (layer: Layer) => layer.read(inode, offset, length, { signal, onSource });
      try {
        const reading = served.using(slot, work, signal);
        if (offset === 0) void options.programs?.read(slot, inode);
        void options.programs?.runs(slot, pid, reading);
        const bytes = await reading;
        traced?.end(false);
        return bytes;
      } catch (error) {
        traced?.end(true);
        throw readError(error);
      }
    },
    wake: async (slot) => {
      // A layer that is woken before `served` knows the server would not be attached to it.
      await started;
      try {
        await served.wake(slot);
      } catch (error) {
        throw readError(error);
      }
    },
    ...(config.fetch.prefetch && {
      lookedUp: (slot: number, wanted: Wanted) =>
        void served.using(slot, (layer) => bring(layer, wanted)).catch(() => {}),
    }),
    ...(options.programs !== undefined && {
      newcomer: (slot: number, pid: number) => void options.programs!.looks(slot, pid),
    }),
    ...(store !== undefined && {
      store,
      resolve: async (path: readonly string[], signal: AbortSignal) => {
        try {
          await store.resolve(path, signal);
        } catch (error) {
          if (error instanceof LazylayerError) told.add(error);
          throw error;
        }
      },
    }),
    onError: (error, read) => {
      if (!(error instanceof LazylayerError && told.has(error)))
        options.onError(read === undefined ? 'fuse' : `read ${JSON.stringify(read)}`, error);
    },
  };
  const start = async (): Promise<FuseServer> => {
    const serve = { pool, ...served.initial(), stayAwake: config.fuse.stay_awake };
    if (config.fuse.backend !== 'kernel')
      return (await import('../fuse/native-server.js')).mountNative(mountpoint, host, serve);
    return serveConnection({ fd: descriptors.fuse, mountpoint }, host, { ...serve, resume: options.resume });
  };
  const started = served.bind(start());
  return started;
}

/** Guessing: what does not come is left to whoever reads it. */
async function bring(layer: Layer, { whole, beginnings }: Wanted): Promise<void> {
  layer.bring(whole);
  await Promise.allSettled(beginnings.map((inode) => layer.read(inode, 0, 1, { priority: PREFETCH })));
}

const { EINTR, EIO } = constants.errno;

/**
 * To who reads a file, whatever kept its bytes away is an I/O error: a login that is missing or a blob that is gone would, as EACCES
 * or ENOENT, speak of the file.
 */
function readError(error: unknown): unknown {
  if ([EINTR, EIO].includes(errnoOf(error))) return error;
  return new LazylayerError('UNAVAILABLE', 'the content of a file cannot be had', { cause: error });
}
