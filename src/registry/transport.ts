import { LazylayerError } from '../errors.js';
import { retry, type BackoffOptions } from '../util/backoff.js';
import type { Authorizer } from './auth/authorizer.js';
import { RegistryError } from './errors.js';
import type { Answer, Exchanger, RequestPurpose } from './exchange.js';
import type { Capability, Endpoint } from './hosts.js';

export interface Target {
  readonly host: string;
  readonly repository: string;
  /** Below the repository: `manifests/latest`, `blobs/sha256:...`. */
  readonly path: string;
  /** What an endpoint must be able to do to be asked. */
  readonly capability: Capability;
  /** Places besides the registry that have this very content: asked before it, as containerd does. */
  readonly external?: readonly Endpoint[];
}

/** Where a blob was found last. Kept by who reads the blob, so that the next read asks the right server at once. */
export interface Location {
  base?: string;
  /** The storage that the registry redirected to; used while it is valid. */
  redirect?: URL;
}

export interface GetOptions {
  readonly headers?: Readonly<Record<string, string>>;
  readonly signal?: AbortSignal;
  readonly location?: Location;
  /** Told with the requests that come of it. */
  readonly purpose?: RequestPurpose;
}

export interface RetryOptions extends BackoffOptions {
  /** A server that asks for a longer wait than this, in milliseconds, is not asked again. */
  readonly maxRetryAfterMs: number;
}

const maxRedirects = 5;
/** How long a mirror that failed is asked after the others, in milliseconds. */
const mirrorPauseMs = 30_000;
/** Answers of a kept redirect that say it is not valid any more. */
const expiredStatuses: ReadonlySet<number> = new Set([400, 401, 403, 404, 410]);
const redirectStatuses: ReadonlySet<number> = new Set([301, 302, 303, 307, 308]);

/**
 * GET with everything a registry client owes: the host's endpoints in order, authorization on a 401, redirects, and bounded retries
 * of what may pass. Failures inside a body are the caller's.
 */
export class Transport {
  readonly #pausedUntil = new Map<string, number>();

  constructor(
    private readonly endpointsOf: (host: string) => readonly Endpoint[],
    private readonly exchanger: Exchanger,
    private readonly authorizer: Authorizer,
    readonly retryOptions: RetryOptions,
  ) {}

  /** An answer with status 200 or 206. @throws RegistryError, or the signal's reason */
  async get(target: Target, options: GetOptions = {}): Promise<Answer> {
    const endpoints = this.#endpoints(target);
    let pending = this.#ranked(endpoints, options.location);
    const failed = new Map<string, RegistryError>();
    const round = async (): Promise<Answer> => {
      for (const endpoint of pending) {
        try {
          const answer = await this.#ask(endpoint, target, options);
          this.#pausedUntil.delete(endpoint.base);
          return answer;
        } catch (error) {
          if (!(error instanceof RegistryError)) throw error;
          failed.set(endpoint.base, error);
          if (error.retriable) this.#pausedUntil.set(endpoint.base, Date.now() + mirrorPauseMs);
        }
      }
      pending = pending.filter((endpoint) => failed.get(endpoint.base)?.retriable);
      throw combine(endpoints, failed);
    };
    return retry(round, (error) => this.waitFor(pending.length > 0, error), {
      ...this.retryOptions,
      signal: options.signal,
    });
  }

  /** Whether the server of a host that is asked first for content is likely to want no authorization. */
  asksForNone(host: string): boolean {
    const first = this.endpointsOf(host).find((e) => e.capabilities.has('pull'));
    return first !== undefined && this.authorizer.asksForNone(first);
  }

  /** For `retry`: how long to wait at least before the next try after this error, or undefined for no other try. */
  waitFor(worthIt: boolean, error: unknown): number | undefined {
    if (!worthIt || !(error instanceof RegistryError)) return undefined;
    const wait = error.retryAfterMs ?? 0;
    return wait > this.retryOptions.maxRetryAfterMs ? undefined : wait;
  }

  #endpoints(target: Target): Endpoint[] {
    const able = this.endpointsOf(target.host).filter((e) => e.capabilities.has(target.capability));
    if (able.length > 0) return [...(target.external ?? []), ...able];
    throw new LazylayerError(
      'FAILED_PRECONDITION',
      `${target.host}: expected a server with the capability "${target.capability}" in certs.d or the configuration, found none`,
    );
  }

  /** In the order to ask: where the blob was found last, then as configured, those that failed lately last. */
  #ranked(endpoints: readonly Endpoint[], location: Location | undefined): readonly Endpoint[] {
    if (endpoints.length === 1) return endpoints;
    const now = Date.now();
    const rank = (e: Endpoint) =>
      ((this.#pausedUntil.get(e.base) ?? 0) > now ? 2 : 0) + (e.base === location?.base ? 0 : 1);
    return endpoints.toSorted((a, b) => rank(a) - rank(b));
  }

  async #ask(endpoint: Endpoint, target: Target, options: GetOptions): Promise<Answer> {
    const { location } = options;
    if (location?.redirect !== undefined && location.base === endpoint.base) {
      const answer = await this.#kept(endpoint, location, location.redirect, options);
      if (answer !== undefined) return answer;
    }
    const url = new URL(endpoint.external ? endpoint.base : `${endpoint.base}/${target.repository}/${target.path}`);
    if (endpoint.namespace !== undefined) url.searchParams.set('ns', endpoint.namespace);
    const answer = await this.#follow(
      endpoint.external
        ? await this.#plain(endpoint, url, options)
        : await this.#authorized(endpoint, target.repository, url, options),
      endpoint.headers,
    );
    if (location !== undefined) {
      location.base = endpoint.base;
      // On the registry's own origin a login may be needed, which is not sent to a kept redirect.
      if (answer.request.url.origin !== url.origin) location.redirect = answer.request.url;
    }
    return answer;
  }

  /** Asks the storage that an earlier redirect led to. Undefined when its URL has expired: the registry gives a new one. */
  async #kept(endpoint: Endpoint, location: Location, url: URL, options: GetOptions): Promise<Answer | undefined> {
    const forget = () => {
      if (location.redirect === url) location.redirect = undefined;
    };
    try {
      const answer = await this.#plain(endpoint, url, options);
      if (!expiredStatuses.has(answer.status)) return await this.#follow(answer, endpoint.headers);
      forget();
      await answer.discard();
      return undefined;
    } catch (error) {
      forget();
      throw error;
    }
  }

  /** Without any header that the host's configuration or a login would add. */
  #plain({ connection }: Endpoint, url: URL, { headers = {}, signal, purpose }: GetOptions): Promise<Answer> {
    return this.exchanger.send({ method: 'GET', url, headers, connection, signal, purpose });
  }

  async #authorized(endpoint: Endpoint, repository: string, url: URL, options: GetOptions): Promise<Answer> {
    const { connection } = endpoint;
    const { signal, purpose } = options;
    const send = (authorization: string | undefined) =>
      this.exchanger.send({
        method: 'GET',
        url,
        headers: { ...endpoint.headers, ...options.headers, ...(authorization !== undefined && { authorization }) },
        connection,
        signal,
        purpose,
      });
    const known = await this.authorizer.known(endpoint, repository, signal);
    const answer = await send(known);
    if (known === undefined) this.authorizer.met(endpoint, answer.status === 401);
    if (answer.status !== 401) return answer;
    const challenge = answer.header('www-authenticate') ?? '';
    const error = await answer.toError();
    const authorization = await this.authorizer.answer(endpoint, repository, { challenge, used: known, error }, signal);
    const second = await send(authorization);
    if (second.status !== 401) return second;
    throw this.authorizer.refused(endpoint, repository, await second.toError());
  }

  /** Follows redirects until there is a body. Headers that may hold credentials do not leave the origin they were meant for. */
  async #follow(first: Answer, own: Readonly<Record<string, string>>): Promise<Answer> {
    let answer = first;
    for (let hops = 0; ; hops++) {
      if (answer.status === 200 || answer.status === 206) return answer;
      if (!redirectStatuses.has(answer.status)) throw await answer.toError();
      const { request } = answer;
      const to = answer.header('location');
      await answer.discard();
      const refuse = (problem: string) =>
        new RegistryError('FAILED_PRECONDITION', problem, { ...request, status: answer.status });
      if (hops === maxRedirects) throw refuse(`expected at most ${maxRedirects} redirects, found another`);
      if (to === undefined || !URL.canParse(to, request.url.href))
        throw refuse('expected a URL in location, found none');
      const url = new URL(to, request.url);
      if (url.protocol !== 'https:' && url.protocol !== 'http:')
        throw refuse(`expected a redirect to http or https, found ${url.protocol}`);
      const headers: Record<string, string> = { ...request.headers };
      if (url.origin !== request.url.origin)
        for (const name of Object.keys(headers))
          if (name.toLowerCase() in sensitive || name in own) delete headers[name];
      answer = await this.exchanger.send({ ...request, url, headers });
    }
  }
}

const sensitive = { authorization: true, cookie: true } as const;

/** The host's own server, the last, decides what is told, as mirrors may lack what it has; what they said is added. */
function combine(endpoints: readonly Endpoint[], failed: ReadonlyMap<string, RegistryError>): RegistryError {
  const own = endpoints[endpoints.length - 1];
  const said = failed.get(own.base)!;
  const others = endpoints.slice(0, -1).map((e) => failed.get(e.base)!);
  if (others.length === 0) return said;
  const waits = [said, ...others].filter((e) => e.retriable).map((e) => e.retryAfterMs ?? 0);
  return new RegistryError(said.code, `${said.problem} (mirrors: ${others.map((e) => e.message).join('; ')})`, {
    ...said,
    retryAfterMs: waits.length > 0 ? Math.min(...waits) : undefined,
  });
}
