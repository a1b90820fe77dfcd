import { collectDefaultMetrics, Counter, Gauge, Histogram, Registry } from 'prom-client';
import { codeOf, type ErrorCode } from '../errors.js';
import type { ServedLayers } from '../fuse/served.js';
import type { FuseServer } from '../fuse/server.js';
import type { Mounts } from '../mount/mounts.js';
import type { RemoteLayers } from '../snapshot/remote-layers.js';
import type { AdditionalLayerStore } from '../store/store.js';
import type { Workspace } from '../workspace/workspace.js';
import { listenMetrics, type MetricsServer } from './server.js';

/** What numbers are read from when somebody asks for them. */
export interface Observed {
  readonly workspace: Pick<Workspace, 'cache' | 'pool'> & { readonly layers: Pick<Workspace['layers'], 'scheduler'> };
  readonly fuse: Pick<FuseServer, 'stats'>;
  readonly served: Pick<ServedLayers, 'counts' | 'whole' | 'badChunks'>;
  readonly mounts: Pick<Mounts, 'list'>;
  /** Where there is one. */
  readonly store?: Pick<AdditionalLayerStore, 'layersInUse'>;
}

/** Seconds: a range over a loopback, to a blob over a bad line. */
const durations = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60];

/**
 * A daemon's numbers for Prometheus, in base units. No label has values that anybody from outside can make up: there is no image, no
 * digest and no host among them.
 */
export class Metrics implements AsyncDisposable {
  readonly registry = new Registry();
  #server: MetricsServer | undefined;
  #observed: Observed | undefined;

  readonly #prepared = this.#counter(
    'lazylayer_remote_snapshots_total',
    'Layers that a client asked to serve lazily: prepared or refused, and for refused ones by what class of error.',
    ['outcome', 'reason'],
  );
  readonly #stored = this.#counter(
    'lazylayer_store_layers_total',
    'Layers of images that clients asked the layer store for: served, or left to the client and by what class of error.',
    ['outcome', 'reason'],
  );
  readonly #requests = this.#counter(
    'lazylayer_registry_requests_total',
    'Requests to registries, by class of status.',
    ['status'],
  );
  readonly #received = this.#counter('lazylayer_registry_received_bytes_total', 'Bytes of answers of registries.');
  readonly #duration = new Histogram({
    name: 'lazylayer_registry_request_duration_seconds',
    help: 'From a request to a registry to the end of its answer.',
    buckets: durations,
    registers: [this.registry],
  });
  readonly #evictions = this.#counter(
    'lazylayer_cache_evictions_total',
    'Layers whose content was dropped from the cache.',
  );
  readonly #evicted = this.#counter('lazylayer_cache_evicted_bytes_total', 'Bytes that went with them.');
  readonly #troubles = this.#counter('lazylayer_cache_troubles_total', 'Trouble of the cache with its disk.', ['kind']);
  readonly #failedReads = this.#counter('lazylayer_read_errors_total', 'Reads that failed, by class of error.', [
    'reason',
  ]);

  constructor() {
    collectDefaultMetrics({ register: this.registry });
    this.#total(
      'lazylayer_verification_failures_total',
      'Chunks of layers that were not what their digest says, each time they came.',
      ({ served }) => served.badChunks,
    );
    this.#gauge('lazylayer_layers_open', 'Layers whose files are served.', ({ served }) => served.counts.shown);
    this.#gauge('lazylayer_layers_awake', 'Of these, those whose trees are in memory.', ({ served }) => {
      return served.counts.awake;
    });
    this.#gauge(
      'lazylayer_layers_whole',
      'Of these, those that the kernel reads by itself.',
      ({ served }) => served.whole,
    );
    this.#gauge('lazylayer_mounts', 'Images mounted by hand.', ({ mounts }) => mounts.list().length);
    this.#gauge('lazylayer_store_layers_in_use', 'Layers that clients of the layer store have.', ({ store }) => {
      return store?.layersInUse ?? 0;
    });
    this.#gauge('lazylayer_pool_references', 'References whose manifest and config are kept.', ({ workspace }) => {
      return [...workspace.pool.entries()].length;
    });
    this.#gauge('lazylayer_cache_bytes', 'Bytes of the cache on disk.', ({ workspace }) => workspace.cache.usedBytes);
    this.#gauge('lazylayer_fetches_in_flight', 'Ranges that are being fetched.', ({ workspace }) => {
      return workspace.layers.scheduler.requestsInUse;
    });
    this.#gauge('lazylayer_fetch_memory_bytes', 'Bytes of fetched content in memory.', ({ workspace }) => {
      return workspace.layers.scheduler.memoryInUse;
    });
    this.#gauge('lazylayer_fuse_waiting_reads', 'Reads that wait for content.', ({ fuse }) => fuse.stats.waitingReads);
    this.#total('lazylayer_fuse_requests_total', 'Requests of the kernel.', ({ fuse }) => fuse.stats.requests);
    this.#total(
      'lazylayer_fuse_cached_reads_total',
      'Reads that the cache answered.',
      ({ fuse }) => fuse.stats.cachedReads,
    );
    this.#total('lazylayer_fuse_deferred_reads_total', 'Reads whose content had to be fetched.', ({ fuse }) => {
      return fuse.stats.deferredReads;
    });
  }

  /** From here on these are looked at; before, only what is heard counts. */
  observe(observed: Observed): void {
    this.#observed = observed;
  }

  /** An event of the workspace. */
  heard(event: string, fields: object): void {
    if (event === 'request') {
      const { status, bytes, ms } = fields as { status?: number; bytes: number; ms: number };
      this.#requests.inc({ status: status === undefined ? 'none' : `${Math.trunc(status / 100)}xx` });
      this.#received.inc(bytes);
      this.#duration.observe(ms / 1000);
    } else if (event === 'cache') {
      const { type, bytes } = fields as { type: string; bytes?: number };
      if (type === 'evicted') {
        this.#evictions.inc();
        this.#evicted.inc(bytes);
      } else this.#troubles.inc({ kind: type });
    }
  }

  readFailed(error: unknown): void {
    this.#failedReads.inc({ reason: reasonOf(codeOf(error)) });
  }

  /** A layer was asked for in the layer store; with the code of what kept it from being served. */
  storeAnswered(refused: ErrorCode | undefined): void {
    if (refused === undefined) this.#stored.inc({ outcome: 'served', reason: '' });
    else this.#stored.inc({ outcome: 'refused', reason: reasonOf(refused) });
  }

  /** The same layers, with what comes of asking for them counted. */
  readonly watch = (layers: RemoteLayers): RemoteLayers => ({
    get idmapRefusal() {
      return layers.idmapRefusal;
    },
    prepare: async (labels, signal) => {
      const answer = await layers.prepare(labels, signal);
      if ('reason' in answer) this.#prepared.inc({ outcome: 'refused', reason: reasonOf(answer.code) });
      else this.#prepared.inc({ outcome: 'prepared', reason: '' });
      return answer;
    },
    isOf: (labels, record) => layers.isOf(labels, record),
    restore: (record) => layers.restore(record),
    lower: (record, together) => layers.lower(record, together),
    starting: (record) => layers.starting(record),
    usage: (record) => layers.usage(record),
    root: (record) => layers.root(record),
    check: (record, signal) => layers.check(record, signal),
    release: (record) => layers.release(record),
  });

  /** Serves `/metrics` and `/healthz` until it is disposed. @throws what listening throws */
  async listen(address: string): Promise<MetricsServer> {
    this.#server = await listenMetrics(address, {
      metrics: () => this.registry.metrics(),
      contentType: this.registry.contentType,
      healthy: () => this.#observed !== undefined,
    });
    return this.#server;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#server?.[Symbol.asyncDispose]();
  }

  #counter(name: string, help: string, labelNames: readonly string[] = []): Counter {
    return new Counter({ name, help, labelNames, registers: [this.registry] });
  }

  #gauge(name: string, help: string, read: (observed: Observed) => number): void {
    const gauge = new Gauge({ name, help, registers: [this.registry] });
    this.#onCollect(gauge, (observed) => gauge.set(read(observed)));
  }

  /** A number that only grows, counted by somebody else. */
  #total(name: string, help: string, read: (observed: Observed) => number): void {
    const counter = this.#counter(name, help);
    this.#onCollect(counter, (observed) => {
      counter.reset();
      counter.inc(read(observed));
    });
  }

  #onCollect(metric: Counter | Gauge, collect: (observed: Observed) => void): void {
    Object.assign(metric, { collect: () => this.#observed && collect(this.#observed) });
  }
}

const reasonOf = (code: ErrorCode | undefined) => code?.toLowerCase() ?? 'no_labels';

/** Metrics that are served at an address. */
export async function openMetrics(address: string): Promise<Metrics> {
  const metrics = new Metrics();
  await metrics.listen(address);
  return metrics;
}
