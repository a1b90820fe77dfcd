import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Dispatcher } from 'undici';
import type { Digest } from '../digest/digest.js';
import type { ReadReason } from '../io/reader.js';
import { wallClock } from '../util/wall-clock.js';
import type { ConnectionProfile, Dispatchers, Timeouts } from './dispatchers.js';
import type { RegistryError } from './errors.js';
import { networkError, statusError } from './errors.js';
import { redactUrl } from './redact.js';
import { retryAfterMs } from './retry-after.js';

/** What a request is a part of: reading a blob. */
export interface RequestPurpose {
  readonly blob: Digest;
  readonly reason?: ReadReason;
}

/** What is known so far of one request: its own object, from its beginning on. */
export interface RequestProgress extends Partial<RequestPurpose> {
  readonly method: string;
  /** Redacted. */
  readonly url: string;
  /** As it was asked for: `bytes=0-99`. */
  readonly range?: string;
  /** When it was sent, in milliseconds since 1970. */
  readonly start: number;
  /** Absent when no answer came. */
  readonly status?: number;
  /** Body bytes that arrived. */
  readonly bytes: number;
  /** To the head of the answer, in milliseconds. Absent when none came. */
  readonly headMs?: number;
}

/** What became of one request, told when its body has ended: the same object, with the end. */
export interface RequestRecord extends RequestProgress {
  /** From the request to the end of the body, in milliseconds. */
  readonly ms: number;
  /** Whether the whole answer came: false for failures and for transfers that were left early. */
  readonly complete: boolean;
}

export interface OutgoingRequest {
  readonly method: string;
  readonly url: URL;
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: string;
  readonly connection: ConnectionProfile;
  readonly signal?: AbortSignal;
  readonly purpose?: RequestPurpose;
}

export interface ExchangeHooks {
  /** Called once for each request, when its body has ended. */
  readonly onRequest?: (record: RequestRecord) => void;
  /** Called when a request begins, with 0, and with the number of bytes in each piece of its body. */
  readonly onRequestProgress?: (progress: RequestProgress, bytes: number) => void;
}

export interface Counters {
  requests: number;
  bytes: number;
}

type Writable<T> = { -readonly [K in keyof T]: T[K] };

const userAgent = 'lazylayer';
/** Body bytes that may wait for a slow consumer before the socket is paused. */
const bodyBuffer = 256 * 1024;
const errorBodyLimit = 16 * 1024;

/** Sends single requests: no retries, no redirects, no authorization. Counts them and maps their failures. */
export class Exchanger {
  readonly counters: Counters = { requests: 0, bytes: 0 };
  #recycling: Promise<void> | undefined;

  constructor(
    private readonly dispatchers: Dispatchers,
    private readonly timeouts: Timeouts,
    private readonly hooks: ExchangeHooks = {},
  ) {}

  /** The answer, whatever its status. Its body must be read to the end, left, or discarded. @throws RegistryError */
  async send(request: OutgoingRequest): Promise<Answer> {
    const { method, url, signal, headers, purpose } = request;
    // undici takes a connection back a turn of the event loop after the body's end: without waiting for that, a request that
    // follows another one would open a second connection.
    if (this.#recycling !== undefined) await this.#recycling;
    signal?.throwIfAborted();
    this.counters.requests++;
    const progress: Writable<RequestProgress> = {
      method,
      url: redactUrl(url),
      ...purpose,
      ...(headers.range !== undefined && { range: headers.range }),
      start: wallClock(),
      bytes: 0,
    };
    this.hooks.onRequestProgress?.(progress, 0);
    const received = (bytes: number) => {
      progress.bytes += bytes;
      this.hooks.onRequestProgress?.(progress, bytes);
    };
    const settle = (complete: boolean) => {
      const recycling: Promise<void> = nextTurn().then(() => {
        if (this.#recycling === recycling) this.#recycling = undefined;
      });
      this.#recycling = recycling;
      this.counters.bytes += progress.bytes;
      this.hooks.onRequest?.(Object.assign(progress, { ms: wallClock() - progress.start, complete }));
    };
    try {
      const data = await this.dispatchers.for(url, request.connection).request({
        origin: url.origin,
        path: url.pathname + url.search,
        method: method,
        headers: { 'user-agent': userAgent, 'accept-encoding': 'identity', ...headers },
        body: request.body,
        signal,
        headersTimeout: this.timeouts.headersMs,
        bodyTimeout: this.timeouts.bodyMs,
        highWaterMark: bodyBuffer,
      });
      progress.status = data.statusCode;
      progress.headMs = wallClock() - progress.start;
      return new Answer(request, data, received, settle);
    } catch (error) {
      settle(false);
      signal?.throwIfAborted();
      throw networkError({ method, url }, error);
    }
  }
}

/** One HTTP answer: status and headers at once, the body as it arrives. */
export class Answer {
  readonly status: number;
  readonly #body: Dispatcher.ResponseData['body'];
  readonly #headers: Dispatcher.ResponseData['headers'];
  #settled = false;

  constructor(
    readonly request: OutgoingRequest,
    data: Dispatcher.ResponseData,
    private readonly received: (bytes: number) => void,
    private readonly settle: (complete: boolean) => void,
  ) {
    this.status = data.statusCode;
    this.#headers = data.headers;
    this.#body = data.body;
    this.#body.on('error', () => {}); // an answer that is discarded may still fail
  }

  /** The header's value, its values joined by ", " when it came several times. */
  header(name: string): string | undefined {
    const value = this.#headers[name];
    return Array.isArray(value) ? value.join(', ') : value;
  }

  /** The pieces of the body as the socket gives them, not copied. Leaving the loop ends the transfer. @throws RegistryError */
  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array, void, undefined> {
    let complete = false;
    try {
      for await (const piece of this.#body as AsyncIterable<Uint8Array>) {
        this.received(piece.byteLength);
        yield piece;
      }
      complete = true;
    } catch (error) {
      this.request.signal?.throwIfAborted();
      throw networkError({ ...this.request, status: this.status }, error);
    } finally {
      this.#end(complete);
    }
  }

  /** The start of the body as text; the rest is thrown away. */
  async text(limit: number): Promise<string> {
    const pieces: Uint8Array[] = [];
    let bytes = 0;
    for await (const piece of this) {
      pieces.push(piece);
      bytes += piece.byteLength;
      if (bytes >= limit) break;
    }
    return Buffer.concat(pieces).toString('utf8', 0, limit);
  }

  /** Gives the connection back, reading what little is left of the body. */
  async discard(): Promise<void> {
    await this.#body.dump({ limit: errorBodyLimit }).catch(() => {});
    this.#end(true);
  }

  /** Reads the body of an answer that is no success and makes the error of it. */
  async toError(hint?: string): Promise<RegistryError> {
    const body = await this.text(errorBodyLimit).catch(() => '');
    const wait = retryAfterMs(this.header('retry-after'), Date.now());
    return statusError(this.request, this.status, { body, retryAfterMs: wait, hint });
  }

  #end(complete: boolean): void {
    if (this.#settled) return;
    this.#settled = true;
    this.settle(complete);
  }
}
