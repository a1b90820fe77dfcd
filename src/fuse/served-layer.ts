import { LazylayerError } from '../errors.js';
import type { LayerView, SleepingLayer } from '../fs/layer-nodes.js';
import { laterTotals, noTotals, type KnownLayer, type LayerTotals } from '../layer/known.js';
import type { Layer } from '../layer/layer.js';
import { Serial } from '../util/serial.js';
import { leaveOnAbort } from '../util/singleflight.js';
import type { FuseServer } from './server.js';

/**
 * One layer that the mount shows: awake, with its tree in memory, or asleep, with nothing but this record. It changes from one to the
 * other in a line, so that whoever wakes it while it falls asleep waits for that to end.
 */
export class ServedLayer {
  /** How many images that are mounted have it. */
  uses = 0;
  /** Resolves once the mount shows the layer: until then whoever shares it may not say that it is there. */
  shown: Promise<void> = Promise.resolve();
  #layer: Layer | undefined;
  /** On its way out of memory: its numbers count on. */
  #leaving: Layer | undefined;
  #waking: Promise<Layer> | undefined;
  /** Work under way that needs the layer awake. */
  #holds = 0;
  /** It was woken since it was last asked whether it is idle. */
  #fresh = true;
  #ended = false;
  #past: LayerTotals = noTotals;
  readonly #letGo: () => void;

  constructor(
    readonly known: KnownLayer,
    /** The server once there is to be one: it knows then what was so before. */
    private readonly fuse: () => Promise<FuseServer> | undefined,
    /** Of its slot: that of the layer that had it before, where this one is still going. */
    readonly line = new Serial(),
  ) {
    this.#letGo = known.keep();
  }

  /** The layer while it is awake, as the mount has it. */
  get view(): LayerView | undefined {
    return this.#layer?.view;
  }

  get sleeping(): SleepingLayer {
    const { slot, statistics } = this.known;
    return { slot, statistics };
  }

  get totals(): LayerTotals {
    const layer = this.#layer ?? this.#leaving;
    return layer === undefined ? this.#past : laterTotals(this.#past, layer);
  }

  /** Has the mount show it, asleep. */
  async show(): Promise<void> {
    await this.line.run(async () => (await this.fuse())?.sleep(this.sleeping));
  }

  /** Takes over one opening of the layer: it is awake, or gives the opening back where it was awake already. */
  async take(layer: Layer): Promise<void> {
    await this.line.run(async () => {
      if (this.#layer === undefined && !this.#ended) await this.#attach(layer);
      else await layer[Symbol.asyncDispose]();
    });
  }

  /** @throws what opening it from disk throws; the next call tries again */
  wake(): Promise<Layer> {
    if (this.#layer !== undefined) return Promise.resolve(this.#layer);
    return (this.#waking ??= this.line
      .run(async () => {
        if (this.#layer !== undefined) return this.#layer;
        this.#mustServe();
        const layer = await this.known.open();
        await this.#attach(layer);
        return layer;
      })
      .finally(() => (this.#waking = undefined)));
  }

  async #attach(layer: Layer): Promise<void> {
    try {
      this.#mustServe();
      if (layer.slot !== this.known.slot)
        throw new LazylayerError(
          'INTERNAL',
          `layer ${layer.digest}: expected slot ${this.known.slot}, found ${layer.slot}`,
        );
      // Not a turn later where there is none yet: it would be told of a layer that sleeps.
      const fuse = this.fuse();
      if (fuse !== undefined) await (await fuse).attach(layer.view);
    } catch (error) {
      await layer[Symbol.asyncDispose]();
      throw error;
    }
    this.#fresh = true;
    this.#layer = layer;
  }

  #mustServe(): void {
    if (this.#ended) throw new LazylayerError('NOT_FOUND', `layer ${this.known.digest} is not served any more`);
  }

  /** Does what needs the layer awake: it does not fall asleep meanwhile. The signal ends the wait for it, not the work. */
  async using<V>(work: (layer: Layer) => Promise<V>, signal?: AbortSignal): Promise<V> {
    this.#holds++;
    try {
      return await work(this.#layer ?? (await leaveOnAbort(this.wake(), signal)));
    } finally {
      this.#holds--;
    }
  }

  /** Whether nothing happened to the layer since this was last asked, and nothing is under way. `touched`: a request came for it. */
  isIdle(touched: boolean): boolean {
    const fresh = this.#fresh || touched;
    this.#fresh = false;
    return this.#layer !== undefined && !fresh && this.#holds === 0 && !this.#layer.busy;
  }

  /** The mount first, so that requests wait from now on; then the layer. */
  async sleep(): Promise<void> {
    const layer = this.#layer;
    if (layer === undefined || this.#ended) return;
    this.#layer = undefined;
    this.#leaving = layer;
    await this.line.run(async () => {
      try {
        await (await this.fuse())?.sleep(this.sleeping).catch(ignoreEnded);
      } catch (error) {
        // The mount still reads its cache file.
        this.#leaving = undefined;
        this.#layer = layer;
        throw error;
      }
      await this.#close(layer);
    });
  }

  /** Takes it out of the mount. A layer is closed only when nothing reads its cache file any more. */
  async end(): Promise<void> {
    this.#ended = true;
    await this.line
      .run(async () => {
        await (await this.fuse())?.detach(this.known.slot).catch(ignoreEnded);
        const layer = this.#layer;
        this.#layer = undefined;
        this.#leaving = layer;
        if (layer !== undefined) await this.#close(layer);
      })
      .finally(this.#letGo);
  }

  async #close(layer: Layer): Promise<void> {
    try {
      await layer[Symbol.asyncDispose]();
    } finally {
      this.#past = laterTotals(this.#past, layer);
      this.#leaving = undefined;
    }
  }
}

/** A server that has ended shows nothing any more. */
export function ignoreEnded(error: unknown): void {
  if (!(error instanceof LazylayerError && error.code === 'UNAVAILABLE')) throw error;
}
