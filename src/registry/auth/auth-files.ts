import { readFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';
import * as v from 'valibot';
import { LazylayerError } from '../../errors.js';
import { defaultRegistry } from '../hosts.js';
import type { Credential, CredentialAnswer, CredentialSource } from './credentials.js';
import { askHelper } from './helper.js';

type Environment = Readonly<Record<string, string | undefined>>;

const entrySchema = v.object({
  auth: v.optional(v.string()),
  username: v.optional(v.string()),
  password: v.optional(v.string()),
  identitytoken: v.optional(v.string()),
  registrytoken: v.optional(v.string()),
});

const fileSchema = v.object({
  auths: v.optional(v.nullable(v.record(v.string(), entrySchema))),
  credHelpers: v.optional(v.nullable(v.record(v.string(), v.string()))),
  credsStore: v.optional(v.nullable(v.string())),
});

type AuthFile = v.InferOutput<typeof fileSchema>;

/** The key that Docker keeps the default registry's login under. */
const dockerHubKey = 'https://index.docker.io/v1/';

/** Files that may hold logins, in the order in which they are asked: Docker's, then those of Podman and its kin. */
export function authFiles(env: Environment): string[] {
  const home = env.HOME ?? homedir();
  const runtime = env.XDG_RUNTIME_DIR ?? `/run/containers/${process.getuid?.() ?? 0}`;
  return [
    join(env.DOCKER_CONFIG ?? join(home, '.docker'), 'config.json'),
    ...(env.REGISTRY_AUTH_FILE ? [env.REGISTRY_AUTH_FILE] : []),
    env.XDG_RUNTIME_DIR ? join(runtime, 'containers', 'auth.json') : join(runtime, 'auth.json'),
    join(env.XDG_CONFIG_HOME ?? join(home, '.config'), 'containers', 'auth.json'),
  ];
}

/**
 * Logins from the files above and the helpers that they name. Files are read at each call, so a new login counts at once. Within a
 * file: the host's helper, then the longest of `host/namespace/repository`, `host/namespace`, `host` in `auths`, then the
 * store. What fails is told and does not end the search.
 */
export function fileCredentials(env: Environment): CredentialSource {
  return async (host, repository, signal) => {
    const problems: string[] = [];
    for (const path of new Set(authFiles(env))) {
      const file = await readAuthFile(path, problems);
      if (file === undefined) continue;
      const credential = await lookUp(file, path, host, repository, { env, problems, signal });
      if (credential !== undefined) return { credential, problems };
    }
    return { problems };
  };
}

async function readAuthFile(path: string, problems: string[]): Promise<AuthFile | undefined> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== 'ENOENT' && code !== 'ENOTDIR') problems.push(`${path}: ${code}`);
    return undefined;
  }
  if (text.trim() === '') return undefined;
  try {
    return v.parse(fileSchema, JSON.parse(text));
  } catch {
    problems.push(`${path}: expected JSON with "auths", "credHelpers" and "credsStore", found another text`);
    return undefined;
  }
}

interface Search {
  readonly env: Environment;
  readonly problems: string[];
  readonly signal?: AbortSignal;
}

async function lookUp(
  file: AuthFile,
  path: string,
  host: string,
  repository: string,
  search: Search,
): Promise<Credential | undefined> {
  const server = host === defaultRegistry.host ? dockerHubKey : host;
  const ask = async (name: string): Promise<Credential | undefined> => {
    try {
      return await askHelper(name, server, search.env, search.signal);
    } catch (error) {
      if (!(error instanceof LazylayerError) || search.signal?.aborted) throw error;
      search.problems.push(error.message);
      return undefined;
    }
  };
  const helper = Object.entries(file.credHelpers ?? {}).find(([key]) => normalizeKey(key) === host)?.[1];
  if (helper !== undefined) {
    const credential = await ask(helper);
    if (credential !== undefined) return credential;
  }
  const entry = longestMatch(file.auths ?? {}, host, repository);
  if (entry !== undefined) {
    const credential = decode(entry);
    if (credential !== undefined) return credential;
    if (entry.auth !== undefined && entry.auth !== '')
      search.problems.push(`${path}: expected "user:password" in base64 as auth of ${host}, found another text`);
  }
  return file.credsStore ? ask(file.credsStore) : undefined;
}

type Entry = v.InferOutput<typeof entrySchema>;

function longestMatch(auths: Readonly<Record<string, Entry>>, host: string, repository: string): Entry | undefined {
  const byKey = new Map(Object.entries(auths).map(([key, entry]) => [normalizeKey(key), entry]));
  for (let name = `${host}/${repository}`; ; name = name.slice(0, name.lastIndexOf('/'))) {
    const entry = byKey.get(name);
    if (entry !== undefined || !name.includes('/')) return entry;
  }
}

/** Docker writes `https://host/v1/`, Podman `host/namespace`. A URL's path is no namespace. */
function normalizeKey(key: string): string {
  const url = /^https?:\/\/([^/]+)/i.exec(key);
  const name = url === null ? key.replace(/\/(?:v[12]\/?)?$/, '') : url[1];
  const [host, ...rest] = name.split('/');
  const known = host === `index.${defaultRegistry.host}` || host === defaultRegistry.endpoint;
  return [known ? defaultRegistry.host : host, ...rest].join('/');
}

function decode(entry: Entry): Credential | undefined {
  if (entry.identitytoken) return { kind: 'identity', token: entry.identitytoken };
  if (entry.registrytoken) return { kind: 'token', token: entry.registrytoken };
  if (entry.auth) {
    const text = Buffer.from(entry.auth, 'base64').toString('utf8').replace(/\0+$/, '');
    const colon = text.indexOf(':');
    if (colon > 0) return { kind: 'password', username: text.slice(0, colon), password: text.slice(colon + 1) };
  }
  const { username, password } = entry;
  return username && password !== undefined ? { kind: 'password', username, password } : undefined;
}

/** Asks sources one after the other until one has a login; what failed in any of them is told. */
export function chainCredentials(...sources: readonly CredentialSource[]): CredentialSource {
  return async (host, repository, signal): Promise<CredentialAnswer> => {
    const problems: string[] = [];
    for (const source of sources) {
      const answer = await source(host, repository, signal);
      problems.push(...answer.problems);
      if (answer.credential !== undefined) return { credential: answer.credential, problems };
    }
    return { problems };
  };
}
