import { parse, TomlError } from 'smol-toml';
import * as v from 'valibot';
import { LazylayerError } from '../errors.js';
import { expectedOf } from '../image/json.js';
import { KeyLines } from '../util/toml-lines.js';
import type { HostSettings } from './hosts.js';
import { redactText } from './redact.js';

const text = v.string();
const texts = v.union([text, v.array(text)], 'a string or an array of strings');
const go = { ns: 1e-6, us: 1e-3, µs: 1e-3, ms: 1, s: 1e3, m: 60e3, h: 3600e3 } as const;

/** Milliseconds of a Go duration (`1m30s`, `500ms`), or undefined. */
export function parseDuration(duration: string): number | undefined {
  if (!/^(?:\d+(?:\.\d+)?(?:ns|us|µs|ms|s|m|h))+$/.test(duration)) return undefined;
  let total = 0;
  for (const [, number, unit] of duration.matchAll(/(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)/g))
    total += Number(number) * go[unit as keyof typeof go];
  return total;
}

/** The keys that describe one server: shapes for hosts.toml and, by the same names, for config.toml. */
export const endpointShape = {
  capabilities: v.optional(v.array(v.picklist(['pull', 'resolve', 'push', 'referrers']))),
  ca: v.optional(texts),
  client: v.optional(
    v.union(
      [text, v.array(v.union([text, v.pipe(v.array(text), v.minLength(1), v.maxLength(2))]))],
      'a path, or an array of paths and [certificate, key] pairs',
    ),
  ),
  skip_verify: v.optional(v.boolean()),
  header: v.optional(v.record(text, texts)),
  override_path: v.optional(v.boolean()),
  dial_timeout: v.optional(
    v.union(
      [
        v.pipe(v.number(), v.minValue(0)),
        v.pipe(
          text,
          v.check((d) => parseDuration(d) !== undefined, 'a duration'),
        ),
      ],
      'a duration such as "3s"',
    ),
  ),
};

/** A server as hosts.toml writes it: a URL, or a host, which means HTTPS. */
export const serverSchema = v.pipe(
  text,
  v.check((s) => serverUrl(s) !== undefined, 'a http or https URL without user, query and fragment, or a host name'),
);

const schema = v.object({
  server: v.optional(serverSchema),
  host: v.optional(v.record(serverSchema, v.object(endpointShape))),
  ...endpointShape,
});

/** The URL that a server's text means, or undefined when it means none. */
export function serverUrl(server: string): URL | undefined {
  const full = /^https?:\/\//i.test(server) ? server : `https://${server}`;
  if (/\s/.test(server) || !URL.canParse(full)) return undefined;
  const url = new URL(full);
  const { username, password, search, hash, hostname } = url;
  return username || password || search || hash || hostname === '' ? undefined : url;
}

/**
 * Reads a hosts.toml as containerd does. The order of `[host."..."]` tables is the order in which they are asked.
 * @throws INVALID_ARGUMENT that names the file, the key and the line
 */
export function parseHostsToml(file: string, content: string): HostSettings {
  let value: unknown;
  try {
    value = parse(content);
  } catch (error) {
    if (!(error instanceof TomlError)) throw error;
    const problem = error.message.split('\n')[0].replace(/^Invalid TOML document: /, '');
    throw new LazylayerError('INVALID_ARGUMENT', `${file}:${error.line}: ${problem}`);
  }
  const result = v.safeParse(schema, value);
  if (!result.success) throw issueError(file, content, result.issues[0]);
  const { host, ...own } = result.output;
  return { ...own, hosts: Object.entries(host ?? {}).map(([url, settings]) => ({ ...settings, url })) };
}

function issueError(file: string, content: string, issue: v.BaseIssue<unknown>): LazylayerError {
  const path = (issue.path ?? []).map((item) => item.key as string | number);
  const line = new KeyLines(content).lineOf(path);
  const key = path
    .map(String)
    .map((name) => (/^[\w-]+$/.test(name) ? name : JSON.stringify(name)))
    .join('.');
  const where = line === undefined ? file : `${file}:${line}`;
  // A header may be a login, and a URL may hold one.
  const found = path.includes('header') ? 'another value' : issue.received;
  const problem = redactText(`${key}: expected ${expectedOf(issue)}, found ${found}`);
  return new LazylayerError('INVALID_ARGUMENT', `${where}: ${problem}`);
}
