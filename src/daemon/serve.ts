import { once } from 'node:events';
import type { Server } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { ProgramsAhead } from '../ahead/programs.js';
import { codeOf, describeError, LazylayerError } from '../errors.js';
import { WholeMounts } from '../erofs/whole-mounts.js';
import { Mounts } from '../mount/mounts.js';
import { ThreadNice } from '../util/thread-nice.js';
import { unmount } from '../util/unmount.js';
import { checkGiven, GivenCredentials } from '../registry/auth/given.js';
import { ServedLayers } from '../fuse/served.js';
import type { RequestRecord } from '../registry/exchange.js';
import { Workspace } from '../workspace/workspace.js';
import { listenControl, toWire } from './control.js';
import { EndOrder, type EndTry } from './end-order.js';
import { startFuse } from './fuse.js';
import { layoutOf } from './layout.js';
import { createLogger } from './log.js';
import type { ServeOrder, ServeReport } from './protocol.js';
import type { AdditionalLayerStore, AdditionalLayerStoreOptions } from '../store/store.js';
import type { SnapshotsOptions } from './snapshots.js';
import { bindStore, unbindStore } from './store-mount.js';
import { Tracer } from './tracer.js';

const report = (message: ServeReport) => {
  if (process.connected) process.send!(message);
};

/** How long a daemon that was started for a mount waits for it, in milliseconds. */
const firstMountMs = 60_000;

/** Behind the FUSE worker, and before containers and what works for long. */
const MAIN_NICE = -5;

/** The serving process: everything but the descriptor's keeping. Ends with status 0 only when it has taken all its mounts away. */
async function serve({ config, resume, persistent }: ServeOrder): Promise<void> {
  const log = createLogger(config.log_level, 'lazylayer');
  const layout = layoutOf(config.root);
  const metrics = persistent && config.metrics.address !== '' ? await openMetrics(config.metrics.address) : undefined;
  const fault = (what: string, error: unknown) => log.warn({ error: toWire(error) }, what);
  const unavailable = (error: unknown) => log.info({ error: toWire(error) }, 'all layers stay with FUSE');

  let store: AdditionalLayerStore | undefined;
  const tracer = new Tracer();
  const given = new GivenCredentials();
  const workspace = await Workspace.open(config, {
    credentials: async (host, repository) => given.find(host, repository),
    warm: persistent ? 'always' : true,
    onEvent: (event, fields) => {
      metrics?.heard(event, fields);
      if (event === 'request') tracer.request(fields as RequestRecord);
      log.debug(fields, event);
    },
    onRequestProgress: (request, bytes) => tracer.progress(request, bytes),
    onError: fault,
    onEvict: ({ reference }) => store?.evicted(reference),
    onForget: (slot) => served.forgotten(slot),
    // What is in use of it stays on disk.
    goesLast: (slot) => served.readByKernel(slot),
  });
  const served = new ServedLayers({
    idleMs: config.fuse.layer_idle_sec * 1000,
    whole: config.fuse.erofs ? await WholeMounts.open(layout.whole, unavailable) : undefined,
    onError: fault,
  });
  const programs = config.fetch.prefetch ? new ProgramsAhead(served) : undefined;
  const order = new EndOrder();
  // Whoever starts a persistent daemon again finds the root free.
  if (persistent) process.once('disconnect', () => order.now('the holder is gone'));
  const mounts = new Mounts({
    workspace,
    served,
    base: layout.fuse,
    prefetch: config.fetch.prefetch,
    programs,
    records: layout.mounts,
    uppers: layout.uppers,
    empty: layout.empty,
    onError: fault,
    onEmpty: () => persistent || order.whenIdle(),
  });
  await mounts.releaseLeftovers();
  // The layers of a connection that goes on must be there before its first request is read.
  if (resume !== undefined) await mounts.restore();
  const snapshots =
    persistent && config.snapshotter.address !== ''
      ? await restoreSnapshots({ config, workspace, served, programs, log, watch: metrics?.watch })
      : undefined;
  const storePoint = persistent ? config.store.mount_point : '';
  if (storePoint !== '') {
    store = await openStore({
      workspace,
      served,
      uses: layout.store,
      resumed: resume !== undefined,
      prefetch: config.fetch.prefetch,
      programs,
      background: config.fetch.background,
      onAnswer: ({ reference, digest, refusal }) => {
        metrics?.storeAnswered(refusal?.code);
        if (refusal === undefined) log.info({ reference, digest }, 'layer served from the store');
        else log.warn({ reference, digest, reason: describeError(refusal.error) }, 'layer left to the client');
      },
      onError: fault,
    });
    await store.restore();
  }
  const fuse = await startFuse(config, served, {
    resume,
    store,
    tracer,
    programs,
    onError: (what, error) => {
      metrics?.readFailed(error);
      fault(what, error);
    },
  });
  await served.retainShown();
  void store?.mountWhole();
  // Clients and readers that miss wait for this thread, whose turns are short; the threads that work for long have begun.
  if (persistent) new ThreadNice().set(MAIN_NICE);
  const control = await listenControl(layout.control, {
    mount: async (request, onProgress, signal) => {
      if (request.backend !== undefined && request.backend !== config.fuse.backend)
        throw new LazylayerError(
          'FAILED_PRECONDITION',
          `the daemon of ${config.root} serves by ${config.fuse.backend}: umount what is mounted, or use another --root`,
        );
      return mounts.mount(request, onProgress, signal);
    },
    pull: async (request, onProgress, signal) => {
      if (snapshots === undefined)
        throw new LazylayerError(
          'FAILED_PRECONDITION',
          `the daemon of ${config.root} makes no snapshots for containerd: run \`lazylayer serve\`, with an address under [snapshotter]`,
        );
      return snapshots.pull(request, onProgress, signal);
    },
    umount: async (target, lazy) => {
      await mounts.umount(target, { lazy });
      return { ends: !persistent && mounts.idle };
    },
    list: async () => mounts.list(),
    gone: (target, signal) => mounts.gone(target, signal),
    trace: (ended, onBegin) => tracer.record(served, ended, onBegin),
    giveCredentials: (logins) => given.give(checkGiven(logins)),
    cacheUsage: () => workspace.cacheUsage(),
    cachePrune: (options) => workspace.cache.prune(options),
  });
  metrics?.observe({ workspace, fuse, served, mounts, store });
  if (storePoint !== '') await bindStore(layout.fuse, storePoint);
  await snapshots?.offer();
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, () => order.now(signal));
  fuse.ended.then(
    () => order.now('the FUSE mount was taken away'),
    () => process.exit(1), // another process goes on
  );
  log.info({ root: config.root, backend: config.fuse.backend, resumed: resume !== undefined }, 'serving');
  report({ kind: 'ready', negotiated: fuse.negotiated });

  const idle = persistent ? undefined : setTimeout(() => order.whenIdle(), firstMountMs);
  let unmounted = false;
  const why = await order.given(async () => {
    const outcome = await endIfIdle(mounts, layout.fuse);
    unmounted = outcome === 'ended';
    return outcome;
  });
  // The kernel keeps the connection while files are open on a mount that was taken away lazily: they are served to their end.
  await Promise.race([fuse.ended, order.told]);
  log.info({ why }, 'ending');
  clearTimeout(idle);
  const hungUp = closeControl(control);
  await snapshots?.[Symbol.asyncDispose]();
  if (storePoint !== '') await unbindStore(storePoint);
  await store?.[Symbol.asyncDispose]();
  await served[Symbol.asyncDispose]();
  await mounts[Symbol.asyncDispose]();
  if (!unmounted) await unmount(layout.fuse, { lazy: true });
  await fuse[Symbol.asyncDispose]();
  await workspace[Symbol.asyncDispose]();
  await metrics?.[Symbol.asyncDispose]();
  await hungUp;
}

/** Loaded only where it is wanted: it takes some megabytes. */
async function openMetrics(address: string) {
  const { openMetrics } = await import('../metrics/metrics.js');
  return openMetrics(address);
}

/** Loaded only where it is wanted: gRPC takes a tenth of a second. */
async function restoreSnapshots(options: SnapshotsOptions) {
  const { Snapshots } = await import('./snapshots.js');
  return Snapshots.restore(options);
}

/** Loaded only where it is wanted. */
async function openStore(options: AdditionalLayerStoreOptions): Promise<AdditionalLayerStore> {
  const { AdditionalLayerStore } = await import('../store/store.js');
  return new AdditionalLayerStore(options);
}

/** Takes the FUSE mount out of sight if nothing is mounted on it. */
async function endIfIdle(mounts: Mounts, fuse: string): Promise<EndTry> {
  if (!mounts.idle) return 'needed';
  mounts.accepting = false;
  try {
    await unmount(fuse);
    return 'ended';
  } catch (error) {
    mounts.accepting = true;
    if (codeOf(error) !== 'BUSY') throw error;
    return 'busy';
  }
}

/** Takes nobody new, lets answers that are under way go out, so that a client learns how its request ended, and hangs up. */
async function closeControl(control: Server): Promise<void> {
  const closed = once(control, 'close');
  control.close();
  control.closeIdleConnections();
  await Promise.race([closed, sleep(1000)]);
  control.closeAllConnections();
}

process.title = 'lazylayer';
process.once('message', (order: ServeOrder) => {
  serve(order)
    .then(() => process.exit(0))
    .catch((error: unknown) => {
      console.error(describeError(error));
      report({ kind: 'failed', error: toWire(error) });
      process.exit(1);
    });
});
