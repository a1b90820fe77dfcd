import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { createReadStream } from 'node:fs';
import { createServer as createHttpServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { createServer as createHttpsServer, type ServerOptions } from 'node:https';
import type { AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { TLSSocket } from 'node:tls';
import type { Digest } from '../digest/digest.js';
import { digestOf } from '../digest/digester.js';
import type { Descriptor } from '../image/descriptor.js';
import { sendBody, type Content } from './registry-body.js';
import { Gate, type TestAuth } from './registry-auth.js';
import { Faults, find, type Fault, type FaultAction } from './registry-faults.js';

export interface TestRegistryOptions {
  readonly faults?: readonly Fault[];
  readonly auth?: TestAuth;
  /** Waited before each answer, in milliseconds. */
  readonly latencyMs?: number;
  /** HTTPS with these; both listeners. */
  readonly tls?: ServerOptions;
  /** Blobs are redirected to a second listener, by signed URLs. */
  readonly redirectBlobs?: boolean;
  /** Default: a free one. */
  readonly port?: number;
}

/** One request, as it was answered. `status` is 0 while, or when, there was no answer. */
export interface LoggedRequest {
  readonly server: 'registry' | 'storage';
  readonly method: string;
  /** With the query. */
  readonly path: string;
  readonly range: string | undefined;
  readonly headers: IncomingMessage['headers'];
  /** Common name of the client's certificate; empty when it sent none. Undefined without TLS. */
  readonly client: string | undefined;
  /** The client's end of the connection that it came by. */
  readonly port: number;
  status: number;
  /** Body bytes sent. */
  bytes: number;
}

interface StoredManifest {
  readonly bytes: Uint8Array;
  readonly mediaType: string;
  readonly digest: Digest;
}

/** Starts a registry on loopback that serves what is put into it. */
export async function startTestRegistry(options: TestRegistryOptions = {}): Promise<TestRegistry> {
  const registry = new TestRegistry(options);
  await registry.start();
  return registry;
}

/** An OCI registry in this process: pull only, content put by method calls, real ranges, faults on demand. */
export class TestRegistry implements AsyncDisposable {
  readonly faults = new Faults();
  readonly requests: LoggedRequest[] = [];
  /** Accepted since the start of this object. */
  connections = 0;
  readonly #blobs = new Map<string, Content>();
  readonly #manifests = new Map<string, StoredManifest>();
  #gate: Gate;
  #registry: Server | undefined;
  #storage: Server | undefined;
  #port: number;
  #storagePort = 0;
  #signature = 0;
  #validFrom = 0;

  constructor(private readonly options: TestRegistryOptions) {
    this.#gate = new Gate(options.auth);
    this.#port = options.port ?? 0;
    for (const fault of options.faults ?? []) this.faults.add(fault);
  }

  get port(): number {
    return this.#port;
  }

  /** As references name it. */
  get host(): string {
    return `127.0.0.1:${this.#port}`;
  }

  /** Of the listener that blobs are redirected to. */
  get storageUrl(): string {
    return `${this.#scheme}://localhost:${this.#storagePort}`;
  }

  get url(): string {
    return `${this.#scheme}://${this.host}`;
  }

  /** Of the requests in the log, those whose path holds the text. */
  count(part = ''): number {
    return this.requests.filter((r) => r.path.includes(part)).length;
  }

  reset(): void {
    this.requests.length = 0;
  }

  /** From now on requests are answered only to those who authorize themselves so, or to anybody. */
  guard(auth: TestAuth | undefined): void {
    this.#gate = new Gate(auth);
  }

  putBlob(bytes: Uint8Array, mediaType = 'application/octet-stream'): Descriptor {
    const digest = digestOf(bytes);
    this.#blobs.set(digest, { bytes, size: bytes.byteLength });
    return { mediaType, digest, size: bytes.byteLength };
  }

  /** Serves a file, which must not change, from disk. */
  async putBlobFile(path: string, mediaType = 'application/octet-stream'): Promise<Descriptor> {
    const hash = createHash('sha256');
    let size = 0;
    for await (const piece of createReadStream(path, { highWaterMark: 1 << 20 }) as AsyncIterable<Buffer>) {
      hash.update(piece);
      size += piece.byteLength;
    }
    const digest = `sha256:${hash.digest('hex')}` as Digest;
    this.#blobs.set(digest, { file: path, size });
    return { mediaType, digest, size };
  }

  /** Under its digest, and under `tag` unless that is undefined. */
  putManifest(repository: string, tag: string | undefined, bytes: Uint8Array, mediaType: string): Descriptor {
    const digest = digestOf(bytes);
    const stored = { bytes, mediaType, digest };
    this.#manifests.set(`${repository}/${digest}`, stored);
    if (tag !== undefined) this.#manifests.set(`${repository}/${tag}`, stored);
    return { mediaType, digest, size: bytes.byteLength };
  }

  /** Tokens given out so far are refused from now on. */
  expireTokens(): void {
    this.#gate.expire();
  }

  /** Signed URLs given out so far are answered with 403 from now on. */
  expireSignatures(): void {
    this.#validFrom = this.#signature + 1;
  }

  /** Listens again on the port of the first time. */
  async start(): Promise<void> {
    this.#registry = await this.#listen('registry', this.#port);
    this.#port = (this.#registry.address() as AddressInfo).port;
    if (this.options.redirectBlobs) {
      this.#storage = await this.#listen('storage', this.#storagePort);
      this.#storagePort = (this.#storage.address() as AddressInfo).port;
    }
  }

  /** Closes every connection; new ones are refused until `start`. */
  async stop(): Promise<void> {
    const servers = [this.#registry, this.#storage].filter((s) => s !== undefined);
    this.#registry = this.#storage = undefined;
    await Promise.all(
      servers.map(async (server) => {
        const closed = once(server, 'close');
        server.close();
        server.closeAllConnections();
        await closed;
      }),
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }

  get #scheme(): string {
    return this.options.tls === undefined ? 'http' : 'https';
  }

  async #listen(name: 'registry' | 'storage', port: number): Promise<Server> {
    const handler = (request: IncomingMessage, response: ServerResponse) => {
      response.on('error', () => {});
      this.#serve(name, request, response).catch(() => response.destroy());
    };
    const server =
      this.options.tls === undefined ? createHttpServer(handler) : createHttpsServer(this.options.tls, handler);
    server.on('connection', () => this.connections++);
    server.keepAliveTimeout = 60_000;
    server.listen(port, '127.0.0.1');
    await once(server, 'listening');
    return server;
  }

  async #serve(server: 'registry' | 'storage', request: IncomingMessage, response: ServerResponse): Promise<void> {
    const path = request.url ?? '/';
    const method = request.method ?? 'GET';
    const { headers } = request;
    const client =
      request.socket instanceof TLSSocket ? String(request.socket.getPeerCertificate().subject?.CN ?? '') : undefined;
    const port = request.socket.remotePort ?? 0;
    const sent = { status: 0, bytes: 0 };
    const entry: LoggedRequest = { server, method, path, range: headers.range, headers, client, port, ...sent };
    this.requests.push(entry);
    const faults = this.faults.strike(server, path);
    if (find(faults, 'hang') !== undefined) return;
    const wait = find(faults, 'latency')?.ms ?? this.options.latencyMs ?? 0;
    if (wait > 0) await sleep(wait);
    const reply = new Reply(request, response, entry, faults);
    const status = find(faults, 'status');
    if (status !== undefined)
      return reply.text(status.status, status.body ?? '', {
        ...(status.retryAfter !== undefined && { 'retry-after': status.retryAfter }),
      });
    const redirect = find(faults, 'redirect');
    if (redirect !== undefined) return reply.text(redirect.status ?? 307, '', { location: redirect.to });
    const url = new URL(path, this.url);
    if (server === 'storage') return this.#serveStorage(reply, request, url);
    if (url.pathname === '/token') {
      const answer = this.#gate.token(request, url, await readText(request));
      return reply.text(answer.status, answer.body);
    }
    return this.#serveRegistry(reply, request, url);
  }

  async #serveRegistry(reply: Reply, request: IncomingMessage, url: URL): Promise<void> {
    const match = /^\/v2\/(.+)\/(manifests|blobs)\/([^/]+)$/.exec(url.pathname);
    const challenge = this.#gate.refuse(request, match?.[1] ?? '', `${this.url}/token`);
    if (challenge !== undefined) return reply.error(401, 'UNAUTHORIZED', { 'www-authenticate': challenge });
    if (url.pathname === '/v2/') return reply.text(200, '{}');
    if (match === null) return reply.error(404, 'NAME_UNKNOWN');
    const [, repository, kind, name] = match;
    if (kind === 'manifests') {
      const stored = this.#manifests.get(`${repository}/${name}`);
      if (stored === undefined) return reply.error(404, 'MANIFEST_UNKNOWN');
      const { bytes, mediaType, digest } = stored;
      const content = { bytes, size: bytes.byteLength };
      return reply.content(content, { 'content-type': mediaType, 'docker-content-digest': digest });
    }
    const blob = this.#blobs.get(name);
    if (blob === undefined) return reply.error(404, 'BLOB_UNKNOWN');
    if (this.options.redirectBlobs) {
      const target = `${this.storageUrl}/${name}`;
      return reply.text(307, '', { location: `${target}?X-Signature=very-secret-${++this.#signature}` });
    }
    return reply.content(blob, { 'docker-content-digest': name });
  }

  async #serveStorage(reply: Reply, request: IncomingMessage, url: URL): Promise<void> {
    const signature = /^very-secret-(\d+)$/.exec(url.searchParams.get('X-Signature') ?? '');
    if (request.headers.authorization !== undefined) return reply.text(400, '<Code>two ways to authorize</Code>');
    if (signature === null || Number(signature[1]) < this.#validFrom)
      return reply.text(403, '<Code>Request has expired</Code>');
    const blob = this.#blobs.get(url.pathname.slice(1));
    return blob === undefined ? reply.text(404, '<Code>NoSuchKey</Code>') : reply.content(blob, {});
  }
}

/** The answer to one request, with the faults that strike it. */
class Reply {
  constructor(
    private readonly request: IncomingMessage,
    private readonly response: ServerResponse,
    private readonly entry: LoggedRequest,
    private readonly faults: readonly FaultAction[],
  ) {}

  #head(status: number, headers: Record<string, string | number>): void {
    this.entry.status = status;
    for (const fault of this.faults) if (fault.kind === 'header') headers[fault.name.toLowerCase()] = fault.value;
    this.response.writeHead(status, headers);
  }

  text(status: number, body: string, headers: Record<string, string> = {}): void {
    this.#head(status, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body), ...headers });
    this.entry.bytes += Buffer.byteLength(body);
    this.response.end(body);
  }

  error(status: number, code: string, headers: Record<string, string> = {}): void {
    this.text(status, JSON.stringify({ errors: [{ code, message: code.toLowerCase().replace('_', ' ') }] }), headers);
  }

  async content(content: Content, own: Record<string, string>): Promise<void> {
    const headers: Record<string, string | number> = { 'accept-ranges': 'bytes', ...own };
    const ignored = find(this.faults, 'ignore-range') !== undefined;
    const range = ignored ? undefined : parseRange(this.request.headers.range, content.size);
    if (range === 'unsatisfiable') {
      this.#head(416, { 'content-range': `bytes */${content.size}`, 'content-length': 0 });
      return void this.response.end();
    }
    const { start, end } = range ?? { start: 0, end: content.size };
    if (range !== undefined)
      headers['content-range'] =
        find(this.faults, 'content-range')?.value ?? `bytes ${start}-${end - 1}/${content.size}`;
    if (find(this.faults, 'gzip') !== undefined) headers['content-encoding'] = 'gzip';
    if (find(this.faults, 'chunked') === undefined)
      headers['content-length'] = end - start + (find(this.faults, 'excess')?.bytes ?? 0);
    this.#head(range === undefined ? 200 : 206, headers);
    if (this.request.method === 'HEAD') return void this.response.end();
    await sendBody(this.response, content, { start, end }, this.faults, (bytes) => (this.entry.bytes += bytes));
  }
}

/** A single range of RFC 9110; several ranges, and what is no range, mean the whole, as a server may have it. */
function parseRange(
  header: string | undefined,
  size: number,
): { start: number; end: number } | 'unsatisfiable' | undefined {
  const match = /^bytes=(\d*)-(\d*)$/.exec(header ?? '');
  if (match === null || (match[1] === '' && match[2] === '')) return undefined;
  const [, first, last] = match;
  if (first === '') {
    const length = Math.min(Number(last), size);
    return length === 0 ? 'unsatisfiable' : { start: size - length, end: size };
  }
  const start = Number(first);
  if (start >= size) return 'unsatisfiable';
  if (last !== '' && Number(last) < start) return undefined;
  return { start, end: last === '' ? size : Math.min(Number(last) + 1, size) };
}

async function readText(request: IncomingMessage): Promise<string> {
  const pieces: Buffer[] = [];
  for await (const piece of request as AsyncIterable<Buffer>) pieces.push(piece);
  return Buffer.concat(pieces).toString();
}
