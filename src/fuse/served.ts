import { LazylayerError } from '../errors.js';
import type { LayerView } from '../fs/layer-nodes.js';
import type { ReferenceLayer, References } from '../fs/served-tree.js';
import type { Negotiated } from './codec.js';
import type { FuseServer } from './server.js';
import type { Layer } from '../layer/layer.js';

interface Served {
  readonly layer: Layer;
  /** How many images that are mounted have it. */
  uses: number;
  /** Until then whoever shares the layer may not say that it is there. */
  readonly attached: Promise<void>;
}

/** Which layers the one FUSE mount shows, counted: a layer that several images share is there once, until the last lets go. */
export class ServedLayers {
  readonly #layers = new Map<number, Served>();
  readonly #references = new Map<string, { layers: readonly Layer[]; uses: number }>();
  #stored: References = [];
  #fuse: FuseServer | undefined;

  /** What a server that is about to start must show from its first request on. */
  initial(): { layers: LayerView[]; references: References } {
    return { layers: [...this.#layers.values()].map(({ layer }) => layer.view), references: this.#store() };
  }

  /** What kernel and server agreed on; undefined before a server is bound, and of fuse-native. */
  get negotiated(): Negotiated | undefined {
    return this.#fuse?.negotiated;
  }

  /** From here on, changes go to this server, which shows what `initial` gave. */
  bind(fuse: FuseServer): void {
    this.#fuse = fuse;
  }

  /** Resolves once the image's layers can be looked up. Takes the layers over: `remove` closes them. */
  async add(reference: string, layers: readonly Layer[]): Promise<void> {
    const known = this.#references.get(reference);
    this.#references.set(reference, { layers, uses: (known?.uses ?? 0) + 1 });
    const attached = layers.map((layer) => {
      let served = this.#layers.get(layer.slot);
      if (served !== undefined) served.uses++;
      else {
        served = { layer, uses: 1, attached: this.#fuse?.attach(layer.view) ?? Promise.resolve() };
        this.#layers.set(layer.slot, served);
      }
      return served.attached;
    });
    await Promise.all(attached);
    await this.#fuse?.setReferences(this.#store());
  }

  /** The opposite of one `add`. A layer is closed only when nothing reads its cache file any more. */
  async remove(reference: string, layers: readonly Layer[]): Promise<void> {
    const known = this.#references.get(reference);
    if (known !== undefined && --known.uses === 0) this.#references.delete(reference);
    await this.#fuse?.setReferences(this.#store()).catch(ignoreEnded);
    for (const layer of layers) {
      const served = this.#layers.get(layer.slot);
      if (served !== undefined && --served.uses === 0) {
        this.#layers.delete(layer.slot);
        await this.#fuse?.detach(layer.slot).catch(ignoreEnded);
      }
      await layer[Symbol.asyncDispose]();
    }
  }

  /** Replaces what the additional layer store shows beside the images of `add`; its layers are added like theirs. */
  async show(references: References): Promise<void> {
    this.#stored = references;
    await this.#fuse?.setReferences(this.#store()).catch(ignoreEnded);
  }

  /** Every layer that is shown, once. */
  *layers(): Generator<Layer> {
    for (const { layer } of this.#layers.values()) yield layer;
  }

  /** The layer in a slot. @throws NOT_FOUND */
  get(slot: number): Layer {
    const served = this.#layers.get(slot);
    if (served === undefined) throw new LazylayerError('NOT_FOUND', `slot ${slot}: no layer is served there`);
    return served.layer;
  }

  #store(): References {
    const merged = new Map<string, Map<string, ReferenceLayer>>();
    const images = [...this.#references].map(([reference, { layers }]) => ({ reference, layers }));
    for (const { reference, layers } of [...images, ...this.#stored]) {
      const shown = merged.get(reference) ?? new Map<string, ReferenceLayer>();
      merged.set(reference, shown);
      for (const { digest, slot, ...more } of layers)
        shown.set(digest, 'files' in more ? { digest, slot, files: more.files } : { digest, slot });
    }
    return [...merged].map(([reference, layers]) => ({ reference, layers: [...layers.values()] }));
  }
}

/** A server that has ended shows nothing any more. */
function ignoreEnded(error: unknown): void {
  if (!(error instanceof LazylayerError && error.code === 'UNAVAILABLE')) throw error;
}
