import * as v from 'valibot';
import { RegistryError } from '../errors.js';
import type { Exchanger } from '../exchange.js';
import type { ConnectionProfile } from '../dispatchers.js';
import { basicHeader, type Credential } from './credentials.js';

export interface TokenRequest {
  readonly realm: string;
  readonly service?: string;
  readonly scope: string;
  readonly credential?: Credential;
  readonly connection: ConnectionProfile;
  /** Whether the registry itself was asked by HTTPS: then no credential goes to a realm by HTTP. */
  readonly secure: boolean;
}

export interface Token {
  readonly value: string;
  /** By this process's clock, in milliseconds. */
  readonly expires: number;
}

/** Taken off a token's life for the way to the registry: a tenth, at most so many milliseconds. */
const maxMargin = 5_000;
/** Seconds, where the service does not say (Docker's token specification). */
const defaultLife = 60;
const maxAnswer = 1024 * 1024;

const answerSchema = v.object({
  token: v.optional(v.string()),
  access_token: v.optional(v.string()),
  expires_in: v.optional(v.number()),
});

/**
 * Asks a token service: GET with service and scope (Docker's token specification), or the OAuth2 POST where there is an identity
 * token. @throws RegistryError
 */
export async function fetchToken(exchanger: Exchanger, request: TokenRequest, signal?: AbortSignal): Promise<Token> {
  const { realm, service, scope, credential, connection } = request;
  const post = credential?.kind === 'identity';
  const method = post ? 'POST' : 'GET';
  const refuse = (problem: string, url: string | URL) => new RegistryError('UNAUTHENTICATED', problem, { method, url });
  if (!URL.canParse(realm) || !/^https?:/i.test(realm))
    throw refuse('expected a URL as realm of the Bearer challenge, found another text', 'token service');
  const url = new URL(realm);
  if (credential !== undefined && request.secure && url.protocol !== 'https:')
    throw refuse('the token service is reached without TLS, though the registry has it: credentials are not sent', url);
  const query = post ? new URLSearchParams() : url.searchParams;
  if (service !== undefined) query.set('service', service);
  query.set('scope', scope);
  const headers: Record<string, string> = { accept: 'application/json' };
  if (credential?.kind === 'password') headers.authorization = basicHeader(credential.username, credential.password);
  if (post) {
    query.set('grant_type', 'refresh_token');
    query.set('client_id', 'lazylayer');
    query.set('refresh_token', credential.token);
    headers['content-type'] = 'application/x-www-form-urlencoded';
  }
  const started = Date.now();
  const body = post ? query.toString() : undefined;
  const answer = await exchanger.send({ method, url, headers, body, connection, signal });
  if (answer.status !== 200) throw await answer.toError('the token service gave no token');
  const parsed = v.safeParse(v.pipe(v.string(), v.parseJson(), answerSchema), await answer.text(maxAnswer));
  const value = parsed.success ? parsed.output.token || parsed.output.access_token : undefined;
  if (!parsed.success || !value) throw refuse('expected a token in the answer, found none', url);
  const life = Math.max(0, parsed.output.expires_in ?? defaultLife) * 1000;
  return { value, expires: started + life - Math.min(life / 10, maxMargin) };
}
