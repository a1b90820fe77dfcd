import { readdirSync, readFileSync, statSync } from 'node:fs';
import { isAbsolute, join } from 'node:path';
import { LazylayerError } from '../errors.js';
import { parseHostsToml } from './hosts-toml.js';
import type { EndpointSettings, HostSettings } from './hosts.js';

/** Settings found in a directory, the directory, and a text that changes when any file behind them does. */
export interface FoundSettings {
  readonly directory: string;
  readonly settings: HostSettings;
  readonly fingerprint: string;
}

/** Where containerd, Docker and Podman look. */
export const defaultCertsDirs: readonly string[] = [
  '/etc/containerd/certs.d',
  '/etc/docker/certs.d',
  '/etc/containers/certs.d',
];

/** The directory for every host without its own. */
export const defaultDirectory = '_default';

/**
 * What the directories under `root` say about a host, or undefined. Tried in order: `HOST_PORT_`, `HOST:PORT`, `_default`, as
 * containerd does. A directory without hosts.toml is one of Docker's: `*.crt` authorities, `*.cert` with `*.key` for the client.
 * Synchronous on purpose: a stat of a file in /etc costs less than a turn of the event loop, and is made for every request, so
 * that edits count at once.
 * @throws INVALID_ARGUMENT for a hosts.toml that cannot be read, naming file, key and line
 */
export class CertsDirectory {
  readonly #cache = new Map<string, FoundSettings>();

  constructor(private readonly root: string) {}

  find(host: string, fallback: boolean): FoundSettings | undefined {
    for (const name of fallback ? [defaultDirectory] : directoryNames(host)) {
      const directory = join(this.root, name);
      const kind = statSync(directory, { throwIfNoEntry: false });
      if (kind?.isDirectory()) return this.#read(directory);
    }
    return undefined;
  }

  #read(directory: string): FoundSettings {
    const file = join(directory, 'hosts.toml');
    const fingerprint = stamp(file) ?? stamp(directory)!;
    const cached = this.#cache.get(directory);
    if (cached?.fingerprint === fingerprint) return cached;
    const found = { directory, fingerprint, settings: load(directory, file) };
    this.#cache.set(directory, found);
    return found;
  }
}

function load(directory: string, file: string): HostSettings {
  let content: string;
  try {
    content = readFileSync(file, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return dockerSettings(directory);
    throw new LazylayerError('INVALID_ARGUMENT', `${file}: expected a file that can be read`, { cause: error });
  }
  return parseHostsToml(file, content);
}

function dockerSettings(directory: string): EndpointSettings {
  const names = readdirSync(directory).sort();
  const ca = names.filter((n) => n.endsWith('.crt')).map((n) => join(directory, n));
  const client = names
    .filter((n) => n.endsWith('.cert'))
    .map((n) => [join(directory, n), join(directory, n.replace(/\.cert$/, '.key'))]);
  return { ...(ca.length > 0 && { ca }), ...(client.length > 0 && { client }) };
}

/** No colons first: not every file system has them. */
function directoryNames(host: string): string[] {
  const port = /^(.*):(\d+)$/.exec(host);
  return port === null ? [host] : [`${port[1]}_${port[2]}_`.replaceAll(':', ''), host];
}

/** Identity and age of a file, or undefined where there is none. */
export function stamp(path: string): string | undefined {
  const stat = statSync(path, { throwIfNoEntry: false, bigint: true });
  return stat === undefined ? undefined : `${stat.dev}:${stat.ino}:${stat.size}:${stat.mtimeNs}`;
}

/** Paths in hosts.toml are relative to its directory. */
export function resolvePath(directory: string, path: string): string {
  return isAbsolute(path) ? path : join(directory, path);
}
