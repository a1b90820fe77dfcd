import { nodeNumber } from '../fs/nodes.js';
import { ServedTree } from '../fs/served-tree.js';
import { Message, type Negotiated } from '../fuse/codec.js';
import type { DeferredLookup, DeferredRead, DeferredUse, DeferredWake } from '../fuse/session-output.js';
import { Count } from '../fuse/messages.js';
import { Session } from '../fuse/session.js';
import { FIXTURE_CHUNK, FixtureLayer, type FixtureEntry } from './fs-fixture.js';

/** The files of the layer that the session serves. */
export const entries: FixtureEntry[] = [
  { name: 'file', size: 2 * FIXTURE_CHUNK + 10, mtime: -3, mtimeNsec: 7, mode: 0o4751, uid: 2 ** 32 - 2, gid: 9 },
  { name: 'cached', size: 100, cached: true },
  { name: 'attributed', xattrs: { 'user.a': 'value' } },
  { name: 'link', type: 'symlink', link: 'file' },
  { name: 'last', size: 100 },
  ...Array.from({ length: 300 }, (_, i) => ({ name: `many/${'x'.repeat(i % 200)}${i}` })),
];

export const SLOT = 3;

export interface Reply {
  readonly error: number;
  readonly unique: bigint;
  readonly body: Buffer;
}

/** A session over one layer, whose output is kept, and whose input `send` makes. */
export function startSession(resolves = false) {
  const layer = new FixtureLayer(entries);
  const tree = new ServedTree({ resolves });
  tree.attach(layer.view(SLOT));
  const replies: Reply[] = [];
  const deferred: DeferredRead[] = [];
  const lookups: DeferredLookup[] = [];
  const uses: DeferredUse[] = [];
  const wakes: DeferredWake[] = [];
  const interrupts: number[][] = [];
  const negotiated: Negotiated[] = [];
  const counts = new Uint32Array(Count.size);
  const touched = new Uint8Array(16);
  const session = new Session(
    tree,
    {
      write(bytes, length) {
        const reply = Buffer.from(bytes.subarray(0, length));
        if (reply.readUInt32LE(0) !== length)
          throw new Error(`a reply of ${length} bytes says ${reply.readUInt32LE(0)}`);
        replies.push({ error: 0 - reply.readInt32LE(4), unique: reply.readBigUInt64LE(8), body: reply.subarray(16) });
      },
      deferRead: (read) => void deferred.push(read),
      deferLookup: (lookup) => void lookups.push(lookup),
      deferUse: (use) => void uses.push(use),
      deferWake: (wake) => void wakes.push(wake),
      interrupt: (low, high) => void interrupts.push([low, high]),
      negotiated: (n) => void negotiated.push(n),
    },
    counts,
    touched,
  );
  const send = (opcode: number, node: number, body: Buffer | string = '', unique = 2n): Reply | undefined => {
    const request = new Message(16 * 1024);
    const bytes = Buffer.concat([Buffer.alloc(40), Buffer.from(body as string, 'latin1')]);
    bytes.writeUInt32LE(bytes.byteLength, 0);
    bytes.writeUInt32LE(opcode, 4);
    bytes.writeBigUInt64LE(unique, 8);
    bytes.writeBigUInt64LE(BigInt(node), 16);
    bytes.writeUInt32LE(77, 32);
    request.bytes.set(bytes);
    session.handle(request, bytes.byteLength);
    return replies.pop();
  };
  return {
    layer,
    tree,
    session,
    replies,
    deferred,
    lookups,
    uses,
    wakes,
    interrupts,
    negotiated,
    counts,
    touched,
    send,
  };
}

export const inSlot = (inode: number) => nodeNumber(SLOT, inode);

/** fuse_read_in, which READDIR has too. */
export function readIn(offset: number, size: number): Buffer {
  const body = Buffer.alloc(40);
  body.writeBigUInt64LE(BigInt(offset), 8);
  body.writeUInt32LE(size, 16);
  return body;
}
