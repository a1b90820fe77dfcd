import type { ConnectionProfile } from './dispatchers.js';
import { isLoopback } from './proxy.js';

export type Capability = 'pull' | 'resolve';

/** How one server of a host is reached: the keys of hosts.toml, under the same names in config.toml. */
export interface EndpointSettings {
  /** `pull`: content by digest. `resolve`: tags. `push` is known and not used. Default: all. */
  readonly capabilities?: readonly string[];
  /** Paths of PEM files with certificate authorities, trusted besides the system's. */
  readonly ca?: string | readonly string[];
  /** A PEM file with certificate and key, or pairs of files; an empty or missing key means that it is in the first. */
  readonly client?: string | readonly (string | readonly string[])[];
  readonly skip_verify?: boolean;
  readonly header?: Readonly<Record<string, string | readonly string[]>>;
  /** The URL's path is the whole prefix of the API: `/v2` is not appended. */
  readonly override_path?: boolean;
  /** Time limit of a connection: a Go duration such as `3s`, or milliseconds. */
  readonly dial_timeout?: string | number;
}

/** Where one registry host's content is looked for: `hosts` in order, then `server`, which the remaining keys describe. */
export interface HostSettings extends EndpointSettings {
  /** URL of the host's own registry. Default: the host, by HTTPS (localhost by HTTP). */
  readonly server?: string;
  readonly hosts?: readonly (EndpointSettings & { readonly url: string })[];
}

/** By registry host as references name it (`docker.io`, `localhost:5000`); `_default` is for every host without its own. */
export type HostsConfig = Readonly<Record<string, HostSettings>>;

/** One server that answers for a host, ready to be asked. */
export interface Endpoint {
  /** Scheme, host and API prefix, without a slash at the end: `https://registry-1.docker.io/v2`. */
  readonly base: string;
  readonly capabilities: ReadonlySet<Capability>;
  readonly headers: Readonly<Record<string, string>>;
  readonly connection: ConnectionProfile;
  /** The name that credentials for it are looked up by. */
  readonly credentialHost: string;
  /** Set for mirrors: the host that is asked for, sent as `?ns=`. */
  readonly namespace?: string;
  /** `base` is the address of the one blob that it has. Nobody logs in there. */
  readonly external?: boolean;
}

/** Where a descriptor's `urls` lead, in their order. What is neither http nor https is passed over, as OCI wants it. */
export function externalEndpoints(urls: readonly string[]): Endpoint[] {
  return urls
    .filter((url) => URL.canParse(url) && /^https?:$/.test(new URL(url).protocol))
    .map((base) => ({
      base,
      capabilities: pullOnly,
      headers: {},
      connection: plainConnection,
      credentialHost: '',
      external: true,
    }));
}

/** The registry behind the default host: the one place that knows its address. */
export const defaultRegistry = { host: 'docker.io', endpoint: 'registry-1.docker.io' } as const;

export const allCapabilities: ReadonlySet<Capability> = new Set<Capability>(['pull', 'resolve']);
const pullOnly: ReadonlySet<Capability> = new Set<Capability>(['pull']);
export const plainConnection: ConnectionProfile = {};

/** The host's own server where nothing else is configured. */
export function defaultEndpoint(host: string, plainHttp: readonly string[] = []): Endpoint {
  return {
    base: `${defaultServer(host, plainHttp)}/v2`,
    capabilities: allCapabilities,
    headers: {},
    connection: plainConnection,
    credentialHost: host,
  };
}

/** URL without a path. Loopback speaks plain HTTP, as Docker and containerd have it, but on port 443. */
export function defaultServer(host: string, plainHttp: readonly string[]): string {
  const name = host === defaultRegistry.host ? defaultRegistry.endpoint : host;
  const plain = plainHttp.includes(host) || (isLoopback(host) && !host.endsWith(':443'));
  return `${plain ? 'http' : 'https'}://${name}`;
}
