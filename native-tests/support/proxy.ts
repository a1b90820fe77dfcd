import { EventEmitter, once } from 'node:events';
import { Agent, createServer, request, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Cleanup } from './tools.js';

/** One request as it passed. `bytes` is the length of the answer's body, counted while it goes through. */
export interface SeenRequest {
  readonly method: string;
  readonly path: string;
  readonly range: string | undefined;
  /** Who asked: the value of User-Agent. */
  readonly agent: string | undefined;
  status: number;
  bytes: number;
}

/** A reverse proxy before a registry that counts what passes, can hold requests back, and can be switched off. */
export class CountingProxy {
  #server: Server | undefined;
  #port = 0;
  readonly #asked = new EventEmitter();
  readonly #agent = new Agent({ keepAlive: true });

  /** Everything asked since the last `reset`, in order. */
  requests: SeenRequest[] = [];
  #held: { readonly path: string; readonly after: number; readonly over: Promise<void> } | undefined;

  private constructor(private readonly upstream: number) {}

  static async start(cleanup: Cleanup, upstream: number): Promise<CountingProxy> {
    const proxy = new CountingProxy(upstream);
    await proxy.switchOn();
    cleanup.teardown(async () => {
      await proxy.switchOff();
      proxy.#agent.destroy();
    });
    return proxy;
  }

  /** `127.0.0.1:PORT`; stays the same over off and on. */
  get host(): string {
    return `127.0.0.1:${this.#port}`;
  }

  get bytes(): number {
    return this.requests.reduce((sum, seen) => sum + seen.bytes, 0);
  }

  /** Requests for blobs, without manifests and `/v2/`. */
  get blobRequests(): SeenRequest[] {
    return this.requests.filter((seen) => seen.path.includes('/blobs/'));
  }

  reset(): void {
    this.requests = [];
  }

  /**
   * Holds back every request from now on, or those of a path's end, until `release`: before it is passed on, or after some bytes of its
   * answer. `asked` resolves when the first one waits.
   */
  hold({ path = '', after = 0 }: { path?: string; after?: number } = {}): {
    readonly asked: Promise<unknown>;
    readonly release: () => void;
  } {
    let release = () => {};
    const over = new Promise<void>((resolve) => (release = resolve));
    this.#held = { path, after, over };
    return { asked: once(this.#asked, 'asked'), release };
  }

  async switchOn(): Promise<void> {
    if (this.#server !== undefined) return;
    const server = createServer((incoming, outgoing) => void this.#pass(incoming, outgoing));
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(this.#port, '127.0.0.1', resolve);
    });
    this.#port = (server.address() as AddressInfo).port;
    this.#server = server;
  }

  /** From now on connections are refused; those in use are cut. */
  async switchOff(): Promise<void> {
    const server = this.#server;
    if (server === undefined) return;
    this.#server = undefined;
    const closed = new Promise((resolve) => server.close(resolve));
    server.closeAllConnections();
    await closed;
  }

  async #pass(incoming: IncomingMessage, outgoing: ServerResponse): Promise<void> {
    const { method = 'GET', url: path = '/', headers } = incoming;
    const seen: SeenRequest = { method, path, range: headers.range, agent: headers['user-agent'], status: 0, bytes: 0 };
    this.requests.push(seen);
    const held = this.#held !== undefined && path.endsWith(this.#held.path) ? this.#held : undefined;
    const wait = async () => {
      this.#asked.emit('asked');
      await held?.over;
    };
    if (held?.after === 0) await wait();
    if (outgoing.destroyed) return;
    const target = { host: '127.0.0.1', port: this.upstream, method, path, headers, agent: this.#agent };
    const forwarded = request(target, (answer) => {
      seen.status = answer.statusCode ?? 0;
      outgoing.writeHead(seen.status, answer.headers);
      let holds = held !== undefined && held.after > 0;
      answer.on('data', (bytes: Buffer) => {
        seen.bytes += bytes.length;
        if (!holds || seen.bytes < held!.after) return;
        holds = false;
        answer.unpipe(outgoing).pause();
        void wait().then(() => answer.pipe(outgoing));
      });
      answer.on('error', () => outgoing.destroy());
      answer.pipe(outgoing);
    });
    forwarded.on('error', () => outgoing.destroy());
    outgoing.on('close', () => forwarded.destroy());
    incoming.pipe(forwarded);
  }
}
