import type { RequestProgress, RequestRecord } from '../registry/exchange.js';
import { Ring } from '../util/ring.js';
import { wallClock } from '../util/wall-clock.js';
import type { RequestEvent } from './trace-events.js';

/** A piece of an answer's body. */
interface Piece {
  readonly request: RequestProgress;
  readonly time: number;
  readonly bytes: number;
}

/** The requests of one trace: the newest that have ended, and all that are under way. */
export class TracedRequests {
  readonly #ended: Ring<RequestRecord>;
  readonly #underWay = new Set<RequestProgress>();
  /** The newest, which tell what an answer had brought at a moment that has just passed. */
  readonly #pieces: Ring<Piece>;

  constructor(capacity: number) {
    this.#ended = new Ring(capacity);
    this.#pieces = new Ring(capacity);
  }

  get dropped(): number {
    return this.#ended.dropped;
  }

  progress(request: RequestProgress, bytes: number): void {
    this.#underWay.add(request);
    if (bytes > 0) this.#pieces.put({ request, time: wallClock(), bytes });
  }

  end(request: RequestRecord): void {
    this.#underWay.delete(request);
    this.#ended.put(request);
  }

  /** As they were at a moment, with the bytes that had come by then, in the order in which they began. Later ones are left out. */
  at(time: number): RequestEvent[] {
    const later = new Map<RequestProgress, number>();
    for (const { request, time: came, bytes } of this.#pieces)
      if (came > time) later.set(request, (later.get(request) ?? 0) + bytes);
    return [...this.#ended, ...this.#underWay]
      .filter(({ start }) => start <= time)
      .map((request) => eventAt(request, time, request.bytes - (later.get(request) ?? 0)))
      .sort((a, b) => a.start - b.start);
  }
}

function eventAt(request: RequestProgress & Partial<RequestRecord>, time: number, bytes: number): RequestEvent {
  const { url, blob, range, reason, status, start, headMs = Infinity, ms = Infinity } = request;
  const firstByte = start + headMs;
  const end = start + ms;
  return {
    url,
    ...(blob !== undefined && { blob }),
    ...(range !== undefined && { range }),
    ...(reason !== undefined && { reason }),
    ...(firstByte <= time && { status, firstByte }),
    start,
    ...(end <= time ? { end } : { end: time, underWay: true as const }),
    bytes,
  };
}
