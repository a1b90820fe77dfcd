import { execFileSync } from 'node:child_process';
import { readSync } from 'node:fs';
import type { Negotiated } from '../src/fuse/codec.js';
import { serveConnection } from '../src/fuse/kernel-server.js';
import { mountNative } from '../src/fuse/native-server.js';
import type { FuseHost, FuseServer } from '../src/fuse/server.js';
import type { References } from '../src/fs/served-tree.js';
import { LazylayerError } from '../src/errors.js';
import { FixtureLayer, FIXTURE_CHUNK } from '../src/testing/fs-fixture.js';
import { lower, REFERENCE, upper } from './fs-layers.js';
import { Gate } from '../src/testing/gate.js';

/*
 * The process that serves a mount while the tests, in another one, use it. Started with its setup as JSON; a connection comes as
 * descriptor 4. Says `ready`, then obeys commands, each of which it answers.
 */

export interface ServerSetup {
  readonly backend: 'kernel' | 'fuse-native';
  readonly mountpoint: string;
  readonly resume?: Negotiated;
}

export interface Command {
  readonly id: number;
  readonly name:
    | 'stall'
    | 'release'
    | 'fail'
    | 'waiting'
    | 'stats'
    | 'block'
    | 'children'
    | 'attach'
    | 'detach'
    | 'dispose'
    | 'negotiated';
  /** A file, for those that concern one; a slot for attach and detach. */
  readonly path?: string;
}

const setup = JSON.parse(process.argv[2]) as ServerSetup;
const layers = [new FixtureLayer(lower), new FixtureLayer(upper)];
layers[0].fill('half', FIXTURE_CHUNK, 2 * FIXTURE_CHUNK);

const stalls = new Map<string, Gate>();
const failures = new Set<string>();
const waiting = new Map<string, number>();

const host: FuseHost = {
  async read(slot, inode, offset, length, signal) {
    const layer = layers[slot - 1];
    const name = layer.nameOf(inode);
    waiting.set(name, (waiting.get(name) ?? 0) + 1);
    try {
      if (failures.delete(name)) throw new LazylayerError('UNAVAILABLE', `${name} fails once`);
      const aborted = new Gate<never>();
      signal.addEventListener('abort', () => aborted.reject(new LazylayerError('ABORTED', 'nobody waits')), {
        once: true,
      });
      await Promise.race([stalls.get(name)?.promise, aborted.promise]);
      return layer.content(inode, offset, length);
    } finally {
      waiting.set(name, waiting.get(name)! - 1);
    }
  },
  async resolve([name, digest]) {
    const reference = Buffer.from(name, 'base64').toString();
    if (!reference.startsWith('registry.test/')) return;
    if (reference.includes('broken')) throw new LazylayerError('UNAVAILABLE', `${reference} is broken`);
    await stalls.get(reference)?.promise;
    const layers = digest === undefined ? [] : [{ digest, slot: 2 }];
    await server.setReference(reference, layers);
  },
};

const references: References = [{ reference: REFERENCE, layers: [{ digest: 'sha256:lower', slot: 1 }] }];
const options = {
  pool: '/pool/of/test',
  layers: [layers[0].view(1), layers[1].view(2)],
  references,
};

const server: FuseServer =
  setup.backend === 'kernel'
    ? await serveConnection({ fd: 4, mountpoint: setup.mountpoint }, host, { ...options, resume: setup.resume })
    : await mountNative(setup.mountpoint, host, options);

void server.ended.then(() => process.send?.({ event: 'ended' }));

async function obey({ name, path = '' }: Command): Promise<unknown> {
  switch (name) {
    case 'stall':
      return void stalls.set(path, new Gate());
    case 'release':
      stalls.get(path)?.resolve();
      return void stalls.delete(path);
    case 'fail':
      return void failures.add(path);
    case 'waiting':
      return waiting.get(path) ?? 0;
    case 'stats':
      return server.stats;
    case 'negotiated':
      return server.negotiated;
    case 'block':
      // The main thread stands still until a byte comes. It says so first: it could not afterwards.
      process.send!({ event: 'blocked' });
      return readSync(0, Buffer.alloc(1));
    case 'children':
      return execFileSync('ls', ['-l', '/proc/self/fd'], { encoding: 'utf8' });
    case 'attach':
      return server.attach(layers[0].view(Number(path)));
    case 'detach':
      return server.detach(Number(path));
    case 'dispose':
      return server[Symbol.asyncDispose]();
  }
}

process.on('message', (command: Command) => {
  obey(command).then(
    (result) => process.send?.({ id: command.id, result }),
    (error: Error) => process.send?.({ id: command.id, error: error.message }),
  );
});
process.on('disconnect', () => process.exit());
process.send!({ event: 'ready' });
