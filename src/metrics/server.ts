import { chmod, lstat, rm } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { codeOf, LazylayerError } from '../errors.js';

export interface MetricsSource {
  metrics(): Promise<string>;
  readonly contentType: string;
  /** Whether the daemon serves. */
  healthy(): boolean;
}

export interface MetricsServer extends AsyncDisposable {
  /** The port, of an address that has one. */
  readonly port: number | undefined;
}

/**
 * `GET /metrics` and `GET /healthz` (200 `ok`, or 503 while the daemon starts) over HTTP.
 * @param address `HOST:PORT`, IPv6 in brackets, or the absolute path of a socket, in place of one that is there
 * @throws UNAVAILABLE where nobody can listen there
 */
export async function listenMetrics(address: string, source: MetricsSource): Promise<MetricsServer> {
  const server = createServer((request, response) => {
    answer(request.method ?? '', request.url ?? '', source).then(
      ({ status, type, body }) => response.writeHead(status, { 'content-type': type }).end(body),
      () => response.writeHead(500).end(),
    );
  });
  try {
    if (address.startsWith('/')) {
      await clear(address);
      await listen(server, { path: address });
      await chmod(address, 0o660);
    } else {
      const colon = address.lastIndexOf(':');
      const host = address.slice(0, colon).replace(/^\[|\]$/g, '');
      await listen(server, { host, port: Number(address.slice(colon + 1)) });
    }
  } catch (cause) {
    throw new LazylayerError('UNAVAILABLE', `metrics cannot be served at ${address}`, { cause });
  }
  const bound = server.address() as AddressInfo | string;
  return {
    port: typeof bound === 'string' ? undefined : bound.port,
    [Symbol.asyncDispose]: async () => {
      const closed = once(server, 'close');
      server.close();
      server.closeAllConnections();
      await closed;
    },
  };
}

async function clear(path: string): Promise<void> {
  const found = await lstat(path).catch((error: unknown) => {
    if (codeOf(error) !== 'NOT_FOUND') throw error;
  });
  if (found?.isSocket() === false)
    throw new LazylayerError('FAILED_PRECONDITION', `${path} is there and is no socket: move it away`);
  await rm(path, { force: true });
}

async function listen(server: Server, where: { path: string } | { host: string; port: number }): Promise<void> {
  const listening = once(server, 'listening');
  server.listen(where);
  await listening;
}

async function answer(method: string, url: string, source: MetricsSource) {
  const [path] = url.split('?');
  const text = (status: number, body: string) => ({ status, type: 'text/plain; charset=utf-8', body: `${body}\n` });
  if (path !== '/metrics' && path !== '/healthz') return text(404, 'there are /metrics and /healthz');
  if (method !== 'GET' && method !== 'HEAD') return text(405, 'expected GET');
  if (path === '/metrics') return { status: 200, type: source.contentType, body: await source.metrics() };
  return source.healthy() ? text(200, 'ok') : text(503, 'starting');
}
