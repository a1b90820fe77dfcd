import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Dispatcher } from 'undici';
import type { Digest } from '../digest/digest.js';
import type { ReadReason } from '../io/reader.js';
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

/** What became of one request, told when its body has ended. */
export interface RequestRecord extends Partial<RequestPurpose> {
  readonly method: string;
  /** Redacted. */
  readonly url: string;
  /** As it was asked for: `bytes=0-99`. */
  readonly range?: string;
  /** Absent when no answer came. */
  readonly status?: number;
  /** Body bytes that arrived. */
  readonly bytes: number;
  /** From the request to the end of the body, in milliseconds. */
  readonly ms: number;
  /** To the head of the answer. Absent when none came. */
  readonly headMs?: number;
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

export interface Counters {
  requests: number;
  bytes: number;
}

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
    private readonly onRequest?: (record: RequestRecord) => void,
  ) {}

  /** The answer, whatever its status. Its body must be read to the end, left, or discarded. @throws RegistryError */
  async send(request: OutgoingRequest): Promise<Answer> {
    const { method, url, signal, headers, purpose } = request;
    // undici takes a connection back a turn of the event loop after the body's end: without waiting for that, a request that
    // follows another one would open a second connection.
    if (this.#recycling !== undefined) await this.#recycling;
    signal?.throwIfAborted();
    this.counters.requests++;
    const started = performance.now();
    let headMs: number | undefined;
    const settle = (bytes: number, complete: boolean, status?: number) => {
      const recycling: Promise<void> = nextTurn().then(() => {
        if (this.#recycling === recycling) this.#recycling = undefined;
      });
      this.#recycling = recycling;
      this.onRequest?.({
        method,
        url: redactUrl(url),
        ...purpose,
        ...(headers.range !== undefined && { range: headers.range }),
        ...(status !== undefined && { status }),
        bytes,
        ms: performance.now() - started,
        ...(headMs !== undefined && { headMs }),
        complete,
      });
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
      headMs = performance.now() - started;
      return new Answer(request, data, this.counters, settle);
    } catch (error) {
      settle(0, false);
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
    private readonly counters: Counters,
    private readonly settle: (bytes: number, complete: boolean, status: number) => void,
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
    let bytes = 0;
    let complete = false;
    try {
      for await (const piece of this.#body as AsyncIterable<Uint8Array>) {
        bytes += piece.byteLength;
        yield piece;
      }
      complete = true;
    } catch (error) {
      this.request.signal?.throwIfAborted();
      throw networkError({ ...this.request, status: this.status }, error);
    } finally {
      this.#end(bytes, complete);
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
    this.#end(0, true);
  }

  /** Reads the body of an answer that is no success and makes the error of it. */
  async toError(hint?: string): Promise<RegistryError> {
    const body = await this.text(errorBodyLimit).catch(() => '');
    const wait = retryAfterMs(this.header('retry-after'), Date.now());
    return statusError(this.request, this.status, { body, retryAfterMs: wait, hint });
  }

  #end(bytes: number, complete: boolean): void {
    if (this.#settled) return;
    this.#settled = true;
    this.counters.bytes += bytes;
    this.settle(bytes, complete, this.status);
  }
}
