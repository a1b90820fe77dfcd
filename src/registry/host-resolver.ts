import { readFileSync } from 'node:fs';
import { LazylayerError } from '../errors.js';
import { CertsDirectory, defaultDirectory, resolvePath, stamp, type FoundSettings } from './certs-d.js';
import type { ConnectionProfile } from './dispatchers.js';
import { parseDuration, serverUrl } from './hosts-toml.js';
import {
  allCapabilities,
  defaultEndpoint,
  defaultRegistry,
  defaultServer,
  plainConnection,
  type Capability,
  type Endpoint,
  type EndpointSettings,
  type HostsConfig,
} from './hosts.js';

export interface HostOptions {
  readonly hosts?: HostsConfig;
  readonly certsDirs?: readonly string[];
  readonly plainHttp?: readonly string[];
}

interface Built {
  readonly fingerprint: string;
  /** Certificate files, whose changes count like those of hosts.toml. */
  readonly files: readonly string[];
  readonly endpoints: readonly Endpoint[];
}

/**
 * Turns a registry host into the endpoints to ask, in order. The first that knows the host wins: its entry in the configuration,
 * its directory in certs.d, `_default` in certs.d, `_default` in the configuration.
 */
export class HostResolver {
  readonly #directories: readonly CertsDirectory[];
  readonly #built = new Map<string, Built>();

  constructor(private readonly options: HostOptions) {
    this.#directories = (options.certsDirs ?? []).map((root) => new CertsDirectory(root));
  }

  /** @throws INVALID_ARGUMENT that names the file, the key and the line that is wrong */
  endpoints(host: string): readonly Endpoint[] {
    const found = this.#find(host);
    const built = this.#built.get(host);
    if (built !== undefined && built.fingerprint === fingerprintOf(found, built.files)) return built.endpoints;
    const files = new Set<string>();
    const endpoints = this.#build(host, found, files);
    const read = [...files];
    this.#built.set(host, { endpoints, files: read, fingerprint: fingerprintOf(found, read) });
    return endpoints;
  }

  #find(host: string): FoundSettings | undefined {
    const { hosts = {} } = this.options;
    const configured = (name: string): FoundSettings | undefined =>
      Object.hasOwn(hosts, name)
        ? { directory: process.cwd(), settings: hosts[name], fingerprint: 'configuration' }
        : undefined;
    const inDirectories = (fallback: boolean) => {
      for (const directory of this.#directories) {
        const found = directory.find(host, fallback);
        if (found !== undefined) return found;
      }
      return undefined;
    };
    return configured(host) ?? inDirectories(false) ?? inDirectories(true) ?? configured(defaultDirectory);
  }

  #build(host: string, found: FoundSettings | undefined, files: Set<string>): Endpoint[] {
    if (found === undefined) return [defaultEndpoint(host, this.options.plainHttp)];
    const { server, hosts = [], ...own } = found.settings;
    const last = server ?? defaultServer(host, this.options.plainHttp ?? []);
    return [...hosts.map((h) => [h.url, h] as const), [last, own] as const].map(([url, settings]) =>
      endpointOf(host, url, settings, found.directory, files),
    );
  }
}

function fingerprintOf(found: FoundSettings | undefined, files: readonly string[]): string {
  return [found?.directory, found?.fingerprint, ...files.map(stamp)].join(' ');
}

function endpointOf(
  host: string,
  server: string,
  settings: EndpointSettings,
  directory: string,
  files: Set<string>,
): Endpoint {
  const url = serverUrl(server);
  if (url === undefined)
    throw new LazylayerError('INVALID_ARGUMENT', `${host}: expected a http or https URL as server, found another text`);
  const path = url.pathname.replace(/\/+/g, '/').replace(/\/$/, '');
  const prefix = settings.override_path || path.endsWith('/v2') ? path : `${path}/v2`;
  const own = url.host === host || (host === defaultRegistry.host && url.host === defaultRegistry.endpoint);
  return {
    base: `${url.origin}${prefix}`,
    capabilities: capabilitiesOf(settings),
    headers: headersOf(settings),
    connection: connectionOf(settings, directory, files),
    credentialHost: own ? host : url.host,
    ...(!own && { namespace: host }),
  };
}

function capabilitiesOf({ capabilities = [] }: EndpointSettings): ReadonlySet<Capability> {
  if (capabilities.length === 0) return allCapabilities;
  return new Set(capabilities.filter((c) => c === 'pull' || c === 'resolve'));
}

function headersOf({ header = {} }: EndpointSettings): Record<string, string> {
  return Object.fromEntries(
    Object.entries(header).map(([name, value]) => [
      name.toLowerCase(),
      typeof value === 'string' ? value : value.join(', '),
    ]),
  );
}

function connectionOf(settings: EndpointSettings, directory: string, files: Set<string>): ConnectionProfile {
  const read = (path: string): string => {
    const full = resolvePath(directory, path);
    files.add(full);
    try {
      return readFileSync(full, 'utf8');
    } catch (error) {
      throw new LazylayerError(
        'INVALID_ARGUMENT',
        `${full}: expected a PEM file named in certs.d or the configuration`,
        {
          cause: error,
        },
      );
    }
  };
  const { ca = [], client = [], skip_verify: skipVerify, dial_timeout: dial } = settings;
  const authorities = (typeof ca === 'string' ? [ca] : ca).map(read);
  const clients = (typeof client === 'string' ? [client] : client).map((entry) => {
    const [certPath, keyPath = ''] = typeof entry === 'string' ? [entry] : entry;
    const cert = read(certPath);
    return { cert, key: keyPath === '' ? cert : read(keyPath) };
  });
  const timeout = typeof dial === 'string' ? parseDuration(dial) : dial;
  if (authorities.length === 0 && clients.length === 0 && !skipVerify && timeout === undefined) return plainConnection;
  return {
    ...(authorities.length > 0 && { ca: authorities }),
    ...(clients.length > 0 && { clients }),
    ...(skipVerify && { skipVerify }),
    ...(timeout !== undefined && { connectTimeoutMs: timeout }),
  };
}
