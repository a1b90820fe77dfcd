import { randomBytes } from 'node:crypto';
import { mkdir, readdir, rm } from 'node:fs/promises';
import { join, relative } from 'node:path';
import type { ProgramsAhead } from '../ahead/programs.js';
import { LazylayerError } from '../errors.js';
import { MergedTree } from '../fs/merged.js';
import { LAYERS } from '../fs/served-tree.js';
import type { KnownLayer, LayerTotals } from '../layer/known.js';
import type { Layer } from '../layer/layer.js';
import { listMounts } from '../util/mountinfo.js';
import { Serial } from '../util/serial.js';
import { leaveOnAbort } from '../util/singleflight.js';
import { imageOf, layerOf } from '../workspace/image.js';
import type { Image, Workspace } from '../workspace/workspace.js';
import { isOurs, mountOverlay, overlaysAt, unmountOverlay } from './overlay.js';
import { readRecord, recordOf, writeRecord, type MountRecord } from './record.js';
import type { MountInfo, MountProgress, MountRequest } from './request.js';
import { realDirectory } from './target.js';
import type { ServedLayers } from '../fuse/served.js';

export interface MountsOptions {
  readonly workspace: Workspace;
  readonly served: ServedLayers;
  /** Mount point of the one FUSE mount. */
  readonly base: string;
  /** Fetch what the layers' landmarks ask for. */
  readonly prefetch: boolean;
  /** Brings what programs need that are run from the mounts. */
  readonly programs?: ProgramsAhead;
  /** Directory of records, one a mount; they tell the next serving process, or the next daemon, what is mounted. */
  readonly records: string;
  /** Directory of temporary uppers. */
  readonly uppers: string;
  /** An empty directory. */
  readonly empty: string;
  /** Called with what went wrong while nobody waits, such as in a background fetch. */
  readonly onError: (what: string, error: unknown) => void;
  /** Called whenever the last mount has gone. */
  readonly onEmpty: () => void;
  /** How often the kernel's mount table is looked at for mounts that somebody else took away, in milliseconds. By default 2000. */
  readonly watchMs?: number;
}

/** The names of more layers that are mounted apart may not fit in the options of an overlay. */
const maxWhole = 128;

interface Mounted {
  readonly id: string;
  readonly record: MountRecord;
  readonly image: Image;
  readonly layers: readonly KnownLayer[];
  /** Slots of the layers that anything is seen of, topmost first. */
  readonly visible: readonly number[];
  readonly lazyLayers: number;
  /** Bytes of the layers' blobs. */
  readonly blobBytes: number;
  /** Ends prefetch and background fetch. */
  readonly fetching: AbortController;
  /** Whether the overlay was there once. */
  overlaid: boolean;
  /** Whoever unmounts it does so in turn. */
  readonly leaving: Serial;
}

/** Images mounted by hand: an overlay over the layers' directories in the one FUSE mount. */
export class Mounts implements AsyncDisposable {
  readonly #options: MountsOptions;
  readonly #mounted = new Map<string, Mounted>();
  /** Targets of the above, and of mounts that are being made, with what holds each. */
  readonly #claims = new Map<string, unknown>();
  /** Mounts that are being made. */
  readonly #making = new Set<Promise<unknown>>();
  /** Ends them. */
  readonly #ending = new AbortController();
  /** Taken away lazily: whoever has files open goes on reading them. */
  readonly #lingering: Mounted[] = [];
  readonly #leavers = new Map<string, Set<() => void>>();
  readonly #watch: NodeJS.Timeout;
  /** Set to false, new mounts are refused: the daemon is about to end. */
  accepting = true;

  constructor(options: MountsOptions) {
    this.#options = options;
    this.#watch = setInterval(() => {
      this.#sweep().catch((error: unknown) => options.onError('look at the mount table', error));
    }, options.watchMs ?? 2000);
    this.#watch.unref();
  }

  /** Takes back the uses of mounts that there are no records of: a daemon that died left them. */
  async releaseLeftovers(): Promise<void> {
    const { pool } = this.#options.workspace;
    const ids = new Set((await readdir(this.#options.records)).map(useKey));
    for (const { reference, platform, uses } of [...pool.entries()])
      for (const key of uses.keys())
        if (key.startsWith(useKey('')) && !ids.has(key)) pool.release(reference, key, platform);
  }

  /** After a serving process died: opens again what its mounts are made of. The mounts themselves are still there. */
  async restore(): Promise<void> {
    const { records, onError } = this.#options;
    for (const id of await readdir(records)) {
      try {
        const record = await readRecord(join(records, id));
        const [manifest, config] = [record.manifestBytes, record.configBytes].map((text) =>
          Buffer.from(text, 'base64'),
        );
        const image = imageOf(record.reference, manifest, config, { mediaType: record.mediaType });
        const layers = await this.#openLayers(image, record.request, () => {});
        await this.#serve({ ...this.#mountedOf(id, record, image, layers), overlaid: true }, layers);
      } catch (error) {
        onError(`restore mount ${id}`, error);
      }
    }
    await this.#sweep();
  }

  async mount(request: MountRequest, onProgress: (p: MountProgress) => void, signal: AbortSignal): Promise<MountInfo> {
    if (!this.accepting) throw new LazylayerError('BUSY', 'the daemon of this root is ending: try again');
    const making = this.#mount(request, onProgress, AbortSignal.any([signal, this.#ending.signal]));
    this.#making.add(making);
    try {
      return await making;
    } finally {
      this.#making.delete(making);
      this.#announceIfEmpty();
    }
  }

  async #mount(request: MountRequest, onProgress: (p: MountProgress) => void, signal: AbortSignal): Promise<MountInfo> {
    const target = await leaveOnAbort(realDirectory(request.target), signal);
    if (this.#claims.has(target))
      throw new LazylayerError('ALREADY_EXISTS', `${target} has an image mounted already: umount it first`);
    const claim = Symbol(target);
    this.#claims.set(target, claim);
    try {
      return await this.#mountAt({ ...request, target }, onProgress, signal);
    } catch (error) {
      this.#release(target, claim);
      throw error;
    }
  }

  #release(target: string, claim: unknown): void {
    if (this.#claims.get(target) === claim) this.#claims.delete(target);
  }

  async #mountAt(
    request: MountRequest,
    onProgress: (p: MountProgress) => void,
    signal: AbortSignal,
  ): Promise<MountInfo> {
    const { workspace, records } = this.#options;
    const { target, platform, allowNoVerification } = request;
    const before = await overlaysAt(target);
    const image = await workspace.image(request.image, { platform, layers: { allowNoVerification }, signal });
    if (image.warning !== undefined) onProgress({ kind: 'warning', message: image.warning });
    const layers = await this.#openLayers(image, request, onProgress, signal);
    const id = randomBytes(6).toString('hex');
    const upper = request.upper ?? (request.rw === true ? join(this.#options.uppers, id) : undefined);
    const record = recordOf(request, image, upper);
    const mounted = this.#mountedOf(id, record, image, layers);
    try {
      await this.#serve(mounted, layers);
      await writeRecord(join(records, id), record);
      await this.#overlay(mounted, signal);
      mounted.overlaid = true;
    } catch (error) {
      // A program that was ended may have mounted it before.
      const takeBack = async () => {
        if ((await overlaysAt(target)) > before) await unmountOverlay(target, { lazy: true });
      };
      await this.#orTold(`unmount ${target}`, takeBack());
      await this.#forget(mounted);
      throw error;
    }
    if (signal.aborted) {
      // Whoever asked has left, just when it was done.
      await this.umount(target, { lazy: true });
      signal.throwIfAborted();
    }
    return this.#info(mounted);
  }

  async #openLayers(
    image: Image,
    request: MountRequest,
    onProgress: (p: MountProgress) => void,
    signal?: AbortSignal,
  ): Promise<Layer[]> {
    return this.#options.workspace.openLayers(image, {
      allowNoVerification: request.allowNoVerification,
      signal,
      onDownload: (progress) => onProgress({ kind: 'download', ...progress }),
    });
  }

  /** What is remembered of a mount: nothing that holds a layer in memory. */
  #mountedOf(id: string, record: MountRecord, image: Image, opened: readonly Layer[]): Mounted {
    const { workspace } = this.#options;
    const { allowNoVerification } = record.request;
    return {
      id,
      record,
      image,
      layers: opened.map((layer, index) => workspace.known(layerOf(image, index), layer, { allowNoVerification })),
      visible: visible(opened).map(({ slot }) => slot),
      lazyLayers: opened.filter(({ lazy }) => lazy.lazy).length,
      blobBytes: opened.reduce((sum, { size }) => sum + size, 0),
      fetching: new AbortController(),
      overlaid: false,
      leaving: new Serial(),
    };
  }

  /** Puts the layers into the served tree and starts to fetch what will be read. */
  async #serve(mounted: Mounted, opened: readonly Layer[]): Promise<void> {
    const { served, programs, workspace, onError } = this.#options;
    const { id, image, layers, record, fetching } = mounted;
    const { target } = record.request;
    this.#mounted.set(target, mounted);
    this.#claims.set(target, mounted);
    workspace.pool.use(image.reference, useKey(id), record.request.platform);
    await served.add(image.reference, layers, opened);
    programs?.know(layers.map(({ slot }) => slot));
    const { signal } = fetching;
    const ahead = layers.map(({ slot }) => served.ahead(slot));
    workspace.layers
      .fetchAhead(ahead, { prefetch: this.#options.prefetch, background: record.request.backgroundFetch, signal })
      .catch((error: unknown) => {
        if (!signal.aborted) onError(`fetch ${image.reference} ahead`, error);
      });
  }

  async #overlay({ visible, record }: Mounted, signal: AbortSignal): Promise<void> {
    const { base } = this.#options;
    const { upper } = record;
    const writable = upper === undefined ? undefined : { upper: join(upper, 'upper'), work: join(upper, 'work') };
    if (writable !== undefined)
      for (const dir of Object.values(writable)) await mkdir(dir, { recursive: true, mode: 0o755 });
    await mountOverlay(
      {
        base,
        lower: await Promise.all(visible.map((slot) => this.#lower(slot, visible.length <= maxWhole))),
        empty: this.#options.empty,
        writable,
        target: record.request.target,
      },
      signal,
    );
  }

  /** From the FUSE mount on. */
  async #lower(slot: number, whole: boolean): Promise<string> {
    const path = whole ? await this.#options.served.lower(slot) : undefined;
    return path === undefined ? `${LAYERS}/${slot}` : relative(this.#options.base, path);
  }

  /** @throws NOT_FOUND where no image of ours is mounted; BUSY where it is still being made, somebody uses it, or another mount covers it */
  async umount(path: string, options: { lazy?: boolean } = {}): Promise<void> {
    const target = this.#mounted.has(path) ? path : await realDirectory(path).catch(() => path);
    const mounted = this.#mounted.get(target);
    if (mounted === undefined)
      throw new LazylayerError(
        'NOT_FOUND',
        `${target} has no image mounted; \`lazylayer ps\` shows the mounts there are`,
      );
    if (!mounted.overlaid) throw new LazylayerError('BUSY', `${target} is being mounted: wait for that, or end it`);
    await this.#leave(mounted, async () => {
      await unmountOverlay(target, options);
      if (options.lazy === true) this.#lingering.push(mounted);
    });
  }

  /** Unmounts it and forgets it, in turn: whoever comes second must not take away what was below it. */
  async #leave(mounted: Mounted, unmount: () => Promise<void>): Promise<void> {
    await mounted.leaving.run(async () => {
      if (this.#mounted.get(mounted.record.request.target) !== mounted) return;
      await unmount();
      await this.#forget(mounted);
    });
  }

  /** What goes on without it must not fail for a mount that stays. */
  async #orTold(what: string, work: Promise<void>): Promise<void> {
    await work.catch((error: unknown) => this.#options.onError(what, error));
  }

  /** Whether nothing is mounted and nothing is being mounted. */
  get idle(): boolean {
    return this.#mounted.size === 0 && this.#making.size === 0;
  }

  list(): MountInfo[] {
    return [...this.#mounted.values()].map((m) => this.#info(m));
  }

  /** Resolves when no image of ours is mounted at `target`; rejects with the signal's reason. */
  async gone(target: string, signal: AbortSignal): Promise<void> {
    if (!this.#mounted.has(target)) return;
    const leavers = this.#leavers.get(target) ?? new Set();
    this.#leavers.set(target, leavers);
    await new Promise<void>((resolve, reject) => {
      leavers.add(resolve);
      const leave = () => {
        leavers.delete(resolve);
        reject(signal.reason as Error);
      };
      signal.addEventListener('abort', leave, { once: true });
    });
  }

  /** Lets go of mounts that somebody else took away, such as umount(8). */
  async #sweep(): Promise<void> {
    if (this.#mounted.size === 0) return;
    // Before the table is read: one that is made meanwhile may be missing there.
    const known = [...this.#mounted].filter(([, { overlaid }]) => overlaid);
    const there = new Set((await listMounts()).filter(isOurs).map(({ target }) => target));
    const gone = known.filter(([target]) => !there.has(target));
    // In turn with whoever unmounts it: lazily, it is gone from the table before it is known to linger.
    await Promise.all(gone.map(([, mounted]) => this.#leave(mounted, async () => {})));
  }

  async #forget(mounted: Mounted): Promise<void> {
    const { records, served, workspace } = this.#options;
    const { record, image, layers, id } = mounted;
    const { target } = record.request;
    if (this.#mounted.get(target) !== mounted) return;
    this.#mounted.delete(target);
    this.#release(target, mounted);
    mounted.fetching.abort(new LazylayerError('ABORTED', 'unmounted'));
    workspace.pool.release(image.reference, useKey(id), record.request.platform);
    if (!this.#lingering.includes(mounted)) await served.remove(image.reference, layers);
    await rm(join(records, id), { force: true });
    if (record.upper !== undefined && record.temporary) await rm(record.upper, { recursive: true, force: true });
    for (const leave of this.#leavers.get(target) ?? []) leave();
    this.#leavers.delete(target);
    this.#announceIfEmpty();
  }

  #announceIfEmpty(): void {
    if (this.idle) this.#options.onEmpty();
  }

  #info({ record, image, layers, lazyLayers, blobBytes }: Mounted): MountInfo {
    const totals = layers.map(({ slot }) => this.#options.served.totals(slot));
    const sum = (of: (layer: LayerTotals) => number) => totals.reduce((total, layer) => total + of(layer), 0);
    return {
      target: record.request.target,
      image: image.reference,
      digest: image.digest,
      readOnly: record.upper === undefined,
      upper: record.upper,
      layers: layers.length,
      lazyLayers,
      fetchedBytes: sum((l) => l.fetchedBytes),
      requests: sum((l) => l.requests),
      totalBytes: blobBytes,
      presentBytes: sum((l) => l.presentBytes),
      contentBytes: sum((l) => l.totalBytes),
      pid: process.pid,
      since: record.since,
    };
  }

  /** Unmounts everything, what is busy lazily, so that nothing is left that only answers ENOTCONN. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.accepting = false;
    clearInterval(this.#watch);
    this.#ending.abort(new LazylayerError('UNAVAILABLE', 'the daemon is ending'));
    await Promise.allSettled(this.#making);
    for (const mounted of [...this.#mounted.values()].reverse()) {
      const { target } = mounted.record.request;
      await this.#leave(mounted, () =>
        unmountOverlay(target).catch((error: unknown) => {
          this.#options.onError(`unmount ${target}`, error);
          return this.#orTold(`unmount ${target}`, unmountOverlay(target, { lazy: true }));
        }),
      );
    }
    for (const { image, layers } of this.#lingering) await this.#options.served.remove(image.reference, layers);
  }
}

/** Topmost first, down to the lowest that anything is seen of: overlayfs does not heed an opaque root. */
function visible(layers: readonly Layer[]): Layer[] {
  return layers.length === 0 ? [] : layers.slice(new MergedTree(layers).lowest).reverse();
}

/** The refPool's uses by mounts carry the mount's id, so that those of a daemon that died can be told and taken back. */
const useKey = (id: string) => `mount ${id}`;
