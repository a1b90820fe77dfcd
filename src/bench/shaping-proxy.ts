import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { realClock } from './clock.js';
import { HttpWatch, type SeenRequest } from './http-watch.js';
import { Link, type Lane } from './link.js';
import type { Network } from './network.js';

/** What passed since the last `reset`. */
export interface Traffic {
  readonly connections: number;
  /** From the server and to it, all that TCP carried. */
  readonly bytesDown: number;
  readonly bytesUp: number;
  /** In the order in which they were asked; none of connections that are no plain HTTP/1.1. */
  readonly requests: readonly SeenRequest[];
}

export interface ProxyTarget {
  readonly host: string;
  readonly port: number;
}

/**
 * Beyond what is on its way by the delay, a connection may have twice this much waiting here. It is read again while half of that still waits:
 * the line never runs dry by our fault.
 */
const slack = 256 * 1024;

/**
 * A TCP proxy on loopback that makes a network of it: both directions have half of the round trip as their delay and a rate that all
 * connections share. The first bytes of a connection wait until a handshake over that network would have been done. What passes is
 * counted, and looked at where it is plain HTTP/1.1; TLS just passes.
 */
export class ShapingProxy implements AsyncDisposable {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  readonly #up: Link;
  readonly #down: Link;
  #connections = 0;
  #numbered = 0;
  #bytesUp = 0;
  #bytesDown = 0;
  #requests: SeenRequest[] = [];

  private constructor(
    private readonly target: ProxyTarget,
    private readonly network: Network,
  ) {
    const one = { delayMs: network.rttMs / 2, bytesPerMs: network.bytesPerMs };
    this.#up = new Link(one, realClock);
    this.#down = new Link(one, realClock);
    this.#server = createServer({ allowHalfOpen: true, noDelay: true }, (socket) => this.#accept(socket));
  }

  static async start(target: ProxyTarget, network: Network): Promise<ShapingProxy> {
    const proxy = new ShapingProxy(target, network);
    await new Promise<void>((resolve, reject) => {
      proxy.#server.once('error', reject);
      proxy.#server.listen(0, '127.0.0.1', resolve);
    });
    return proxy;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  get traffic(): Traffic {
    return {
      connections: this.#connections,
      bytesDown: this.#bytesDown,
      bytesUp: this.#bytesUp,
      requests: this.#requests,
    };
  }

  reset(): void {
    this.#connections = 0;
    this.#bytesUp = 0;
    this.#bytesDown = 0;
    this.#requests = [];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = new Promise((resolve) => this.#server.close(resolve));
    for (const socket of this.#sockets) socket.destroy();
    await closed;
  }

  #accept(client: Socket): void {
    this.#connections++;
    const watch = new HttpWatch(++this.#numbered, realClock, (request) => this.#requests.push(request));
    const server = connect({ ...this.target, allowHalfOpen: true, noDelay: true });
    // SYN and SYN-ACK, then the client may speak.
    const shaken = realClock.now() + this.network.rttMs;
    const up = this.#pass(client, server, (deliver) => this.#up.lane(deliver, shaken), {
      sent: (bytes) => watch.fromClient.push(bytes),
      arrived: (bytes) => void (this.#bytesUp += bytes.length),
      ended: () => {},
    });
    const down = this.#pass(server, client, (deliver) => this.#down.lane(deliver, shaken), {
      sent: () => {},
      arrived: (bytes) => {
        this.#bytesDown += bytes.length;
        watch.fromServer.push(bytes);
      },
      ended: () => watch.fromServer.close(),
    });
    for (const socket of [client, server]) {
      this.#sockets.add(socket);
      socket.on('error', () => socket.destroy());
      socket.on('close', (failed) => {
        this.#sockets.delete(socket);
        // Of one that broke, the other side must not wait for more.
        if (!failed && socket === server && client.writable) return;
        up.close();
        down.close();
        client.destroy();
        server.destroy();
      });
    }
  }

  /** One direction. The source is not read while more of it is under way than the network holds. */
  #pass(
    source: Socket,
    sink: Socket,
    laneFor: (deliver: (bytes: Buffer | undefined) => void) => Lane,
    watch: { sent: (bytes: Buffer) => void; arrived: (bytes: Buffer) => void; ended: () => void },
  ): Lane {
    const { rttMs, bytesPerMs } = this.network;
    const held = bytesPerMs === Infinity ? 1024 * 1024 : Math.ceil((rttMs / 2) * bytesPerMs);
    let underWay = 0;
    const lane = laneFor((bytes) => {
      if (bytes === undefined) {
        watch.ended();
        sink.end();
        return;
      }
      watch.arrived(bytes);
      sink.write(bytes, () => {
        underWay -= bytes.length;
        if (underWay <= held + slack) source.resume();
      });
    });
    source.on('data', (bytes: Buffer) => {
      watch.sent(bytes);
      underWay += bytes.length;
      if (underWay > held + 2 * slack) source.pause();
      lane.send(bytes);
    });
    source.on('end', () => lane.end());
    return lane;
  }
}
