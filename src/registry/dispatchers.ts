import { rootCertificates } from 'node:tls';
import { Agent, ProxyAgent, type Dispatcher } from 'undici';
import { proxyFor } from './proxy.js';
import { StandbyConnector } from './standby.js';

/** What a connection to one endpoint needs besides its address. PEM texts, not paths. */
export interface ConnectionProfile {
  readonly ca?: readonly string[];
  readonly clients?: readonly { readonly cert: string; readonly key: string }[];
  readonly skipVerify?: boolean;
  readonly connectTimeoutMs?: number;
}

export interface Timeouts {
  /** Until a connection stands, TLS included, in milliseconds. */
  readonly connectMs: number;
  /** From the request until the answer's headers. */
  readonly headersMs: number;
  /** Between two pieces of a body. */
  readonly bodyMs: number;
}

/** Connections to one origin that may be open at a time. */
const connectionsPerOrigin = 32;
/** Longer than between two reads of a busy container, so that they find a warm connection. */
const keepAliveMs = 60_000;

/**
 * Pools of kept-alive connections: one undici agent for each connection profile and proxy, made at first use.
 * Proxies come from the environment as it is at each request.
 */
export class Dispatchers implements AsyncDisposable {
  /** By identity of the profile: endpoints keep theirs while their files do not change. */
  readonly #byProfile = new WeakMap<ConnectionProfile, Map<string | undefined, Dispatcher>>();
  readonly #agents = new Set<Dispatcher>();
  readonly #connectors: StandbyConnector[] = [];

  constructor(
    private readonly timeouts: Timeouts,
    private readonly env: Readonly<Record<string, string | undefined>> = process.env,
  ) {}

  for(url: URL, profile: ConnectionProfile): Dispatcher {
    const proxy = proxyFor(url, this.env);
    let agents = this.#byProfile.get(profile);
    if (agents === undefined) this.#byProfile.set(profile, (agents = new Map<string | undefined, Dispatcher>()));
    let agent = agents.get(proxy);
    if (agent === undefined) {
      agents.set(proxy, (agent = this.#create(proxy, profile)));
      this.#agents.add(agent);
    }
    return agent;
  }

  #create(proxy: string | undefined, profile: ConnectionProfile): Dispatcher {
    const timeout = profile.connectTimeoutMs ?? this.timeouts.connectMs;
    const tls = {
      timeout,
      ...(profile.ca && { ca: [...rootCertificates, ...profile.ca] }),
      ...(profile.clients && { cert: profile.clients.map((c) => c.cert), key: profile.clients.map((c) => c.key) }),
      ...(profile.skipVerify && { rejectUnauthorized: false }),
    };
    const options = { connections: connectionsPerOrigin, keepAliveTimeout: keepAliveMs };
    if (proxy === undefined) {
      const connector = new StandbyConnector(tls);
      this.#connectors.push(connector);
      return new Agent({ ...options, connect: connector.connect });
    }
    return new ProxyAgent({ ...options, uri: proxy, proxyTunnel: false, requestTls: tls, proxyTls: { timeout } });
  }

  /** Ends every connection at once, with the transfers on it. */
  async [Symbol.asyncDispose](): Promise<void> {
    const agents = [...this.#agents];
    this.#agents.clear();
    for (const connector of this.#connectors.splice(0)) connector.close();
    await Promise.all(agents.map((agent) => agent.destroy()));
  }
}
