import type { ReadSource } from '../layer/chunk-fetcher.js';
import { Ring } from '../util/ring.js';
import { wallClock } from '../util/wall-clock.js';
import type { ReadEvent } from './trace-events.js';

type Wanted = Pick<ReadEvent, 'slot' | 'inode' | 'offset' | 'length'>;

/** A read under way. */
export interface TracedRead extends Wanted {
  readonly start: number;
  source: ReadSource;
  readonly end: (failed: boolean) => void;
}

/** The reads of one trace that the FUSE worker did not answer: the newest that have ended, and all that are under way. */
export class TracedReads {
  readonly #ended: Ring<ReadEvent>;
  readonly #underWay = new Set<TracedRead>();

  constructor(capacity: number) {
    this.#ended = new Ring(capacity);
  }

  get dropped(): number {
    return this.#ended.dropped;
  }

  begin(wanted: Wanted): TracedRead {
    const read: TracedRead = {
      ...wanted,
      start: wallClock(),
      source: 'cache',
      end: (failed) => {
        this.#underWay.delete(read);
        this.#ended.put({ ...eventOf(read, wallClock()), ...(failed && { failed }) });
      },
    };
    this.#underWay.add(read);
    return read;
  }

  /** Those under way end at Infinity. */
  all(): ReadEvent[] {
    return [...this.#ended, ...[...this.#underWay].map((read) => eventOf(read, Infinity))];
  }
}

const eventOf = ({ slot, inode, offset, length, start, source }: TracedRead, end: number): ReadEvent => ({
  slot,
  inode,
  offset,
  length,
  start,
  end,
  source,
});

/** Reads as they were at a moment: those that had begun, without what became of them later. */
export function readsAt(time: number, reads: readonly ReadEvent[]): ReadEvent[] {
  return reads
    .filter(({ start }) => start <= time)
    .map(({ failed, ...read }) => {
      if (read.end > time) return { ...read, end: time, underWay: true };
      return failed ? { ...read, failed } : read;
    });
}
