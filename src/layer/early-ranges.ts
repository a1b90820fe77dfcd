import { digestsFrom, TocGlance, type Place } from '../estargz/glance.js';
import type { OpenedToc } from '../estargz/open.js';
import type { BlobEnd } from '../io/reader.js';
import { EarlyRange } from './early-range.js';
import { firstWanted, firstWantedOf } from './landmark.js';
import type { FetchScheduler } from './scheduler.js';
import type { LayerSource } from './source.js';

/** What is needed of a TOC, of which the beginning will do. */
type Toc = Pick<OpenedToc, 'json' | 'contentEnd'>;

/**
 * What is wanted of layers first, asked for as soon as the TOCs' beginnings tell of it: the rest of a TOC takes a part of a round trip, and
 * making its tree another. All layers together have so much memory for it, and so many requests.
 */
export class EarlyRanges {
  readonly #live = new Set<EarlyRange>();
  /** Layers that may still ask, and those of them that wait for the others to. */
  readonly #open = new Set<EarlyLayer>();
  readonly #waiting = new Map<EarlyLayer, () => void>();

  /** `mayHave` tells whether the disk seems to have a chunk, by its digest. */
  constructor(
    private readonly scheduler: FetchScheduler,
    private readonly mayHave: (digest: Uint8Array) => boolean,
  ) {}

  /** A layer's TOC is about to come; with `wanted`, what it says is wanted first is going to be prefetched. */
  expect(source: LayerSource, wanted: boolean): EarlyLayer {
    const layer = new EarlyLayer(this, source, wanted);
    this.#open.add(layer);
    return layer;
  }

  /**
   * Asks for what of a blob is wanted first, where the disk does not seem to have any: by one request, unless a container's runtime would
   * wait for its files behind the rest. That is so where all that the layers want first will have come before the container's program runs;
   * `othersKnown` says that no other layer is still to ask. Gives undefined where it would have to be known. The little that a landmark asks
   * for of one layer of several waits for its tree: it does not fill the line, and would be answered beside what does.
   */
  ask(source: LayerSource, { json, contentEnd }: Toc, othersKnown: boolean | undefined): EarlyRange[] | undefined {
    const parts = firstWanted(json);
    if (parts.length === 0 || contentEnd <= TINY_BYTES) return [];
    const { start } = parts[0];
    const last = parts.at(-1)!;
    const end = Math.min(last.end, contentEnd);
    if (end <= start || end - start > 1.5 * this.scheduler.landmarkRange) return [];
    if (start === 0 && digestsFrom(json, CHUNKS).some((digest) => this.mayHave(digest))) return [];
    const { rate } = this.scheduler;
    const far = last.start - start > ROUND_TRIP_SECONDS * rate;
    if (far && othersKnown === undefined) return undefined;
    const coming = this.#sum((range) => range.end - range.start - range.received);
    if (start === 0 && end < SMALL_BYTES && (othersKnown !== true || coming > 0)) return [];
    const soon = othersKnown === true && coming + end - start < START_SECONDS * rate;
    const apart = far && soon ? this.#ask(source, { ...last, end }) : undefined;
    const rest = this.#ask(source, { start, end: apart === undefined ? end : last.start });
    return [apart, rest].filter((range) => range !== undefined);
  }

  /** Whether no layer is still to ask but this one and those that wait. */
  othersKnown(layer: EarlyLayer): boolean {
    return [...this.#open].every((one) => one === layer || this.#waiting.has(one));
  }

  /** Calls back when no layer but those that wait is still to ask; until then, or until `end`, the layer waits. */
  wait(layer: EarlyLayer, onKnown: () => void): void {
    this.#waiting.set(layer, onKnown);
    this.#wake();
  }

  /** The layer asks for nothing more. */
  end(layer: EarlyLayer): void {
    this.#open.delete(layer);
    this.#waiting.delete(layer);
    this.#wake();
  }

  #wake(): void {
    if (this.#waiting.size < this.#open.size) return;
    // Who is called asks, and so wakes the others.
    for (const [layer, onKnown] of [...this.#waiting]) if (this.#waiting.has(layer)) onKnown();
  }

  #ask(source: LayerSource, { start, end }: Place): EarlyRange | undefined {
    const room = Math.min(end - start, ROOM);
    if (this.#live.size >= MAX_RANGES || this.#sum((range) => range.room) + room > MAX_ROOM) return undefined;
    const came = (bytes: number) => this.scheduler.came(bytes);
    const range = new EarlyRange(source.reader(), start, end, room, came, () => this.#live.delete(range));
    this.#live.add(range);
    return range;
  }

  #sum(of: (range: EarlyRange) => number): number {
    return [...this.#live].reduce((sum, range) => sum + of(range), 0);
  }
}

/** One layer whose TOC is on its way, and what was asked for of it before its tree is there. */
export class EarlyLayer {
  readonly #glance = new TocGlance();
  /** Bytes of the blob's end that were there at the last look. */
  #looked = 0;
  #isGlanced = false;
  #ranges: readonly EarlyRange[] | undefined;

  constructor(
    private readonly all: EarlyRanges,
    private readonly source: LayerSource,
    private readonly wanted: boolean,
  ) {}

  /** Hears of the blob's end as it comes. What it tells is not verified; nor is what is asked for by that, until there are chunks to hold it against. */
  readonly onEnd = ({ start, bytes }: BlobEnd, come: number): void => {
    if (!this.wanted || this.#isGlanced || this.#ranges !== undefined) return;
    if (come - this.#looked < LOOK_BYTES && come < bytes.byteLength) return;
    if (start + bytes.byteLength !== this.source.descriptor.size) return;
    this.#looked = come;
    const found = this.#glance.look(bytes.subarray(0, come));
    if (found === undefined || firstWantedOf(found.json) === undefined) return;
    this.#isGlanced = true;
    this.#ask({ json: found.json, contentEnd: start + found.at }, this.all.othersKnown(this) || undefined);
  };

  /** The TOC is there and verified. */
  known(toc: Toc): void {
    if (this.wanted && this.#ranges === undefined) this.#ask(toc, this.all.othersKnown(this));
    this.all.end(this);
  }

  #ask(toc: Toc, othersKnown: boolean | undefined): void {
    this.#ranges = this.all.ask(this.source, toc, othersKnown);
    if (this.#ranges !== undefined) this.all.end(this);
    else this.all.wait(this, () => this.#ask(toc, true));
  }

  /** What was asked for; whoever takes it owns it. Nothing more is asked for. */
  take(): readonly EarlyRange[] {
    this.all.end(this);
    const ranges = this.#ranges ?? [];
    this.#ranges = [];
    return ranges;
  }

  /** Ends what was asked for and not taken. */
  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.take().map((range) => range[Symbol.asyncDispose]()));
  }
}

/** Content up to so many bytes goes to the cache with the TOC that it came with: an application on top of its runtime. */
export const TINY_BYTES = 16 * 1024;
/** Bytes that are on their way for less than a hundredth of a second, about. */
const SMALL_BYTES = 128 * 1024;
/** Bytes of a blob's end that come between two looks. */
const LOOK_BYTES = 16 * 1024;
/** Bytes of a range that are kept until its layer's tree is there, and of all ranges. */
const ROOM = 4 * 1024 * 1024;
const MAX_ROOM = 16 * 1024 * 1024;
/** Ranges on their way at once. */
const MAX_RANGES = 6;
/** Digests of a blob's beginning that are looked for on disk. */
const CHUNKS = 16;
/** What a round trip takes, and what a container's start does where nothing has to be waited for: about. */
const ROUND_TRIP_SECONDS = 0.04;
const START_SECONDS = 0.4;
