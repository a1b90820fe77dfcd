import { resolve } from 'node:path';
import type { EndpointSettings, HostsConfig, HostSettings } from '../registry/hosts.js';

/** The same hosts with every path of `ca` and `client` absolute: who reads them runs in a directory of its own. */
export function absoluteHosts(hosts: HostsConfig, directory: string): HostsConfig {
  return Object.fromEntries(Object.entries(hosts).map(([name, host]) => [name, absoluteHost(host, directory)]));
}

function absoluteHost(host: HostSettings, directory: string): HostSettings {
  const { hosts, ...own } = host;
  return {
    ...absoluteEndpoint(own, directory),
    ...(hosts && { hosts: hosts.map((mirror) => absoluteEndpoint(mirror, directory)) }),
  };
}

function absoluteEndpoint<E extends EndpointSettings>(endpoint: E, directory: string): E {
  // An empty name is not a path: as a key it says that the key is in the certificate's file.
  const absolute = (path: string) => (path === '' ? path : resolve(directory, path));
  const { ca, client } = endpoint;
  return {
    ...endpoint,
    ...(ca !== undefined && { ca: typeof ca === 'string' ? absolute(ca) : ca.map(absolute) }),
    ...(client !== undefined && {
      client:
        typeof client === 'string'
          ? absolute(client)
          : client.map((entry) => (typeof entry === 'string' ? absolute(entry) : entry.map(absolute))),
    }),
  };
}
