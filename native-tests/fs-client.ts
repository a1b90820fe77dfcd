import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { closeSync } from 'node:fs';
import { mkdtemp, realpath, rmdir } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { openConnection, type FuseConnection } from '../src/fuse/mount.js';
import { unmount } from '../src/util/unmount.js';
import type { FuseStats } from '../src/fuse/server.js';
import type { Command, ServerSetup } from './fs-server.js';
import { Gate } from '../src/testing/gate.js';

/** A process that serves a mount, and the commands that it obeys. */
export class FsServer {
  readonly process: ChildProcess;
  readonly ended = new Gate();
  readonly #calls = new Map<number, Gate<unknown>>();
  readonly #events = new Map<string, Gate>();
  #next = 0;

  private constructor(setup: ServerSetup, fd: number | undefined) {
    const script = fileURLToPath(new URL('./fs-server.js', import.meta.url));
    const stdio = ['pipe' as const, 'inherit' as const, 'inherit' as const, 'ipc' as const, fd ?? ('ignore' as const)];
    this.process = spawn(process.execPath, [script, JSON.stringify(setup)], { stdio });
    this.process.on('message', (message: { id?: number; event?: string; result?: unknown; error?: string }) => {
      if (message.event === 'ended') this.ended.resolve();
      else if (message.event !== undefined) this.#event(message.event).resolve();
      else if (message.error !== undefined) this.#calls.get(message.id!)!.reject(new Error(message.error));
      else this.#calls.get(message.id!)!.resolve(message.result);
    });
    this.process.once('exit', (code, signal) => {
      const gone = new Error(`the server ended with ${code ?? signal}`);
      for (const waiting of [...this.#calls.values(), ...this.#events.values()]) {
        waiting.promise.catch(() => undefined);
        waiting.reject(gone);
      }
    });
  }

  static async start(setup: ServerSetup, fd?: number): Promise<FsServer> {
    const server = new FsServer(setup, fd);
    await server.#event('ready').promise;
    return server;
  }

  async call(name: Command['name'], path?: string): Promise<unknown> {
    const id = this.#next++;
    const call = new Gate<unknown>();
    this.#calls.set(id, call);
    this.process.send({ id, name, path });
    return call.promise;
  }

  async stats(): Promise<FuseStats> {
    return (await this.call('stats')) as FuseStats;
  }

  /** Resolves once so many reads of a file wait for the host. */
  async untilWaiting(path: string, count = 1): Promise<void> {
    while (((await this.call('waiting', path)) as number) < count) await sleep(5);
  }

  /** Stops the server's main thread until the returned function is called. */
  async block(): Promise<() => void> {
    this.#events.delete('blocked');
    const done = this.call('block');
    await this.#event('blocked').promise;
    return () => {
      this.process.stdin!.write('x');
      void done.catch(() => undefined);
    };
  }

  async kill(): Promise<void> {
    if (this.process.exitCode !== null || this.process.signalCode !== null) return;
    const exit = once(this.process, 'exit');
    this.process.kill('SIGKILL');
    await exit;
  }

  #event(name: string): Gate {
    let event = this.#events.get(name);
    if (event === undefined) this.#events.set(name, (event = new Gate()));
    return event;
  }
}

/** A mount, who serves it, and for the kernel backend the connection that this process holds. */
export interface ServedMount extends AsyncDisposable {
  readonly mountpoint: string;
  server: FsServer;
  readonly connection?: FuseConnection;
}

export async function startMount(backend: ServerSetup['backend']): Promise<ServedMount> {
  const mountpoint = await realpath(await mkdtemp(join(tmpdir(), 'lazylayer-fs-')));
  const connection = backend === 'kernel' ? await openConnection(mountpoint) : undefined;
  const end = async (server?: FsServer) => {
    // Whoever still waits for an answer gets one now, whatever became of the server.
    await unmount(mountpoint, { lazy: true, force: true }).catch(() => undefined);
    await server?.kill();
    if (connection !== undefined) closeSync(connection.fd);
    await rmdir(mountpoint);
  };
  try {
    const server = await FsServer.start({ backend, mountpoint }, connection?.fd);
    return {
      mountpoint,
      server,
      connection,
      async [Symbol.asyncDispose](this: ServedMount) {
        await end(this.server);
      },
    };
  } catch (error) {
    await end();
    throw error;
  }
}
