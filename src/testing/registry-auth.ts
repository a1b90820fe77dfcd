import { randomBytes } from 'node:crypto';
import type { IncomingMessage } from 'node:http';

/** An environment in which nobody has logged in. */
export const NO_LOGINS = { HOME: '/nonexistent', XDG_RUNTIME_DIR: '/nonexistent' };

export type TestAuth =
  | { readonly kind: 'basic'; readonly username: string; readonly password: string }
  | {
      readonly kind: 'bearer';
      /** Who gets a token. Without: anybody. */
      readonly username?: string;
      readonly password?: string;
      /** Accepted as refresh token in a POST. */
      readonly identityToken?: string;
      /** Life of a token in seconds, as told to the client; it holds a second longer. Default: 300. */
      readonly expiresIn?: number;
    };

export interface TokenAnswer {
  readonly status: number;
  readonly body: string;
}

/** Guards a registry. Tokens are random, hold for one scope, and end when they expire or `expire` is called. */
export class Gate {
  #tokens = new Map<string, { scope: string; expires: number }>();

  constructor(private readonly auth: TestAuth | undefined) {}

  expire(): void {
    this.#tokens.clear();
  }

  /** Undefined lets the request in; else the challenge that it is refused with. */
  refuse(request: IncomingMessage, repository: string, realm: string): string | undefined {
    const { auth } = this;
    const given = request.headers.authorization ?? '';
    if (auth === undefined) return undefined;
    if (auth.kind === 'basic')
      return given === basic(auth.username, auth.password) ? undefined : 'Basic realm="test registry"';
    const scope = `repository:${repository}:pull`;
    const token = this.#tokens.get(given.replace(/^Bearer /, ''));
    if (token?.scope === scope && token.expires > Date.now()) return undefined;
    return `Bearer realm="${realm}",service="test registry",scope="${scope}"`;
  }

  /** The token service: GET with Basic or without, or POST with a refresh token. `form` is the POST's body. */
  token(request: IncomingMessage, url: URL, form: string): TokenAnswer {
    const { auth } = this;
    if (auth?.kind !== 'bearer') return { status: 404, body: '{}' };
    const parameters = request.method === 'POST' ? new URLSearchParams(form) : url.searchParams;
    const welcome =
      request.method === 'POST'
        ? auth.identityToken !== undefined && parameters.get('refresh_token') === auth.identityToken
        : auth.username === undefined || request.headers.authorization === basic(auth.username, auth.password ?? '');
    if (!welcome || parameters.get('service') !== 'test registry')
      return { status: 401, body: '{"errors":[{"code":"UNAUTHORIZED","message":"who are you"}]}' };
    const token = randomBytes(16).toString('hex');
    const life = auth.expiresIn ?? 300;
    this.#tokens.set(token, { scope: parameters.get('scope') ?? '', expires: Date.now() + (life + 1) * 1000 });
    const name = request.method === 'POST' ? 'access_token' : 'token';
    return { status: 200, body: JSON.stringify({ [name]: token, expires_in: life }) };
  }
}

function basic(username: string, password: string): string {
  return `Basic ${Buffer.from(`${username}:${password}`).toString('base64')}`;
}
