import { Server, ServerCredentials } from '@grpc/grpc-js';
import { chmod, lstat, mkdir, rm } from 'node:fs/promises';
import { createConnection } from 'node:net';
import { dirname, isAbsolute } from 'node:path';
import { once } from 'node:events';
import { codeOf, LazylayerError } from '../errors.js';
import { snapshotsDefinition, snapshotsService } from './service.js';
import type { Snapshotter } from './snapshotter.js';

/** What a unix socket's name may have (unix(7)), its terminating NUL left out. */
const addressBytes = 107;
/** How long calls under way may go on after the end was asked for, in milliseconds. */
const graceMs = 10_000;

export interface SnapshotServer extends AsyncDisposable {
  readonly address: string;
  /** Takes no new call, waits for those under way (ten seconds at most), removes the socket. The snapshotter stays open. */
  close(): Promise<void>;
}

/**
 * Serves a snapshotter at a unix socket, for the socket's owner and group. A directory that has to be made for it is its owner's
 * alone. A socket that nobody listens at any more is replaced.
 * @param address absolute path of the socket
 * @throws BUSY where somebody listens there, FAILED_PRECONDITION where something that is no socket is there
 */
export async function serveSnapshots(snapshotter: Snapshotter, address: string): Promise<SnapshotServer> {
  if (!isAbsolute(address) || Buffer.byteLength(address) > addressBytes)
    throw new LazylayerError(
      'INVALID_ARGUMENT',
      `address of the socket: expected an absolute path of at most ${addressBytes} bytes, found ${address}`,
    );
  await mkdir(dirname(address), { recursive: true, mode: 0o700 });
  await clearStale(address);
  const server = new Server();
  server.addService(snapshotsDefinition, snapshotsService(snapshotter));
  await new Promise<void>((resolve, reject) => {
    server.bindAsync(`unix:${address}`, ServerCredentials.createInsecure(), (error) =>
      error === null ? resolve() : reject(error),
    );
  });
  await chmod(address, 0o660);
  let closing: Promise<void> | undefined;
  const close = () => (closing ??= shutDown(server, address));
  return { address, close, [Symbol.asyncDispose]: close };
}

async function clearStale(address: string): Promise<void> {
  const found = await lstat(address).catch((error: unknown) => {
    if (codeOf(error) === 'NOT_FOUND') return undefined;
    throw error;
  });
  if (found === undefined) return;
  if (!found.isSocket())
    throw new LazylayerError(
      'FAILED_PRECONDITION',
      `${address} is there and is no socket: move it away, or use another address`,
    );
  if (await isAnswered(address))
    throw new LazylayerError('BUSY', `another process serves ${address}: end it, or use another address`);
  await rm(address, { force: true });
}

async function isAnswered(address: string): Promise<boolean> {
  const socket = createConnection(address);
  try {
    await once(socket, 'connect');
    return true;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ECONNREFUSED' || code === 'ENOENT') return false;
    throw error;
  } finally {
    socket.destroy();
  }
}

async function shutDown(server: Server, address: string): Promise<void> {
  const timer = setTimeout(() => server.forceShutdown(), graceMs);
  await new Promise<void>((resolve) => server.tryShutdown(() => resolve()));
  clearTimeout(timer);
  await rm(address, { force: true });
}
