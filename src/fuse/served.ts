import type { Digest } from '../digest/digest.js';
import type { WholeMounts } from '../erofs/whole-mounts.js';
import { LazylayerError } from '../errors.js';
import type { LayerView, SleepingLayer } from '../fs/layer-nodes.js';
import type { ReferenceLayer, References } from '../fs/served-tree.js';
import type { KnownLayer, LayerTotals } from '../layer/known.js';
import type { Layer } from '../layer/layer.js';
import { collectSoon } from '../util/collect.js';
import type { Negotiated } from './codec.js';
import type { ReadRing } from './read-ring.js';
import { ignoreEnded, ServedLayer } from './served-layer.js';
import type { FuseServer } from './server.js';

export interface ServedLayersOptions {
  /** Layers that nothing was asked of for this long, in milliseconds, leave memory. Absent: none does. */
  readonly idleMs?: number;
  /** Mounts of layers whose content is all in the cache. Absent: all layers stay with FUSE. */
  readonly whole?: WholeMounts;
  /** Hears of a layer that did not fall asleep, or was not mounted by the kernel. */
  readonly onError?: (what: string, error: unknown) => void;
}

/** What tells one layer of a reference. */
type Shown = Pick<KnownLayer, 'digest' | 'slot'>;

/** What the mount shows of a reference. */
interface ServedReference {
  /** Layers of `add`, by slot. */
  readonly added: Map<number, { readonly digest: Digest; uses: number }>;
  /** Of the additional layer store; undefined where it does not have the reference. */
  stored?: readonly ReferenceLayer[];
}

/**
 * Which layers the one FUSE mount shows, counted: a layer that several images share is there once, until the last lets go. A layer
 * that nobody asks for anything sleeps; whatever needs it goes through `using`.
 */
export class ServedLayers implements AsyncDisposable {
  readonly #layers = new Map<number, ServedLayer>();
  /** On their way out of the mount, which tells them apart by their slots alone: whoever has the slot next waits for that. */
  readonly #ending = new Map<number, ServedLayer>();
  readonly #references = new Map<string, ServedReference>();
  readonly #options: ServedLayersOptions;
  /** Since `initial` was called: it may still be starting. */
  #fuse: Promise<FuseServer> | undefined;
  #started: FuseServer | undefined;
  #timer: NodeJS.Timeout | undefined;
  #looking: Promise<void> | undefined;
  /** Somebody wants to see each read. */
  #traced = false;
  /** Bad chunks of layers that are not shown any more. */
  #badChunks = 0;

  constructor(options: ServedLayersOptions = {}) {
    this.#options = options;
  }

  /** What a server that is about to start must show from its first request on. */
  initial(): { layers: LayerView[]; asleep: SleepingLayer[]; references: References } {
    const all = [...this.#layers.values()];
    return {
      layers: all.flatMap(({ view }) => view ?? []),
      asleep: all.filter(({ view }) => view === undefined).map(({ sleeping }) => sleeping),
      references: [...this.#references.keys()].map((reference) => ({ reference, layers: this.#layersOf(reference)! })),
    };
  }

  /** What kernel and server agreed on; undefined before a server is bound, and of fuse-native. */
  get negotiated(): Negotiated | undefined {
    return this.#started?.negotiated;
  }

  /**
   * From here on, changes go to this server, which shows what `initial` gave in the same turn of the event loop; those that come before it is
   * there wait for it. Then layers fall asleep. @throws what starting throws
   */
  async bind(starting: Promise<FuseServer>): Promise<FuseServer> {
    this.#fuse = starting;
    const fuse = (this.#started = await starting);
    const { idleMs } = this.#options;
    if (idleMs !== undefined) this.#timer = setInterval(() => void this.sleepIdle(), idleMs).unref();
    return fuse;
  }

  /**
   * Adds layers to what is shown of a reference, and resolves once they can be looked up. Takes over what of them is `open` already;
   * the others sleep until something of them is asked for. Whatever comes of it, `remove` is its opposite.
   */
  async add(reference: string, layers: readonly KnownLayer[], open: readonly Layer[] = []): Promise<void> {
    const { added } = this.#reference(reference);
    const bySlot = new Map<number, Layer[]>();
    for (const layer of open) bySlot.set(layer.slot, [...(bySlot.get(layer.slot) ?? []), layer]);
    const shown = layers.map((known) => {
      const use = added.get(known.slot) ?? { digest: known.digest, uses: 0 };
      added.set(known.slot, use);
      use.uses++;
      const opened = bySlot.get(known.slot)?.pop();
      let served = this.#layers.get(known.slot);
      if (served === undefined) {
        served = new ServedLayer(known, () => this.#fuse, this.#ending.get(known.slot)?.line);
        this.#layers.set(known.slot, served);
        served.shown = opened === undefined ? served.show() : served.take(opened);
        served.uses = 1;
        return served.shown;
      }
      served.uses++;
      return Promise.all([served.shown, opened === undefined ? undefined : served.take(opened)]);
    });
    const outcomes = await Promise.allSettled(shown);
    const failure = outcomes.find((outcome) => outcome.status === 'rejected');
    if (failure !== undefined) throw failure.reason;
    await (await this.#fuse)?.setReference(reference, this.#layersOf(reference));
  }

  /** The opposite of one `add`, or of a part of it. */
  async remove(reference: string, layers: readonly Shown[]): Promise<void> {
    const { added } = this.#reference(reference);
    for (const { slot } of layers) {
      const use = added.get(slot);
      if (use !== undefined && --use.uses === 0) added.delete(slot);
    }
    await this.#showReference(reference);
    for (const { slot } of layers) {
      const served = this.#layers.get(slot);
      if (served === undefined || --served.uses > 0) continue;
      this.#layers.delete(slot);
      this.#ending.set(slot, served);
      await served.end().finally(() => {
        if (this.#ending.get(slot) === served) this.#ending.delete(slot);
      });
      await this.#letGoOf(slot);
      this.#badChunks += served.totals.badChunks;
    }
    collectSoon();
  }

  /**
   * The directory of a layer all of whose content is in the cache, which the kernel then reads by itself; undefined for all others, which
   * are read through FUSE, and while reads are traced. For overlays that are about to be mounted: none changes later.
   */
  async lower(slot: number): Promise<string | undefined> {
    const { whole, onError } = this.#options;
    if (whole === undefined || this.#traced) return undefined;
    const mounted = whole.path(slot);
    if (mounted !== undefined) return mounted;
    const mount = async (layer: Layer) => (layer.isPresent ? whole.mount(layer.view) : undefined);
    try {
      const path = await this.using(slot, mount);
      if (path === undefined) return undefined;
      // It may have been let go of before there was a mount.
      await this.#letGoOf(slot);
      await this.#showAgain(slot);
      return whole.path(slot);
    } catch (error) {
      onError?.(`mount the layer in slot ${slot} by EROFS`, error);
      return undefined;
    }
  }

  /** The content of a layer that nobody has open is about to go. */
  async forgotten(slot: number): Promise<void> {
    await this.#unmount(slot, { hidden: () => this.#showAgain(slot) });
  }

  /** Takes the layer's mount away where the layer is not shown, or no more. */
  async #letGoOf(slot: number): Promise<void> {
    await this.#unmount(slot, { wanted: () => this.#layers.has(slot) });
  }

  async #unmount(slot: number, options: Parameters<WholeMounts['unmount']>[1]): Promise<void> {
    await this.#orTold(`take away the mount of the layer in slot ${slot}`, this.#options.whole?.unmount(slot, options));
  }

  /** What goes on without them must not fail for mounts that stay. */
  async #orTold(what: string, work: Promise<void> | undefined): Promise<void> {
    await work?.catch((error: unknown) => this.#options.onError?.(what, error));
  }

  /** Whether the kernel reads the layer by itself: for overlays that were mounted since, of which nothing is known here. */
  readByKernel(slot: number): boolean {
    return this.#options.whole?.path(slot) !== undefined;
  }

  /** Lets go of mounts, taken over from an earlier process, of layers that are not shown. */
  async retainShown(): Promise<void> {
    const { whole } = this.#options;
    await this.#orTold(
      'take away mounts of layers that are not shown',
      whole?.retain((slot) => this.#layers.has(slot)),
    );
  }

  /** References that show where the layer is. */
  async #showAgain(slot: number): Promise<void> {
    for (const [reference, { added, stored }] of this.#references)
      if (added.has(slot) || stored?.some((layer) => layer.slot === slot) === true)
        await this.#showReference(reference);
  }

  /**
   * What the additional layer store shows of a reference beside the layers of `add`, which its own are added by too; undefined where it
   * has it no more.
   */
  async show(reference: string, layers: readonly ReferenceLayer[] | undefined): Promise<void> {
    this.#reference(reference).stored = layers;
    await this.#showReference(reference);
  }

  /** Wakes the layer in a slot: resolves when requests for it are answered. @throws NOT_FOUND; what opening it throws */
  async wake(slot: number): Promise<void> {
    await this.#layer(slot).wake();
  }

  /**
   * Does what needs the layer in a slot, which is woken for it, and stays awake until it is done.
   * @throws NOT_FOUND; what opening the layer throws
   */
  async using<V>(slot: number, work: (layer: Layer) => Promise<V>, signal?: AbortSignal): Promise<V> {
    return this.#layer(slot).using(work, signal);
  }

  /** The layer in a slot for whoever fetches ahead: awake as long as that takes, and no longer. */
  ahead(slot: number): Pick<Layer, 'prefetch' | 'background'> {
    return {
      prefetch: (options) => this.using(slot, (layer) => layer.prefetch(options), options?.signal),
      background: async (signal) => {
        await this.using(slot, (layer) => layer.background(signal), signal);
        await this.lower(slot);
      },
    };
  }

  /** What the layer in a slot has cost and given. @throws NOT_FOUND */
  totals(slot: number): LayerTotals {
    return this.#layer(slot).totals;
  }

  /** Has the server put each read that the cache answers in a ring, or none any more: see `FuseServer`. */
  async trace(ring: ReadRing | undefined): Promise<void> {
    this.#traced = ring !== undefined;
    for (const reference of [...this.#references.keys()]) await this.#showReference(reference);
    await (await this.#fuse)?.trace(ring);
  }

  /** Layers that are shown, and of these, those that are awake. */
  get counts(): { shown: number; awake: number } {
    let awake = 0;
    for (const { view } of this.#layers.values()) if (view !== undefined) awake++;
    return { shown: this.#layers.size, awake };
  }

  /** Layers that the kernel reads by itself. */
  get whole(): number {
    return this.#options.whole?.count ?? 0;
  }

  /** Chunks that were not what their digest says, of all layers that were ever shown. */
  get badChunks(): number {
    let sum = this.#badChunks;
    for (const { totals } of this.#layers.values()) sum += totals.badChunks;
    return sum;
  }

  /** Puts every layer to sleep of which nothing was asked since the last call. What is asked for meanwhile waits, and wakes it. */
  sleepIdle(): Promise<void> {
    return (this.#looking ??= this.#sleepIdle().finally(() => (this.#looking = undefined)));
  }

  async #sleepIdle(): Promise<void> {
    const fuse = this.#started;
    if (fuse === undefined) return;
    let slept = false;
    for (const [slot, served] of this.#layers) {
      if (served.view === undefined || !served.isIdle(fuse.touched(slot))) continue;
      slept = true;
      await served.sleep().catch((error: unknown) => {
        this.#options.onError?.(`close idle layer ${served.known.digest}`, error);
      });
    }
    if (slept) collectSoon();
  }

  #layer(slot: number): ServedLayer {
    const served = this.#layers.get(slot);
    if (served === undefined) throw new LazylayerError('NOT_FOUND', `slot ${slot}: no layer is served there`);
    return served;
  }

  #reference(reference: string): ServedReference {
    const known = this.#references.get(reference) ?? { added: new Map<number, { digest: Digest; uses: number }>() };
    this.#references.set(reference, known);
    return known;
  }

  async #showReference(reference: string): Promise<void> {
    const { added, stored } = this.#reference(reference);
    if (added.size === 0 && stored === undefined) this.#references.delete(reference);
    await (await this.#fuse)?.setReference(reference, this.#layersOf(reference)).catch(ignoreEnded);
  }

  /** The store knows more of a layer than that it is there. */
  #layersOf(reference: string): readonly ReferenceLayer[] | undefined {
    const known = this.#references.get(reference);
    if (known === undefined) return undefined;
    const layers = new Map<string, ReferenceLayer>();
    for (const [slot, { digest }] of known.added) layers.set(digest, { digest, slot });
    for (const layer of known.stored ?? []) layers.set(layer.digest, layer);
    const whole = this.#traced ? undefined : this.#options.whole;
    return [...layers.values()].map((layer) => ({ ...layer, path: whole?.path(layer.slot) }));
  }

  /** No layer falls asleep from now on. What is shown by FUSE stays shown. */
  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#timer);
    await this.#looking;
    await this.#orTold('take away all mounts of layers', this.#options.whole?.[Symbol.asyncDispose]());
  }
}
