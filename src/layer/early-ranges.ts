import { digestsFrom, type Place } from '../estargz/glance.js';
import type { OpenedToc } from '../estargz/open.js';
import { EarlyRange } from './early-range.js';
import { firstWanted } from './landmark.js';
import type { FetchScheduler } from './scheduler.js';
import type { LayerSource } from './source.js';

/**
 * What is wanted of layers first, asked for as soon as their TOCs are there: making a tree takes a round trip's time. All layers together
 * have so much memory for it, and so many requests.
 */
export class EarlyRanges {
  readonly #live = new Set<EarlyRange>();

  /** `mayHave` tells whether the disk seems to have a chunk, by its digest. */
  constructor(
    private readonly scheduler: FetchScheduler,
    private readonly mayHave: (digest: Uint8Array) => boolean,
  ) {}

  /**
   * Asks for what of a blob is wanted first, where the disk does not seem to have any: by one request, unless a container's runtime would
   * wait for its files behind the rest. That is so where all that the layers want first will have come before the container's program runs;
   * `othersKnown` says that no other layer's TOC is still to come.
   */
  ask(source: LayerSource, { json, contentEnd }: OpenedToc, othersKnown: boolean): EarlyRange[] {
    const parts = firstWanted(json);
    if (parts.length === 0) return [];
    const { start } = parts[0];
    const last = parts.at(-1)!;
    const end = Math.min(last.end, contentEnd);
    if (end <= start || end - start > 1.5 * this.scheduler.landmarkRange) return [];
    if (start === 0 && digestsFrom(json, CHUNKS).some((digest) => this.mayHave(digest))) return [];
    const { rate } = this.scheduler;
    const far = last.start - start > ROUND_TRIP_SECONDS * rate;
    const coming = this.#sum((range) => range.end - range.start - range.received);
    const soon = othersKnown && coming + end - start < START_SECONDS * rate;
    const apart = far && soon ? this.#ask(source, { ...last, end }) : undefined;
    const rest = this.#ask(source, { start, end: apart === undefined ? end : last.start });
    return [apart, rest].filter((range) => range !== undefined);
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
