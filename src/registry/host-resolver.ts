import { defaultEndpoint, type Endpoint, type HostsConfig } from './hosts.js';

/** Turns a registry host into the endpoints to ask, in order. */
export class HostResolver {
  constructor(
    private readonly options: {
      readonly hosts?: HostsConfig;
      readonly certsDirs?: readonly string[];
      readonly plainHttp?: readonly string[];
    },
  ) {}

  endpoints(host: string): readonly Endpoint[] {
    return [defaultEndpoint(host, this.options.plainHttp)];
  }
}
