import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import test, { type ExecutionContext } from 'ava';
import { LazylayerError } from '../errors.js';
import type { MountInfo, MountProgress, MountRequest } from '../mount/request.js';
import { temporaryDirectory } from '../testing/temporary.js';
import { until } from '../testing/until.js';
import { DaemonClient, findDaemon } from './client.js';
import { listenControl, type ControlHandler } from './control.js';
import { layoutOf } from './layout.js';
import type { Trace } from './trace-events.js';

const unexpected = async (): Promise<never> => {
  throw new Error('nobody asks for this here');
};

async function daemon(t: ExecutionContext, handler: Partial<ControlHandler> = {}, settleMs?: number) {
  const root = await temporaryDirectory(t, 'client');
  const servers: Server[] = [];
  const end = (server: Server) => {
    server.close();
    server.closeAllConnections();
  };
  t.teardown(() => servers.forEach(end));
  const path = layoutOf(root).control;
  const listen = async () => {
    const server = await listenControl(path, {
      mount: unexpected,
      pull: unexpected,
      umount: unexpected,
      list: async () => [],
      gone: unexpected,
      trace: unexpected,
      giveCredentials: () => void unexpected(),
      cacheUsage: unexpected,
      cachePrune: unexpected,
      ...handler,
    });
    servers.push(server);
    return server;
  };
  return { root, path, listen, end, servers, client: new DaemonClient(root, settleMs) };
}

const request: MountRequest = { image: 'imagé', target: '/mnt' } as MountRequest;
const info = { image: 'imagé', target: '/mnt', layers: 3 } as MountInfo;
const warning = (message: string): MountProgress => ({ kind: 'warning', message });

test('a mount is told of step by step, in any letters, and leaves no connection', async (t) => {
  const asked: MountRequest[] = [];
  const messages = ['é'.repeat(100_000), '', 'two\nlines'];
  const { listen, client } = await daemon(t, {
    mount: async (given, onProgress) => {
      asked.push(given);
      for (const message of messages) onProgress(warning(message));
      return info;
    },
  });
  const server = await listen();
  const told: MountProgress[] = [];
  t.deepEqual(await client.mount(request, { onProgress: (progress) => told.push(progress) }), info);
  t.deepEqual(asked, [request]);
  t.deepEqual(told, messages.map(warning));
  server.close();
  await once(server, 'close');
});

test('errors arrive with their code, from a mount and from every other request', async (t) => {
  const fail = async (): Promise<never> => {
    throw new LazylayerError('BUSY', 'it is in use');
  };
  const { listen, client } = await daemon(t, { mount: fail, umount: fail, cachePrune: fail });
  await listen();
  for (const asking of [client.mount(request), client.umount('/mnt'), client.cachePrune({ all: true })])
    await t.throwsAsync(asking, { instanceOf: LazylayerError, code: 'BUSY', message: 'it is in use' });
});

test('one who gives up gets the reason at once, and the daemon hears of it', async (t) => {
  const heard: unknown[] = [];
  let started = 0;
  const hang = (signal: AbortSignal) =>
    new Promise<never>((_, reject) => {
      started++;
      signal.addEventListener('abort', () => {
        heard.push((signal.reason as LazylayerError).code);
        reject(signal.reason as Error);
      });
    });
  const { listen, client } = await daemon(t, {
    mount: (_request, onProgress, signal) => {
      onProgress(warning('it has begun'));
      return hang(signal);
    },
    gone: (_target, signal) => hang(signal),
  });
  await listen();
  const reason = new LazylayerError('ABORTED', 'interrupted');
  // Once while the answer is awaited, once while it is being read.
  const inMount = new AbortController();
  const mounting = client.mount(request, { signal: inMount.signal, onProgress: () => inMount.abort(reason) });
  await t.throwsAsync(mounting, { is: reason });
  const inGone = new AbortController();
  const waiting = client.waitGone('/mnt', inGone.signal);
  await until(() => started >= 2);
  inGone.abort(reason);
  await t.throwsAsync(waiting, { is: reason });
  await until(() => heard.length >= 2);
  t.deepEqual(heard, ['ABORTED', 'ABORTED']);
  await t.throwsAsync(client.mount(request, { signal: inGone.signal }), { is: reason });
  t.is(started, 2);
});

test('a daemon that ends while it mounts is told of', async (t) => {
  const { path, client, servers } = await daemon(t);
  const server = createServer((_request, response) => {
    response.write(`${JSON.stringify({ progress: warning('soon') })}\n{"mou`, () => response.destroy());
  });
  servers.push(server);
  await once(server.listen(path), 'listening');
  const told: MountProgress[] = [];
  await t.throwsAsync(client.mount(request, { onProgress: (progress) => told.push(progress) }), {
    code: 'UNAVAILABLE',
    message: /^the daemon ended before it was done/,
  });
  t.is(told.length, 1);
});

test('a daemon that gives up because it ends does not look like an interruption', async (t) => {
  const { listen, client } = await daemon(t, {
    mount: () => Promise.reject(new LazylayerError('ABORTED', 'the process is ending')),
  });
  await listen();
  await t.throwsAsync(client.mount(request), { code: 'UNAVAILABLE', message: /^the daemon ended before it was done/ });
});

test('waiting for a mount to go outlives the process that serves it', async (t) => {
  const asked: string[] = [];
  const { listen, client, end } = await daemon(t, {
    gone: (target, signal) => {
      asked.push(target);
      if (asked.length > 1) return Promise.resolve();
      return new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason as Error)));
    },
  });
  const first = await listen();
  const waiting = client.waitGone('/a mount & more');
  await until(() => asked.length > 0);
  end(first);
  await once(first, 'close');
  await listen();
  await waiting;
  t.deepEqual(asked, ['/a mount & more', '/a mount & more']);
});

test('waiting for a mount to go outlives any number of them; with none, it is over', async (t) => {
  let asked = 0;
  const hang = (_target: string, signal: AbortSignal) =>
    new Promise<never>((_, reject) => {
      asked++;
      signal.addEventListener('abort', () => reject(signal.reason as Error));
    });
  const { listen, client, end } = await daemon(t, { gone: hang }, 1500);
  let over = false;
  const waiting = client.waitGone('/mnt').then(() => (over = true));
  for (let life = 1; life <= 2; life++) {
    const server = await listen();
    await until(() => asked === life);
    await sleep(1700); // longer than nobody may listen
    end(server);
    await once(server, 'close');
    t.false(over);
  }
  await waiting;
  t.is(asked, 2);
});

const trace: Trace = {
  begin: 1000.5,
  end: 2000.25,
  layers: [{ slot: 1, digest: 'sha256:0', bytes: 10, readBytes: 5 }],
  files: [{ slot: 1, inode: 7, path: '/é\n<b>', bytes: 3 }],
  reads: Array.from({ length: 5000 }, (_, i) => ({
    slot: 1,
    inode: 7,
    offset: i,
    length: 1,
    start: 1001,
    end: 1002,
    source: 'network' as const,
  })),
  requests: [{ url: 'http://localhost/', start: 1001, end: 1002, bytes: 1 }],
  dropped: 4,
};

test('a trace lasts until it is finished, and arrives whole', async (t) => {
  const ends: unknown[] = [];
  const { listen, client } = await daemon(t, {
    trace: async (ended, onBegin) => {
      onBegin(trace.begin);
      ends.push(await ended);
      return trace;
    },
  });
  const server = await listen();
  await using recording = await client.trace();
  await sleep(20);
  t.deepEqual(ends, []);
  t.deepEqual(await recording.finish(), trace);
  await using other = await client.trace();
  t.deepEqual(await other.finish(1500.5), trace);
  t.deepEqual(ends, [undefined, 1500.5]);
  server.close();
  await once(server, 'close');
});

test('a trace that nobody waits for any more ends; one that is refused says why', async (t) => {
  const heard: unknown[] = [];
  let busy = false;
  const { listen, client, end } = await daemon(t, {
    trace: async (ended, onBegin) => {
      if (busy) throw new LazylayerError('BUSY', 'it is being traced');
      onBegin(0);
      await ended.catch((error: unknown) => heard.push(error));
      return trace;
    },
  });
  const server = await listen();
  const left = await client.trace();
  await left[Symbol.asyncDispose]();
  await until(() => heard.length > 0);
  busy = true;
  await t.throwsAsync(client.trace(), { code: 'BUSY', message: 'it is being traced' });
  busy = false;
  await using lost = await client.trace();
  end(server);
  await t.throwsAsync(lost.finish(), { code: 'UNAVAILABLE', message: /^the daemon ended while it was being traced/ });
});

test('a daemon is found where one listens', async (t) => {
  const { root, listen, end } = await daemon(t);
  t.is(await findDaemon(root), undefined);
  const server = await listen();
  t.deepEqual(await (await findDaemon(root))?.list(), []);
  end(server);
  t.is(await findDaemon(root), undefined);
});
