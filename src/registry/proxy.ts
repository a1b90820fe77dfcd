import { BlockList, isIP } from 'node:net';

type Environment = Readonly<Record<string, string | undefined>>;

/** True for localhost, 127.0.0.0/8 and [::1], with or without a port: hosts that no proxy can reach on our behalf. */
export function isLoopback(host: string): boolean {
  const name = host.replace(/:\d+$/, '').toLowerCase();
  return name === 'localhost' || /^127\.\d+\.\d+\.\d+$/.test(name) || name === '[::1]';
}

/**
 * The proxy for a URL as Go's clients read it from the environment: `https_proxy` or `http_proxy` by the URL's scheme (upper case
 * too), none for loopback and for what `no_proxy` lists: `*`, host names with their subdomains, addresses, CIDR blocks, each with
 * an optional port.
 */
export function proxyFor(url: URL, env: Environment): string | undefined {
  const proxy = url.protocol === 'https:' ? (env.https_proxy ?? env.HTTPS_PROXY) : (env.http_proxy ?? env.HTTP_PROXY);
  if (proxy === undefined || proxy === '' || isLoopback(url.host)) return undefined;
  const entries = (env.no_proxy ?? env.NO_PROXY ?? '').split(/[,\s]+/).filter((e) => e !== '');
  if (entries.some((entry) => covers(entry, url))) return undefined;
  return proxy.includes('://') ? proxy : `http://${proxy}`;
}

function covers(entry: string, url: URL): boolean {
  if (entry === '*') return true;
  const host = url.hostname.replace(/^\[|\]$/g, '').toLowerCase();
  const cidr = /^([^/]+)\/(\d{1,3})$/.exec(entry);
  if (cidr !== null) return inBlock(host, cidr[1], Number(cidr[2]));
  if (isIP(entry) === 6) return host === entry.toLowerCase();
  const [, name, port] = /^(.*?)(?::(\d+))?$/.exec(entry.toLowerCase()) as unknown as [string, string, string?];
  if (port !== undefined && port !== (url.port || (url.protocol === 'https:' ? '443' : '80'))) return false;
  const bare = name.replace(/^\*?\./, '').replace(/^\[|\]$/g, '');
  return (bare === host && bare === name.replace(/^\[|\]$/g, '')) || host.endsWith(`.${bare}`);
}

function inBlock(host: string, address: string, bits: number): boolean {
  const family = isIP(address);
  if (family === 0 || isIP(host) !== family || bits > (family === 4 ? 32 : 128)) return false;
  const block = new BlockList();
  const name = family === 4 ? 'ipv4' : 'ipv6';
  block.addSubnet(address, bits, name);
  return block.check(host, name);
}
