import type { Clock } from './clock.js';
import { framingOf, MessageReader, type Head } from './http-messages.js';

/** One request as the client saw it. Times are milliseconds since 1970. */
export interface SeenRequest {
  /** Which connection, counted from 1. */
  readonly connection: number;
  readonly method: string;
  readonly path: string;
  readonly range: string | undefined;
  /** Who asked: the value of User-Agent. */
  readonly agent: string | undefined;
  readonly start: number;
  /** When the head of the answer was there; 0 while it is not. */
  firstByte: number;
  /** When all of the answer was there; 0 while it is not. */
  end: number;
  status: number;
  /** Of the answer's body, so far. */
  bytes: number;
}

/** Looks on at one connection and tells of its requests, where they are plain HTTP/1.1; of others it tells nothing. */
export class HttpWatch {
  readonly fromClient: MessageReader;
  readonly fromServer: MessageReader;
  /** Requests without their whole answer, oldest first: answers come in the order of the requests. */
  readonly #open: SeenRequest[] = [];
  #opaque = false;

  constructor(
    private readonly connection: number,
    private readonly clock: Clock,
    private readonly tell: (request: SeenRequest) => void,
  ) {
    const opaque = () => void (this.#opaque = true);
    const ignore = () => {};
    this.fromClient = new MessageReader({ head: (head) => this.#request(head), body: ignore, end: ignore, opaque });
    this.fromServer = new MessageReader({
      head: (head) => this.#response(head),
      body: (bytes) => void (this.#open[0].bytes += bytes),
      end: () => this.#responseEnd(),
      opaque,
    });
  }

  #request({ startLine, fields }: Head) {
    const [method, path, version] = startLine.split(' ');
    if (this.#opaque || method === 'CONNECT' || !/^HTTP\/1\.[01]$/.test(version ?? '')) return undefined;
    const request: SeenRequest = {
      connection: this.connection,
      method,
      path,
      range: fields.get('range'),
      agent: fields.get('user-agent'),
      start: this.clock.now(),
      firstByte: 0,
      end: 0,
      status: 0,
      bytes: 0,
    };
    this.#open.push(request);
    this.tell(request);
    return framingOf(fields) ?? ({ kind: 'length', bytes: 0 } as const);
  }

  #response({ startLine, fields }: Head) {
    const request = this.#open[0];
    const status = Number(/^HTTP\/1\.[01] (\d{3})( |$)/.exec(startLine)?.[1]);
    if (this.#opaque || request === undefined || Number.isNaN(status)) return undefined;
    // 101 makes another protocol of the connection; the others before 200 announce an answer.
    if (status === 101) return undefined;
    if (status < 200) return { kind: 'length', bytes: 0 } as const;
    request.status = status;
    request.firstByte = this.clock.now();
    if (request.method === 'HEAD' || status === 204 || status === 304) return { kind: 'length', bytes: 0 } as const;
    return framingOf(fields) ?? ({ kind: 'rest' } as const);
  }

  #responseEnd(): void {
    const request = this.#open[0];
    if (request === undefined || request.status === 0) return;
    request.end = this.clock.now();
    this.#open.shift();
  }
}
