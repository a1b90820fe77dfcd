import { once } from 'node:events';
import { connect } from 'node:net';
import { codeOf, describeError, LazylayerError } from '../../errors.js';
import { formatReference, parseReference } from '../../image/reference.js';
import type { Network } from '../network.js';
import { ProxyHandle } from '../proxy.js';
import type { ProxyTarget } from '../shaping-proxy.js';

const isLoopback = (host: string) => /^(localhost|127\.\d+\.\d+\.\d+|\[::1\])(:\d+)?$/.test(host);

/**
 * A proxy before the one registry that all the images are in. What goes through it must be plain HTTP: clients would not take the
 * registry's certificate from an address on loopback.
 * @throws INVALID_ARGUMENT where the images are in several registries, or in one that is not spoken to over plain HTTP
 */
export async function proxyBefore(
  images: readonly string[],
  network: Network,
  plainHttp: boolean,
): Promise<ProxyHandle> {
  const hosts = [...new Set(images.map((image) => parseReference(image).host))];
  if (hosts.length > 1)
    throw new LazylayerError(
      'INVALID_ARGUMENT',
      `expected all images in one registry, found ${hosts.join(', ')}: the network is imitated before one`,
    );
  const [host] = hosts;
  if (!plainHttp && !isLoopback(host))
    throw new LazylayerError(
      'INVALID_ARGUMENT',
      `${host}: expected a registry over plain HTTP, such as one on localhost: copy the images there (skopeo copy), or say --plain-http`,
    );
  const { hostname, port } = new URL(`http://${host}`);
  const target = { host: hostname.replace(/^\[|\]$/g, ''), port: port === '' ? 80 : Number(port) };
  await checkReachable(host, target);
  return ProxyHandle.start(target, network);
}

/** A proxy takes connections whether its target does or not, and clients would tell of the proxy. */
async function checkReachable(host: string, target: ProxyTarget): Promise<void> {
  const socket = connect(target);
  try {
    await once(socket, 'connect', { signal: AbortSignal.timeout(REACHED_MS) });
  } catch (error) {
    throw new LazylayerError('UNAVAILABLE', `registry ${host} takes no connections (is it running?)`, { cause: error });
  } finally {
    socket.destroy();
  }
}
const REACHED_MS = 10_000;

/** What failed, with the name of the image's registry in place of the proxy's. */
export function toldByName(error: unknown, image: string, { port }: ProxyHandle): unknown {
  const text = describeError(error);
  const own = text.replaceAll(`127.0.0.1:${port}`, parseReference(image).host);
  return own === text ? error : new LazylayerError(codeOf(error), own);
}

/** The same image, asked for through the proxy. */
export function throughProxy(image: string, { port }: ProxyHandle): string {
  return formatReference({ ...parseReference(image), host: `127.0.0.1:${port}` });
}
