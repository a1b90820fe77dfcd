import type { Clock } from './clock.js';

export interface LinkOptions {
  /** One way, in milliseconds. */
  readonly delayMs: number;
  readonly bytesPerMs: number;
}

/** What one turn sends at most: small enough for connections to share the link, large enough to be cheap. */
const quantum = 16 * 1024;

interface Arrival {
  readonly at: number;
  readonly lane: Lane;
  /** Undefined for the end. */
  readonly bytes: Buffer | undefined;
}

/**
 * One direction of a network: bytes leave at a rate that all lanes share, taking turns, and arrive after a delay. Times are computed and
 * not read from the clock while there is something to send, so that a late timer slows nothing down.
 */
export class Link {
  /** Lanes with something to send, in the order of their turns. */
  readonly #turns: Lane[] = [];
  readonly #arrivals: Arrival[] = [];
  /** When the last byte that left had left. */
  #freeAt = -Infinity;
  #sending = false;

  constructor(
    readonly options: LinkOptions,
    private readonly clock: Clock,
  ) {}

  /** `deliver` is given bytes as they arrive, and undefined after the last ones. Nothing is sent before `opensAt`. */
  lane(deliver: (bytes: Buffer | undefined) => void, opensAt = -Infinity): Lane {
    return new Lane(deliver, (lane) => {
      const wait = opensAt - this.clock.now();
      if (wait > 0) this.clock.at(opensAt, () => this.#enter(lane));
      else this.#enter(lane);
    });
  }

  #enter(lane: Lane): void {
    this.#turns.push(lane);
    if (this.#sending) return;
    this.#freeAt = Math.max(this.#freeAt, this.clock.now());
    this.#send();
  }

  #send(): void {
    const { delayMs, bytesPerMs } = this.options;
    const now = this.clock.now();
    this.#sending = true;
    while (this.#freeAt <= now) {
      const lane = this.#turns.shift();
      if (lane === undefined) {
        this.#sending = false;
        return;
      }
      const bytes = lane.take(quantum);
      this.#freeAt += (bytes?.length ?? 0) / bytesPerMs;
      this.#arrive({ at: this.#freeAt + delayMs, lane, bytes });
      if (lane.again()) this.#turns.push(lane);
    }
    this.clock.at(this.#freeAt, () => this.#send());
  }

  /** Arrivals come in the order in which they were sent: the delay is the same for all. */
  #arrive(arrival: Arrival): void {
    this.#arrivals.push(arrival);
    if (this.#arrivals.length === 1) this.clock.at(arrival.at, () => this.#deliver());
  }

  #deliver(): void {
    const now = this.clock.now();
    let due = 0;
    // One timer for all that is due within its accuracy.
    while (due < this.#arrivals.length && this.#arrivals[due].at <= now + 0.5) due++;
    const arrived = this.#arrivals.splice(0, due);
    if (this.#arrivals.length > 0) this.clock.at(this.#arrivals[0].at, () => this.#deliver());
    for (const { lane, bytes } of arrived) lane.deliver(bytes);
  }
}

/** The bytes of one connection in one direction, in order. */
export class Lane {
  readonly #queue: Buffer[] = [];
  /** Whether it waits for a turn, or has one. */
  #entered = false;
  #end: 'none' | 'asked' | 'sent' = 'none';
  #closed = false;

  constructor(
    private readonly receive: (bytes: Buffer | undefined) => void,
    private readonly enter: (lane: Lane) => void,
  ) {}

  send(bytes: Buffer): void {
    if (this.#closed || this.#end !== 'none' || bytes.length === 0) return;
    this.#queue.push(bytes);
    this.#wait();
  }

  /** Nothing follows. */
  end(): void {
    if (this.#closed || this.#end !== 'none') return;
    this.#end = 'asked';
    this.#wait();
  }

  /** Drops what has not arrived. */
  close(): void {
    this.#closed = true;
    this.#queue.length = 0;
  }

  /** Whether it wants another turn; asked after each. */
  again(): boolean {
    this.#entered = this.#queue.length > 0 || (this.#end === 'asked' && !this.#closed);
    return this.#entered;
  }

  /** What goes in this turn; undefined for the end, and for a lane that was closed while it waited. */
  take(most: number): Buffer | undefined {
    const first = this.#queue[0];
    if (first === undefined) {
      this.#end = 'sent';
      return undefined;
    }
    if (first.length <= most) return this.#queue.shift();
    this.#queue[0] = first.subarray(most);
    return first.subarray(0, most);
  }

  deliver(bytes: Buffer | undefined): void {
    if (!this.#closed) this.receive(bytes);
  }

  #wait(): void {
    if (this.#entered) return;
    this.#entered = true;
    this.enter(this);
  }
}
