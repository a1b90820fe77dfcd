/** What a registry is told about who asks. Never shown: neither in logs nor in errors. */
export type Credential =
  | { readonly kind: 'password'; readonly username: string; readonly password: string }
  /** Exchanged for tokens at the token service (OAuth2 refresh token). */
  | { readonly kind: 'identity'; readonly token: string }
  /** Sent as it is. */
  | { readonly kind: 'token'; readonly token: string };

/** What a source of credentials found, and which of its parts failed on the way, in words fit to be shown. */
export interface CredentialAnswer {
  readonly credential?: Credential;
  readonly problems: readonly string[];
}

export type CredentialSource = (host: string, repository: string, signal?: AbortSignal) => Promise<CredentialAnswer>;

export function basicHeader(username: string, password: string): string {
  return `Basic ${Buffer.from(`${username}:${password}`).toString('base64')}`;
}
