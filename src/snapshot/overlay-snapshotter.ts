import { chmod, chown, mkdir, readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { codeOf, describeError, LazylayerError } from '../errors.js';
import { parseFilters } from './filters.js';
import { idMappingOf, idmapRefusal } from './idmap.js';
import { keptLabels, label, labelValue } from './labels.js';
import { Metastore, type SnapshotRecord } from './metastore.js';
import { checkOverlayPath, overlayDefaults, overlayMounts, type OverlayDefaults } from './overlay.js';
import { LayersInUse, type RemoteLayers, type RootAttributes } from './remote-layers.js';
import { Removal } from './removal.js';
import type { CommitOptions, CreateOptions, Info, Kind, Labels, Mount, Snapshotter, Usage } from './snapshotter.js';
import { diskUsage } from './usage.js';

/** Who is told what no caller hears of: one line each, with fields for machines (pino's way). */
export interface SnapshotLog {
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
}

export interface OverlaySnapshotterOptions {
  /** Made where it is missing; no ',', ':' or '\' in its path. One process at a time may use it. */
  readonly root: string;
  /** Where lazily served layers come from; without it every layer is an ordinary one. */
  readonly remote?: RemoteLayers;
  /** Ask clients to id-map the mounts of snapshots with mapping labels: they are told so by the capability `remap-ids`. */
  readonly remapIds?: boolean;
  readonly log: SnapshotLog;
}

/** What `remote` made of a layer: it is there, under its name, or the reason why the client has to unpack it. */
type Lazily = { readonly name: string } | { readonly reason: string };

/**
 * Snapshots as directories that overlayfs stacks.
 *
 *     <root>/metadata/              see Metastore
 *     <root>/snapshots/<id>/fs      the tree of one snapshot: what it changes against its parent
 *     <root>/snapshots/<id>/work    overlayfs's workdir, of active snapshots
 *     <root>/removed/               directories on their way out
 *
 * A remote snapshot has no directory: its tree is where `RemoteLayers` serves it. An id is never used twice, so a directory whose
 * id no record names is a leftover, at any time after the start.
 */
export class OverlaySnapshotter implements Snapshotter {
  readonly #options: OverlaySnapshotterOptions;
  readonly #directory: string;
  readonly #store: Metastore;
  readonly #layers: LayersInUse;
  readonly #removal: Removal;
  readonly #defaults: OverlayDefaults;
  /** Committed snapshots whose directory is gone, by id: the disk lost it, or somebody did. */
  readonly #missing = new Set<number>();
  #closing: Promise<void> | undefined;

  private constructor(
    options: OverlaySnapshotterOptions,
    parts: { store: Metastore; removal: Removal; defaults: OverlayDefaults },
  ) {
    this.#options = options;
    this.#directory = join(options.root, 'snapshots');
    this.#store = parts.store;
    this.#removal = parts.removal;
    this.#defaults = parts.defaults;
    this.#layers = new LayersInUse(options.remote);
  }

  /** Opens what is in the root, brings every lazy layer back, and sweeps out what an unclean end left. */
  static async open(options: OverlaySnapshotterOptions): Promise<OverlaySnapshotter> {
    checkOverlayPath(options.root);
    await mkdir(join(options.root, 'snapshots'), { recursive: true, mode: 0o700 });
    const defaults = await overlayDefaults();
    const removal = await Removal.open(join(options.root, 'removed'), (error) =>
      options.log.warn({ err: error }, 'directories of removed snapshots could not be deleted'),
    );
    const store = new Metastore(join(options.root, 'metadata'));
    try {
      const snapshotter = new OverlaySnapshotter(options, { store, removal, defaults });
      await snapshotter.#sweep();
      await snapshotter.#restore();
      return snapshotter;
    } catch (error) {
      await store[Symbol.asyncDispose]();
      await removal.close();
      throw error;
    }
  }

  async #sweep(): Promise<void> {
    const names = new Set(await readdir(this.#directory));
    for (const name of await readdir(join(this.#options.root, 'removed'))) this.#store.skipId(Number(name) || 0);
    for (const record of this.#store.all()) {
      if (record.remote !== undefined || names.delete(String(record.id))) continue;
      const { id, name, kind } = record;
      this.#options.log.warn({ snapshot: name, id, kind }, 'the directory of a snapshot is gone');
      // What has a parent and was not committed can be prepared again; what is committed stays known, so that its children do.
      if (kind === 'committed') this.#missing.add(id);
      else await this.#store.remove(name);
    }
    for (const name of names) {
      this.#store.skipId(Number(name) || 0);
      this.#options.log.info({ directory: name }, 'removed a directory that belongs to no snapshot');
      await this.#removal.throwAway(join(this.#directory, name), name);
    }
  }

  async #restore(): Promise<void> {
    const remote = this.#store.all().filter((record) => record.remote !== undefined);
    await this.#layers.restoreAll(remote, ({ name }, error) =>
      this.#options.log.warn({ snapshot: name, err: error }, 'a lazy layer could not be brought back'),
    );
  }

  async stat(key: string): Promise<Info> {
    return this.#info(this.#store.get(key));
  }

  async update(info: Pick<Info, 'name' | 'labels'>, fields: readonly string[]): Promise<Info> {
    const { labels: old } = this.#store.get(info.name);
    let labels: Labels = fields.length === 0 ? info.labels : old;
    for (const field of fields)
      if (field === 'labels') labels = info.labels;
      else if (field.startsWith('labels.')) {
        const key = field.slice('labels.'.length);
        labels = { ...labels, [key]: Object.hasOwn(info.labels, key) ? info.labels[key] : '' };
      } else
        throw new LazylayerError(
          'INVALID_ARGUMENT',
          `update of snapshot ${info.name}: expected the field labels or labels.KEY, found ${field}, which never changes`,
        );
    return this.#info(await this.#store.setLabels(info.name, withoutComputed(labels)));
  }

  async usage(key: string): Promise<Usage> {
    const record = this.#store.get(key);
    if (record.remote !== undefined) return this.#layers.usage(record);
    if (record.kind === 'active') return diskUsage(this.#tree(record.id));
    return record.usage ?? { size: 0, inodes: 0 };
  }

  async mounts(key: string, options: { signal?: AbortSignal } = {}): Promise<Mount[]> {
    const record = this.#store.get(key);
    if (record.kind === 'committed')
      throw new LazylayerError(
        'FAILED_PRECONDITION',
        `mounts of ${key}: expected an active snapshot or a view, found a committed one: prepare or view a snapshot over it`,
      );
    const mapping = await this.#idmap(record);
    const lower = await this.#lower(record.parent, mapping, options.signal);
    return this.#mounts(record.id, record.kind, lower, mapping);
  }

  async prepare(key: string, parent: string, options: CreateOptions = {}): Promise<Mount[]> {
    const labels = keptLabels(withoutComputed(options.labels));
    this.#store.checkNew(key, parent);
    const name = labels[label.ref];
    if (name === undefined || this.#options.remote === undefined)
      return this.#create('active', key, parent, labels, options.signal);
    const lazily = await this.#lazily(this.#options.remote, name, parent, labels, options.signal);
    const prepared = 'name' in lazily;
    const reason = prepared ? undefined : labelValue(lazily.reason);
    // Clients look for these words.
    this.#options.log.info(
      { key, parent, snapshot: name, 'remote-snapshot-prepared': String(prepared), reason },
      prepared ? 'prepared a remote snapshot' : 'the layer cannot be lazy: the client unpacks it',
    );
    if (reason === undefined)
      throw new LazylayerError('ALREADY_EXISTS', `snapshot ${name} exists: there is nothing to unpack`);
    return this.#create('active', key, parent, { ...labels, [label.reason]: reason }, options.signal);
  }

  async view(key: string, parent: string, options: CreateOptions = {}): Promise<Mount[]> {
    return this.#create('view', key, parent, keptLabels(withoutComputed(options.labels)), options.signal);
  }

  async commit(name: string, key: string, options: CommitOptions = {}): Promise<void> {
    const parent = options.parent ?? '';
    const active = this.#store.checkCommit(key, name, parent);
    const usage = await diskUsage(this.#tree(active.id));
    // The client does not know the reason, and replaces the labels.
    const reason = active.labels[label.reason];
    const labels = { ...withoutComputed(options.labels), ...(reason === undefined ? {} : { [label.reason]: reason }) };
    await this.#store.commit(key, name, { labels, usage, parent });
  }

  async remove(key: string): Promise<void> {
    const record = await this.#store.remove(key);
    this.#missing.delete(record.id);
    // The snapshot is gone whatever happens now; what cannot be cleared away is not the caller's trouble.
    try {
      if (record.remote !== undefined) await this.#layers.release(record);
      else await this.#removal.throwAway(join(this.#directory, String(record.id)), String(record.id));
    } catch (error) {
      this.#options.log.warn({ snapshot: key, err: error }, 'what a removed snapshot held could not be let go');
    }
  }

  async *walk(filters: readonly string[] = []): AsyncIterable<Info> {
    const takes = parseFilters(filters);
    for (const record of this.#store.all()) {
      const info = this.#info(record);
      if (takes(info)) yield info;
    }
  }

  async cleanup(): Promise<void> {
    await this.#removal.idle();
  }

  close(): Promise<void> {
    this.#closing ??= (async () => {
      await this.#store[Symbol.asyncDispose]();
      await this.#removal.close();
    })();
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #info({ id, name, parent, kind, labels, created, updated }: SnapshotRecord): Info {
    const unavailable = this.#missing.has(id) ? 'its directory is gone' : this.#layers.lost(id);
    const told = unavailable === undefined ? labels : { ...labels, [label.unavailable]: labelValue(unavailable) };
    return { name, parent, kind, labels: told, created, updated };
  }

  /** Makes the layer that the labels describe the committed snapshot `name`, unless there is a reason why not. */
  async #lazily(
    remote: RemoteLayers,
    name: string,
    parent: string,
    labels: Labels,
    signal: AbortSignal | undefined,
  ): Promise<Lazily> {
    const known = this.#known(remote, name, parent, labels);
    if (known !== undefined) return known;
    let layer;
    try {
      layer = await remote.prepare(labels, signal);
    } catch (error) {
      // A client that left wants no snapshot at all.
      signal?.throwIfAborted();
      return { reason: describeError(error) };
    }
    if ('reason' in layer) return layer;
    const { shown, record } = layer;
    const snapshot = { id: this.#store.takeId(), name, remote: { record } };
    // Before the snapshot is known: a client that hears of it finds its layer.
    this.#layers.add(snapshot.id, shown);
    try {
      await this.#store.create({
        ...snapshot,
        kind: 'committed',
        parent,
        labels: { ...labels, [label.remote]: labels[label.remote] ?? 'remote snapshot' },
      });
      return { name };
    } catch (error) {
      await this.#layers.release(snapshot);
      // Another client was faster with the same layer.
      const made = codeOf(error) === 'ALREADY_EXISTS' ? this.#known(remote, name, parent, labels) : undefined;
      if (made !== undefined) return made;
      throw error;
    }
  }

  /**
   * Clients look for the name over the same parent: over another one it is of no use to them. The name is made of diffIDs, which nobody has
   * verified of a layer that is served lazily: it is the same only where it is of the same blob or TOC. Unpacked, clients verify them.
   */
  #known(remote: RemoteLayers, name: string, parent: string, labels: Labels): Lazily | undefined {
    const known = this.#store.find(name);
    if (known === undefined) return undefined;
    if (known.kind !== 'committed' || known.parent !== parent)
      return { reason: `the name ${name} is taken by another snapshot` };
    if (known.remote !== undefined && !remote.isOf(labels, known.remote.record))
      return { reason: `the name ${name} is taken by a lazy layer of another blob` };
    return { name };
  }

  async #create(
    kind: 'active' | 'view',
    key: string,
    parent: string,
    labels: Labels,
    signal: AbortSignal | undefined,
  ): Promise<Mount[]> {
    this.#store.checkNew(key, parent);
    const mapping = await this.#idmap({ parent, labels });
    const lower = await this.#lower(parent, mapping, signal);
    // What is unpacked has the name that it will have.
    if (kind === 'active' && labels[label.ref] === undefined) this.#layers.starting(this.#store.chain(parent));
    const root = await this.#rootAttributes(parent);
    const id = this.#store.takeId();
    const directory = join(this.#directory, String(id));
    try {
      await mkdir(directory, { mode: 0o700 });
      await mkdir(this.#tree(id));
      if (kind === 'active') await mkdir(join(directory, 'work'), { mode: 0o711 });
      const { uid, gid } = idMappingOf(labels)?.root ?? root;
      if (uid !== process.getuid?.() || gid !== process.getgid?.()) await chown(this.#tree(id), uid, gid);
      // After the change of owner, which clears setuid and setgid; the umask has no say.
      await chmod(this.#tree(id), root.mode);
      await this.#store.create({ id, name: key, kind, parent, labels });
    } catch (error) {
      await this.#removal.throwAway(directory, String(id));
      throw error;
    }
    return this.#mounts(id, kind, lower, mapping);
  }

  /** overlayfs shows the attributes of the topmost root directory: a new snapshot starts with its parent's. */
  async #rootAttributes(parent: string): Promise<RootAttributes> {
    if (parent === '') return { mode: 0o755, uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 };
    const record = this.#store.get(parent);
    if (record.remote !== undefined) return this.#layers.root(record);
    const { mode, uid, gid } = await stat(this.#tree(record.id));
    return { mode: mode & 0o7777, uid, gid };
  }

  /** The trees of a parent and its ancestors, nearest first. @throws UNAVAILABLE where one of them is not to be had */
  async #lower(parent: string, mapping: readonly string[], signal: AbortSignal | undefined): Promise<string[]> {
    const chain = this.#store.chain(parent);
    const gone = chain.find(({ id }) => this.#missing.has(id));
    if (gone !== undefined)
      throw new LazylayerError(
        'UNAVAILABLE',
        `the directory of snapshot ${gone.name} is gone: remove its image and pull it again`,
      );
    const remote = chain.filter((record) => record.remote !== undefined);
    await Promise.all(remote.map((record) => this.#layers.shown(record)));
    await this.#layers.check(chain, signal);
    const together = mapping.length > 0;
    return Promise.all(
      chain.map(async (record) =>
        record.remote === undefined ? this.#tree(record.id) : this.#layers.lower(record, together),
      ),
    );
  }

  /** @throws FAILED_PRECONDITION where the labels ask for what the kernel cannot do */
  async #idmap({ parent, labels }: { parent: string; labels: Labels }): Promise<readonly string[]> {
    const mapping = idMappingOf(labels);
    if (mapping === undefined || this.#options.remapIds !== true) return [];
    const lazy = this.#store.chain(parent).some((record) => record.remote !== undefined);
    const refusal = (await idmapRefusal(this.#directory)) ?? (lazy ? this.#options.remote?.idmapRefusal : undefined);
    if (refusal === undefined) return mapping.options;
    throw new LazylayerError(
      'FAILED_PRECONDITION',
      `an id-mapped snapshot cannot be mounted: ${refusal}. Without the capability remap-ids clients change owners themselves`,
    );
  }

  #mounts(id: number, kind: Kind, lower: readonly string[], idmap: readonly string[]): Mount[] {
    const work = kind === 'active' ? join(this.#directory, String(id), 'work') : undefined;
    return overlayMounts({ own: this.#tree(id), work, lower, idmap }, this.#defaults);
  }

  #tree(id: number): string {
    return join(this.#directory, String(id), 'fs');
  }
}

/** Labels that a client may have from `stat` and that are not its own. */
function withoutComputed(labels: Labels = {}): Labels {
  return Object.fromEntries(Object.entries(labels).filter(([key]) => key !== label.unavailable));
}
