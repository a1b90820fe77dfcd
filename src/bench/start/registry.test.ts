import { createServer, type AddressInfo } from 'node:net';
import test from 'ava';
import { LazylayerError } from '../../errors.js';
import { unshaped } from '../network.js';
import { proxyBefore, throughProxy, toldByName } from './registry.js';

test('a registry that could not be measured is refused by its own name', async (t) => {
  const server = createServer().listen(0, '127.0.0.1');
  await new Promise((resolve) => server.once('listening', resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  const image = `localhost:${port}/a:1`;
  const refused = (images: string[]) => t.throwsAsync(proxyBefore(images, unshaped, false));
  t.like(await refused([image]), {
    code: 'UNAVAILABLE',
    message: `registry localhost:${port} takes no connections (is it running?)`,
  });
  t.like(await refused([image, 'localhost:1/a:1']), { code: 'INVALID_ARGUMENT' });
  t.like(await refused(['registry.example/a:1']), { code: 'INVALID_ARGUMENT' });
});

test("what failed is told with the registry's name in place of the proxy's, and by the same code", async (t) => {
  const server = createServer((socket) => socket.destroy()).listen(0, '127.0.0.1');
  await new Promise((resolve) => server.once('listening', resolve));
  const image = `localhost:${(server.address() as AddressInfo).port}/a:1`;
  await using proxy = await proxyBefore([image], unshaped, false);
  const asked = throughProxy(image, proxy);
  const error = new LazylayerError('NOT_FOUND', `ctr: ${asked}`, { cause: new Error(`GET ${asked}: gone`) });
  t.like(toldByName(error, image, proxy), { code: 'NOT_FOUND', message: `ctr: ${image}: GET ${image}: gone` });
  const other = new Error('something else');
  t.is(toldByName(other, image, proxy), other);
  await new Promise((resolve) => server.close(resolve));
});
