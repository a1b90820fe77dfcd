import { LRUCache } from 'lru-cache';
import * as v from 'valibot';
import { LazylayerError } from '../../errors.js';
import { formatReference, parseReference, type Reference } from '../../image/reference.js';
import type { Credential } from './credentials.js';

const mostReferences = 1000;

/** As clients of an additional layer store hand it over: by full reference; parts that are not known are absent or empty. */
const givenSchema = v.record(
  v.string(),
  v.object({
    username: v.optional(v.string()),
    password: v.optional(v.string()),
    identityToken: v.optional(v.string()),
  }),
);

export type Given = v.InferOutput<typeof givenSchema>;

/** @throws INVALID_ARGUMENT, with nothing of the text in its message */
export function parseGiven(text: string): Given {
  try {
    return checkGiven(JSON.parse(text));
  } catch {
    throw malformed();
  }
}

/** @throws INVALID_ARGUMENT, with nothing of the value in its message */
export function checkGiven(value: unknown): Given {
  const { success, output } = v.safeParse(givenSchema, value);
  if (!success) throw malformed();
  for (const reference of Object.keys(output)) named(reference);
  return output;
}

/** Logins that somebody gave to this process for certain references. They are in memory alone, and the oldest leave for new ones. */
export class GivenCredentials {
  /** The newest first, as its values are gone through. */
  readonly #known = new LRUCache<string, { readonly name: Reference; readonly credential: Credential }>({
    max: mostReferences,
  });

  /** A reference that is given without a login has none from now on. */
  give(given: Given): void {
    for (const [text, { username = '', password = '', identityToken = '' }] of Object.entries(given)) {
      const name = named(text);
      const key = formatReference(name);
      this.#known.delete(key);
      if (identityToken !== '') this.#known.set(key, { name, credential: { kind: 'identity', token: identityToken } });
      else if (username !== '') this.#known.set(key, { name, credential: { kind: 'password', username, password } });
    }
  }

  /** What was given last for any reference of a repository: a registry is asked by that. */
  find(host: string, repository: string): Credential | undefined {
    for (const { name, credential } of this.#known.values())
      if (name.host === host && name.repository === repository) return credential;
    return undefined;
  }
}

function named(text: string): Reference {
  try {
    return parseReference(text);
  } catch {
    throw malformed();
  }
}

function malformed(): LazylayerError {
  return new LazylayerError(
    'INVALID_ARGUMENT',
    'expected a JSON object of references, each with "username", "password" and "identityToken" as text, found something else',
  );
}
