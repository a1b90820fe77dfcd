import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { chmod, rm } from 'node:fs/promises';
import { once } from 'node:events';
import type { CacheUsage } from '../cache/chunk-cache.js';
import { codeOf, describeError, LazylayerError } from '../errors.js';
import type { MountInfo, MountProgress, MountRequest } from '../mount/request.js';
import type { PullInfo, PullRequest } from '../pull/request.js';
import type { Answer, WireError } from './protocol.js';
import type { Trace, TraceEnd, TraceLine } from './trace-events.js';

/** What the control socket offers; the daemon implements it. */
export interface ControlHandler {
  mount(request: MountRequest, onProgress: (p: MountProgress) => void, signal: AbortSignal): Promise<MountInfo>;
  /** Puts an image into containerd. @throws FAILED_PRECONDITION where no snapshots are offered */
  pull(request: PullRequest, onProgress: (p: MountProgress) => void, signal: AbortSignal): Promise<PullInfo>;
  /** `ends`: that was the last mount, and the daemon ends with it. */
  umount(target: string, lazy: boolean): Promise<{ ends: boolean }>;
  list(): Promise<MountInfo[]>;
  /** Resolves when nothing of ours is mounted at the target any more. */
  gone(target: string, signal: AbortSignal): Promise<void>;
  /** Remembers what is read and asked for until `ended` resolves, to the moment that counts as the end, and gives it; see `Tracer`. */
  trace(ended: Promise<number | undefined>, onBegin: (time: number) => void): Promise<Trace>;
  /** Logins by reference, for requests to registries. */
  giveCredentials(given: unknown): void;
  cacheUsage(): Promise<CacheUsage>;
  cachePrune(options: { all: boolean; keepBytes?: number }): Promise<{ layers: number; bytes: number }>;
}

const statusOf = (error: WireError) =>
  error.code === 'NOT_FOUND' ? 404 : error.code === 'INVALID_ARGUMENT' ? 400 : 500;

export function toWire(error: unknown): WireError {
  return { code: codeOf(error), message: describeError(error) };
}

export function fromWire(error: WireError): LazylayerError {
  return new LazylayerError(error.code, error.message);
}

/** HTTP with JSON on a unix socket that only its owner can open. A caller that hangs up cancels what it asked for. */
export async function listenControl(path: string, handler: ControlHandler): Promise<Server> {
  const server = createServer((request, response) => {
    const gone = new AbortController();
    response.once('close', () => gone.abort(new LazylayerError('ABORTED', 'the client hung up')));
    serve(request, response, handler, gone.signal).catch((error: unknown) => {
      if (response.headersSent) return void response.destroy();
      const wire = toWire(error);
      response.writeHead(statusOf(wire), { 'content-type': 'application/json' }).end(JSON.stringify({ error: wire }));
    });
  });
  server.requestTimeout = 0;
  await rm(path, { force: true });
  server.listen(path);
  await once(server, 'listening');
  await chmod(path, 0o600);
  return server;
}

async function serve(request: IncomingMessage, response: ServerResponse, handler: ControlHandler, signal: AbortSignal) {
  const url = new URL(request.url ?? '/', 'http://daemon');
  const target = url.searchParams.get('target') ?? '';
  switch (`${request.method} ${url.pathname}`) {
    case 'POST /mounts': {
      const wanted = (await readJson(request)) as MountRequest;
      return withProgress(response, (tell) => handler.mount(wanted, tell, signal));
    }
    case 'POST /pulls': {
      const wanted = (await readJson(request)) as PullRequest;
      return withProgress(response, (tell) => handler.pull(wanted, tell, signal));
    }
    case 'GET /mounts':
      return sendJson(response, await handler.list());
    case 'DELETE /mounts':
      return sendJson(response, await handler.umount(target, url.searchParams.get('lazy') === 'true'));
    case 'GET /mounts/gone':
      await handler.gone(target, signal);
      return sendJson(response, {});
    case 'POST /trace':
      return trace(request, response, handler, signal);
    case 'POST /credentials':
      handler.giveCredentials(await readJson(request));
      return sendJson(response, {});
    case 'GET /cache':
      return sendJson(response, await handler.cacheUsage());
    case 'POST /cache/prune':
      return sendJson(
        response,
        await handler.cachePrune((await readJson(request)) as { all: boolean; keepBytes?: number }),
      );
    default:
      throw new LazylayerError('NOT_FOUND', `control socket: no ${request.method} ${url.pathname} here`);
  }
}

async function withProgress<V>(response: ServerResponse, work: (tell: (p: MountProgress) => void) => Promise<V>) {
  response.writeHead(200, { 'content-type': 'application/x-ndjson' });
  const say = (answer: Answer<V>) => response.write(`${JSON.stringify(answer)}\n`);
  try {
    say({ done: await work((progress) => say({ progress })) });
  } catch (error) {
    say({ error: toWire(error) });
  }
  response.end();
}

/** A trace lasts as long as the request's body: one that breaks off ends it too, and nobody is told of it. */
async function trace(request: IncomingMessage, response: ServerResponse, handler: ControlHandler, gone: AbortSignal) {
  response.writeHead(200, { 'content-type': 'application/x-ndjson' });
  const say = async (line: TraceLine) => {
    if (!response.write(`${JSON.stringify(line)}\n`)) await once(response, 'drain', { signal: gone });
  };
  try {
    const ended = readJson(request).then((body) => (body as TraceEnd).until);
    ended.catch(() => {}); // looked at once it traces
    const begin = (begun: number) => response.write(`${JSON.stringify({ begun } satisfies TraceLine)}\n`);
    const found = await handler.trace(ended, begin);
    for (const layer of found.layers) await say({ layer });
    for (const file of found.files) await say({ file });
    for (const read of found.reads) await say({ read });
    for (const request of found.requests) await say({ request });
    await say({ ended: { time: found.end, dropped: found.dropped } });
  } catch (error) {
    if (!gone.aborted) await say({ error: toWire(error) });
  }
  response.end();
}

function sendJson(response: ServerResponse, value: unknown): void {
  response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(value));
}

async function readJson(request: IncomingMessage): Promise<unknown> {
  const parts: Buffer[] = [];
  for await (const part of request) parts.push(part as Buffer);
  return JSON.parse(Buffer.concat(parts).toString());
}
