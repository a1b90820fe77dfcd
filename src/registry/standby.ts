import type { Socket } from 'node:net';
import { buildConnector } from 'undici';

/**
 * Connections opened beside the first one to an origin: an image's layers and its config are asked for side by side right after its manifest,
 * and what is wanted first of a layer while the ends of others still come. As many requests as go out at once by default
 * (`fetch.max_concurrency`), and three more, so that none waits for a connection to be opened.
 */
const standbyPerOrigin = 7;
/** How long one waits to be needed, in milliseconds. */
const standbyMs = 15_000;

interface Standby {
  socket?: Socket;
  /** Who needs it before it stands. */
  taker?: buildConnector.Callback;
}

/**
 * Opens connections as undici's own connector does, and with the first to an origin a few more, so that requests that follow it side by
 * side find them ready: each saves the round trips of TCP and TLS. Those that nobody takes are closed after a while.
 */
export class StandbyConnector {
  readonly #open: buildConnector.connector;
  /** By origin; one that is here was connected to of late. */
  readonly #origins = new Map<string, Set<Standby>>();

  constructor(options: buildConnector.BuildOptions) {
    this.#open = buildConnector(options);
  }

  readonly connect: buildConnector.connector = (target, callback) => {
    const origin = `${target.protocol}//${target.host ?? target.hostname}`;
    const standbys = this.#origins.get(origin);
    if (standbys === undefined) this.#prepare(origin, target);
    for (const standby of standbys ?? []) {
      standbys!.delete(standby);
      if (standby.socket === undefined) {
        standby.taker = callback;
        return;
      }
      const { socket } = standby;
      // Never at once: undici is in the middle of its round of requests, and would not take up another.
      if (usable(socket)) return queueMicrotask(() => callback(null, socket.ref()));
    }
    this.#open(target, callback);
  };

  #prepare(origin: string, target: buildConnector.Options): void {
    const standbys = new Set<Standby>();
    this.#origins.set(origin, standbys);
    setTimeout(() => {
      if (this.#origins.get(origin) === standbys) this.#origins.delete(origin);
      for (const { socket } of standbys) socket?.destroy();
    }, standbyMs).unref();
    for (let i = 0; i < standbyPerOrigin; i++) {
      const standby: Standby = {};
      standbys.add(standby);
      this.#open(target, (...[error, socket]) => {
        if (standby.taker !== undefined) {
          if (error !== null) return standby.taker(error, null);
          return standby.taker(null, socket);
        }
        if (error !== null) return void standbys.delete(standby); // the connection that is needed tells of it
        if (this.#origins.get(origin) !== standbys) return void socket.destroy();
        standby.socket = socket.unref();
        socket.once('close', () => standbys.delete(standby));
      });
    }
  }

  /** Closes what stands by. */
  close(): void {
    for (const standbys of this.#origins.values()) for (const { socket } of standbys) socket?.destroy();
    this.#origins.clear();
  }
}

function usable(socket: Socket): boolean {
  return !socket.destroyed && socket.writable && !socket.readableEnded;
}
