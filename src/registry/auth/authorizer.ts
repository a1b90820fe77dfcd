import { Singleflight } from '../../util/singleflight.js';
import { RegistryError } from '../errors.js';
import type { Exchanger } from '../exchange.js';
import type { Endpoint } from '../hosts.js';
import { parseChallenges, type Challenge } from './challenge.js';
import { basicHeader, type CredentialAnswer, type CredentialSource } from './credentials.js';
import { fetchToken, type Token } from './token.js';

interface Grant {
  readonly challenge: Challenge;
  /** The Authorization header's value. */
  readonly header: string;
  readonly expires: number;
  /** What failed while credentials were looked for. */
  readonly problems: readonly string[];
}

export interface Refusal {
  /** The WWW-Authenticate header. */
  readonly challenge: string;
  /** The Authorization header that was refused, if one was sent. */
  readonly used: string | undefined;
  /** What to throw when there is nothing to answer with. */
  readonly error: RegistryError;
}

/**
 * Knows what to send as Authorization, for each endpoint and repository: nothing until a 401 has told how the registry wants to
 * be answered, then the Basic header or the Bearer token, fetched anew when it has expired. Concurrent requests share one fetch.
 */
export class Authorizer {
  readonly #grants = new Map<string, Grant>();
  readonly #flights = new Singleflight<string, string>();
  /** By the endpoint's base: whether any request to it was answered by 401 so far. */
  readonly #challenged = new Map<string, boolean>();

  constructor(
    private readonly exchanger: Exchanger,
    private readonly credentials: CredentialSource,
  ) {}

  /**
   * Whether requests are likely to be answered as they are: an endpoint that has never sent a challenge, over plain HTTP also one that was
   * never asked, as no login belongs there.
   */
  asksForNone(endpoint: Endpoint): boolean {
    return !(this.#challenged.get(endpoint.base) ?? endpoint.base.startsWith('https:'));
  }

  /** An endpoint answered a request that had no authorization: by a challenge, or without one. */
  met(endpoint: Endpoint, challenged: boolean): void {
    if (challenged || !this.#challenged.has(endpoint.base)) this.#challenged.set(endpoint.base, challenged);
  }

  /** The header for a request, from what earlier refusals taught; undefined also where that does not hold any more. @throws the signal's reason */
  async known(endpoint: Endpoint, repository: string, signal?: AbortSignal): Promise<string | undefined> {
    const key = keyOf(endpoint, repository);
    const grant = this.#grants.get(key);
    if (grant === undefined) return undefined;
    if (grant.expires > Date.now()) return grant.header;
    try {
      return await this.#obtain(key, endpoint, repository, grant.challenge, undefined, signal);
    } catch {
      signal?.throwIfAborted();
      // The registry may want to be answered otherwise by now: it tells by a 401, and why that cannot be answered is told then.
      if (this.#grants.get(key) === grant) this.#grants.delete(key);
      return undefined;
    }
  }

  /** The header that answers a 401. @throws the refusal's error, with what failed on the way, when there is none */
  async answer(endpoint: Endpoint, repository: string, refusal: Refusal, signal?: AbortSignal): Promise<string> {
    const key = keyOf(endpoint, repository);
    const grant = this.#grants.get(key);
    if (grant !== undefined && grant.header !== refusal.used && grant.expires > Date.now()) return grant.header;
    const challenges = parseChallenges(refusal.challenge);
    const challenge =
      challenges.find((c) => c.scheme === 'bearer' && c.parameters.realm !== undefined) ??
      challenges.find((c) => c.scheme === 'basic');
    if (challenge === undefined) throw refusal.error;
    return this.#obtain(key, endpoint, repository, challenge, refusal.error, signal);
  }

  /** The answer to a 401 got another 401: forgets it, and tells what may be behind that. */
  refused(endpoint: Endpoint, repository: string, error: RegistryError): RegistryError {
    const key = keyOf(endpoint, repository);
    const problems = this.#grants.get(key)?.problems ?? [];
    this.#grants.delete(key);
    return explain(error, endpoint, 'the answer to its challenge was refused', problems);
  }

  #obtain(
    key: string,
    endpoint: Endpoint,
    repository: string,
    challenge: Challenge,
    refused: RegistryError | undefined,
    signal: AbortSignal | undefined,
  ): Promise<string> {
    const work = async (shared: AbortSignal) => {
      const found = await this.credentials(endpoint.credentialHost, repository, shared);
      const token = await this.#token(endpoint, repository, challenge, found, refused, shared);
      const { problems } = found;
      this.#grants.set(key, { challenge, header: token.value, expires: token.expires, problems });
      return token.value;
    };
    // Who was told of another token service does not wait for the one that is asked no more.
    const { scheme, parameters } = challenge;
    const { realm, service, scope } = parameters;
    return this.#flights.run([key, scheme, realm, service, scope].join('\n'), work, signal);
  }

  async #token(
    endpoint: Endpoint,
    repository: string,
    challenge: Challenge,
    found: CredentialAnswer,
    refused: RegistryError | undefined,
    signal: AbortSignal,
  ): Promise<Token> {
    const { credential, problems } = found;
    if (credential?.kind === 'token') return { value: `Bearer ${credential.token}`, expires: Infinity };
    if (challenge.scheme === 'basic') {
      if (credential?.kind === 'password')
        return { value: basicHeader(credential.username, credential.password), expires: Infinity };
      throw explain(refused, endpoint, 'expected a user name and a password for it, found none', problems);
    }
    const { realm, service, scope } = challenge.parameters;
    try {
      const request = {
        realm,
        service,
        scope: scope || `repository:${repository}:pull`,
        credential,
        connection: endpoint.connection,
        secure: endpoint.base.startsWith('https:'),
      };
      const token = await fetchToken(this.exchanger, request, signal);
      return { value: `Bearer ${token.value}`, expires: token.expires };
    } catch (error) {
      if (error instanceof RegistryError && problems.length > 0)
        throw explain(error, endpoint, credential ? '' : 'no credentials were found', problems);
      throw error;
    }
  }
}

function keyOf(endpoint: Endpoint, repository: string): string {
  return `${endpoint.base} ${repository}`;
}

function explain(
  error: RegistryError | undefined,
  endpoint: Endpoint,
  why: string,
  problems: readonly string[],
): RegistryError {
  const base = error ?? new RegistryError('UNAUTHENTICATED', 'not authorized', { method: 'GET', url: endpoint.base });
  const text = [base.problem, why, ...problems].filter((s) => s !== '').join('; ');
  return new RegistryError(base.code, text, { ...base });
}
