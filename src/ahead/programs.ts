import { createHash } from 'node:crypto';
import { LRUCache } from 'lru-cache';
import { codeOf } from '../errors.js';
import type { MergedNode } from '../fs/merged.js';
import { RUNTIME_FILES } from '../layer/landmark.js';
import type { Layer } from '../layer/layer.js';
import { PREFETCH } from '../layer/scheduler.js';
import { nameOf } from '../toc/paths.js';
import { configured, invocationOf, type Invocation } from './arguments.js';
import { CommandLines } from './command-lines.js';
import { Launchers } from './launchers.js';
import { newListings } from './modules.js';
import { isCompiled } from './python.js';
import { GLIMPSES, isKnown, keyOf, Visit, type KnownImage, type StartConfig } from './visit.js';

/** The open layers, by their slots. */
export interface LayersBySlot {
  /** Does what needs the layer in a slot, which stays open meanwhile. */
  using<V>(slot: number, work: (layer: Layer) => Promise<V>): Promise<V>;
}

/** Images that are remembered, and files that need not be looked at again. */
const MAX_IMAGES = 256;
const MAX_SEEN = 16_384;
/** Command lines that need not be looked at again, and images that one of them is looked up in: any number may share a layer. */
const MAX_TOLD = 512;
const MAX_ASKED = 4;
/** Command lines that are followed in a layer, in a second. */
const MAX_FOLLOWED = 32;

const ELF = Buffer.from('\x7fELF', 'latin1');
const SCRIPT = Buffer.from('#!');

interface Expected {
  readonly image: KnownImage;
  readonly config: () => StartConfig | Promise<StartConfig>;
}

/**
 * Brings what a program that starts reads next, before it is asked for: of an image that is there, what its config names as the
 * command; of any program, library, script or module whose beginning somebody reads, the loader, libraries, interpreter and modules that it
 * names in turn. These come one after the other otherwise, a round trip each. All of it is guessing: what cannot be found or fetched is left to
 * whoever reads it.
 */
export class ProgramsAhead {
  readonly #layers: LayersBySlot;
  /** By the slots of their layers. */
  readonly #images = new LRUCache<string, KnownImage>({ max: MAX_IMAGES });
  /** Of these, those that no container was started from yet, and how to learn their configs. */
  readonly #expected = new LRUCache<string, Expected>({ max: MAX_IMAGES });
  readonly #listings = newListings();
  /** Images that were met so far. */
  #met = 0;
  /** Files whose needs were brought, by slot and inode. */
  readonly #seen = new LRUCache<string, true>({ max: MAX_SEEN });
  readonly #commandLines: CommandLines;
  readonly #launchers: Pick<Launchers, 'invocation'>;
  /** Command lines that were followed, by slot and process. */
  readonly #told = new LRUCache<string, true>({ max: MAX_TOLD });
  /** How many of them in one second, by slot. */
  readonly #followed = new LRUCache<number, { readonly at: number; count: number }>({ max: MAX_IMAGES });

  constructor(
    layers: LayersBySlot,
    commandLines = new CommandLines(),
    launchers: Pick<Launchers, 'invocation'> = new Launchers(commandLines),
  ) {
    this.#launchers = launchers;
    this.#layers = layers;
    this.#commandLines = commandLines;
  }

  /** An image is there, with the layers in these slots, the lowest first: its programs may be read. */
  know(slots: readonly number[]): void {
    this.#know(slots);
  }

  #know(slots: readonly number[]): KnownImage {
    const key = slots.join();
    const image = this.#images.get(key) ?? {
      slots,
      isLaunched: false,
      places: { roots: new Set(), listings: this.#listings, image: this.#met++ },
    };
    this.#images.set(key, image);
    return image;
  }

  /**
   * The same, and containers are likely to be started from it: brings what a container's runtime looks its user up in; and as nearly every
   * program of an image that has a loader is linked dynamically, the C library, before any program has named it. The loader and more is
   * brought by `starts`, since a pull alone shall cost few requests. Where a layer says itself what a start needs, nothing else is guessed.
   * Resolves when all is asked for; never rejects.
   */
  async expect(slots: readonly number[], config: () => StartConfig | Promise<StartConfig>): Promise<void> {
    const image = this.#know(slots);
    image.isLaunched = false;
    this.#expected.set(slots.join(), { image, config });
    await this.#visit(image, async (visit) => {
      visit.bring(RUNTIME_FILES, visit.marked ? [] : visit.start().first.slice(-1));
    });
  }

  /**
   * A container is about to be started from an image whose topmost layer is in this slot: of one that was expected, brings the command of its
   * config and what it leads to, and what the loader and the C library read before a program's first line. Resolves when all that it leads
   * to is asked for; never rejects.
   */
  async starts(slot: number): Promise<void> {
    // It is met again: what is read soon is likely to be of this one.
    for (const [key, { slots }] of [...this.#images.entries()]) if (slots.at(-1) === slot) this.#images.get(key);
    await this.#startAll((slots) => slots.at(-1) === slot);
  }

  async #startAll(wanted: (slots: readonly number[]) => boolean): Promise<void> {
    for (const [key, { image, config }] of [...this.#expected.entries()]) {
      if (!wanted(image.slots)) continue;
      this.#expected.delete(key);
      let marked = false;
      await this.#visit(image, async (visit) => {
        marked = visit.marked;
        if (!marked) visit.bring(visit.start().later);
      });
      if (marked) continue;
      const follow = (nodes: (visit: Visit) => readonly MergedNode[]) =>
        this.#visit(image, async (visit) => void (await Promise.all(nodes(visit).map((node) => visit.follow(node)))));
      // Not while the layers are kept awake: the registry may take its time.
      const start = (async () => (await config()) ?? {})().catch(() => ({}));
      await Promise.all([
        follow((visit) => visit.start().first),
        start.then((c) => image.isLaunched || follow((v) => v.command(configured(c)))),
      ]);
    }
  }

  /** Somebody waits for the beginning of a file. Resolves when all that it leads to is asked for; never rejects. */
  async read(slot: number, inode: number): Promise<void> {
    // Whoever is not told of starts sees them by this.
    void this.#startAll((slots) => slots.includes(slot));
    // The image that was met last goes first: which of several that share a layer is read cannot be told.
    for (const [key, image] of [...this.#images.entries()]) {
      const { slots } = image;
      if (!slots.includes(slot)) continue;
      if (!(await this.#names(slot, inode))) return;
      const node: MergedNode = { layer: slots.indexOf(slot), inode, parts: [] };
      if (await this.#visit(image, (visit) => visit.follow(node))) return;
      this.#images.delete(key);
    }
  }

  /**
   * A process waits for what a layer lacks, which it has when `answered` is settled: brings what its command line names of the image that it
   * runs in. The image's config does not know that where whoever runs the image says something else. Resolves when all that it leads to is
   * asked for; never rejects.
   */
  async runs(slot: number, pid: number, answered: Promise<unknown>): Promise<void> {
    await this.#commandLines.follow(pid, answered, async ({ arguments: words, directory, isOutside }) => {
      if (!isOutside) await this.#follow(slot, pid, invocationOf([words], [], directory));
    });
  }

  /**
   * A process that was not seen of late looks for something in a layer: if it is one that makes a container, brings what that is going to run.
   * Resolves when all that it leads to is asked for; never rejects.
   */
  async looks(slot: number, pid: number): Promise<void> {
    const invocation = await this.#launchers.invocation(pid);
    if (invocation !== undefined) await this.#follow(slot, pid, invocation);
  }

  async #follow(slot: number, pid: number, invocation: Invocation): Promise<void> {
    const key = createHash('sha256')
      .update(JSON.stringify([slot, pid, invocation]))
      .digest('base64');
    if (this.#told.has(key) || this.#isTooMuch(slot)) return;
    this.#told.set(key, true);
    const images = [...this.#images.values()].filter(({ slots }) => slots.includes(slot)).slice(0, MAX_ASKED);
    for (const image of images) {
      let found = false;
      await this.#visit(image, async (visit) => {
        const nodes = visit.marked ? [] : visit.command(invocation);
        found = nodes.length > 0;
        image.isLaunched ||= found;
        await Promise.all(nodes.map((node) => visit.follow(node)));
      });
      if (found) return;
    }
  }

  /** Whether more was followed in a layer of late than a start does: whoever runs there can have any number of command lines. */
  #isTooMuch(slot: number): boolean {
    const now = Math.floor(performance.now() / 1000);
    const second = this.#followed.get(slot);
    if (second?.at !== now) this.#followed.set(slot, { at: now, count: 1 });
    else if (++second.count > MAX_FOLLOWED) return true;
    return false;
  }

  /** Whether a file is of those that name others, as its name or its first bytes tell: its own layer alone is needed for that. */
  async #names(slot: number, inode: number): Promise<boolean> {
    if (this.#seen.has(keyOf(slot, inode))) return false;
    try {
      return await this.#layers.using(slot, async (layer) => {
        if (isKnown(nameOf(layer.tree, inode))) return true;
        const magic =
          (await layer.glimpse(inode, GLIMPSES[0])) ?? (await layer.read(inode, 0, 4, { priority: PREFETCH }));
        const begins = (bytes: Uint8Array) => bytes.every((byte, at) => byte === magic[at]);
        return begins(ELF) || begins(SCRIPT) || isCompiled(magic);
      });
    } catch {
      return false;
    }
  }

  /** False where a layer is not there any more. What else fails is left to whoever reads it. */
  async #visit(image: KnownImage, work: (visit: Visit) => Promise<void>): Promise<boolean> {
    const withAll = async (layers: readonly Layer[]): Promise<void> => {
      const slot = image.slots.at(layers.length);
      if (slot === undefined) return work(new Visit(layers, image, this.#seen)).catch(() => {});
      return this.#layers.using(slot, (layer) => withAll([...layers, layer]));
    };
    try {
      await withAll([]);
      return true;
    } catch (error) {
      return codeOf(error) !== 'NOT_FOUND';
    }
  }
}
