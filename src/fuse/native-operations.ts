import { isUtf8 } from 'node:buffer';
import { readSync } from 'node:fs';
import { constants } from 'node:os';
import { errnoOf, VerificationError } from '../errors.js';
import { ASLEEP, blankAttributes, blankEntry, DEFERRED, inodeOf, slotOf } from '../fs/nodes.js';
import type { Attributes, CachedRange } from '../fs/nodes.js';
import { nodeAt } from '../fs/paths.js';
import { NAME_MAX, type ServedTree } from '../fs/served-tree.js';
import { S_IFDIR } from '../toc/tree.js';
import type { NativeOperations, StatWords } from './fuse-native.js';
import { wallClock } from '../util/wall-clock.js';
import type { ReadRing } from './read-ring.js';
import type { FuseHost } from './server.js';

const { EILSEQ, EIO, ENOENT, ERANGE } = constants.errno;

type Signal = Parameters<NativeOperations['_op_getattr']>[0];

/** Counts of a native server, filled in by its operations. */
export interface NativeCounts {
  requests: number;
  cachedReads: number;
  deferredReads: number;
}

/** What operations leave for their server to see. */
export interface NativeTraces {
  readonly counts: NativeCounts;
  /** What the host is asked for. */
  readonly waiting: Set<AbortController>;
  /** Slots of which something was asked for. */
  readonly touched: Set<number>;
  /** Is told of each READ that the cache answers. */
  ring: ReadRing | undefined;
}

/** Operations by path over a served tree, in the shape that fuse-native calls them. `inodes` makes 32-bit inode numbers. */
export function nativeOperations(
  tree: ServedTree,
  host: FuseHost,
  inodes: (slot: number, inode: number) => number,
  traces: NativeTraces,
): NativeOperations {
  const { counts, waiting, touched } = traces;
  const attributes = blankAttributes();
  const range: CachedRange = { fd: -1, position: 0 };

  const find = (path: string): number => {
    counts.requests++;
    const node = nodeAt(tree, Buffer.from(path));
    if (node >= 0) touched.add(slotOf(node));
    return node;
  };
  /** Has a layer woken: 0, or what kept it asleep. */
  const wake = async (slot: number): Promise<number> => {
    const abort = new AbortController();
    waiting.add(abort);
    try {
      await host.wake?.(slot, abort.signal);
      return tree.asleep(slot) ? -EIO : 0;
    } catch (error) {
      if (!abort.signal.aborted) host.onError?.(error);
      return -errnoOf(error);
    } finally {
      waiting.delete(abort);
    }
  };
  /** Goes on with the node at a path, or a negated errno: at once, or when the layer that the path leads into is awake. */
  const at = (path: string, goOn: (node: number) => void): void => {
    const slot = Number(/^\/l\/(\d+)/.exec(path)?.[1] ?? 0);
    if (!tree.asleep(slot)) return goOn(find(path));
    void wake(slot).then((status) => goOn(status < 0 ? status : find(path)));
  };
  const stat = (node: number): StatWords | number => {
    const result = tree.getattr(slotOf(node), inodeOf(node), attributes);
    // In a listing, of which libfuse takes the type and the number alone.
    if (result === ASLEEP)
      return statWords({ ...blankAttributes(), mode: S_IFDIR | 0o755 }, inodes(slotOf(node), inodeOf(node)));
    return result < 0 ? result : statWords(attributes, inodes(slotOf(node), inodeOf(node)));
  };
  /** Lets the host make a name, then looks again. libfuse comes here with every name of a path in turn. */
  const resolve = async (path: string): Promise<number> => {
    const abort = new AbortController();
    waiting.add(abort);
    try {
      await host.resolve?.(path.slice(1).split('/'), abort.signal);
      const node = find(path);
      return node === DEFERRED ? -ENOENT : node;
    } catch (error) {
      if (!abort.signal.aborted) host.onError?.(error);
      return -errnoOf(error);
    } finally {
      waiting.delete(abort);
    }
  };
  const readHost = async (node: number, into: Buffer, offset: number, size: number): Promise<number> => {
    const [slot, inode] = [slotOf(node), inodeOf(node)];
    const abort = new AbortController();
    counts.deferredReads++;
    waiting.add(abort);
    try {
      const bytes = await host.read(slot, inode, offset, size, abort.signal, 0);
      if (bytes.byteLength !== size)
        throw new VerificationError('bytes of a file', `${size} bytes`, `${bytes.byteLength} bytes`);
      into.set(bytes);
      return size;
    } catch (error) {
      if (!abort.signal.aborted) host.onError?.(error, { slot, inode, offset, size });
      return -errnoOf(error);
    } finally {
      waiting.delete(abort);
    }
  };
  /** Bytes into `into`, at once, or later. */
  const read = (node: number, into: Buffer, offset: number): number | Promise<number> => {
    if (node < 0) return node;
    const [slot, inode] = [slotOf(node), inodeOf(node)];
    const start = traces.ring === undefined ? 0 : wallClock();
    const size = tree.read(slot, inode, offset, into.byteLength, range);
    if (size < 0 && size !== DEFERRED) return size;
    if (size >= 0 && copy(range, into, size)) {
      counts.cachedReads++;
      traces.ring?.put(slot, inode, offset, size, start, wallClock());
      return size;
    }
    tree.getattr(slot, inode, attributes);
    return readHost(node, into, offset, Math.min(into.byteLength, attributes.size - offset));
  };

  return {
    _op_getattr(signal, path) {
      const answer = (node: number) => {
        const words = node < 0 ? node : stat(node);
        if (typeof words === 'number') signal(words, new Uint32Array(18));
        else signal(0, words);
      };
      at(path, (node) => {
        if (node === DEFERRED) void resolve(path).then(answer);
        else answer(node);
      });
    },
    _op_readdir(signal, path) {
      at(path, (directory) => {
        if (directory < 0) return signal(directory, [], []);
        const entry = blankEntry();
        const names: string[] = [];
        const stats: StatWords[] = [];
        for (let offset = 0; ; offset = entry.next) {
          const found = tree.readdir(slotOf(directory), inodeOf(directory), offset, entry);
          if (found < 0) return signal(found, [], []);
          if (found === 0) break;
          const name = Buffer.from(entry.name.subarray(entry.nameStart, entry.nameEnd));
          if (!isUtf8(name)) continue;
          const words = stat(entry.node);
          if (typeof words === 'number') continue;
          names.push(name.toString());
          stats.push(words);
        }
        signal(0, names, stats);
      });
    },
    _op_readlink(signal, path) {
      at(path, (node) => {
        const target = node < 0 ? node : tree.readlink(slotOf(node), inodeOf(node));
        if (typeof target === 'number') signal(target, '');
        else if (isUtf8(Buffer.from(target))) signal(0, Buffer.from(target).toString());
        else signal(-EILSEQ, '');
      });
    },
    _op_statfs(signal) {
      counts.requests++;
      const statistics = { bytes: 0, files: 0 };
      tree.statfs(statistics);
      const words = new Uint32Array(11);
      words[0] = words[1] = 4096;
      words[2] = Math.ceil(statistics.bytes / 4096);
      words[5] = statistics.files;
      words[10] = NAME_MAX;
      signal(0, words);
    },
    _op_getxattr(signal, path, name, into) {
      const bytes = Buffer.from(name);
      at(path, (node) => {
        const value = node < 0 ? node : tree.getxattr(slotOf(node), inodeOf(node), bytes, 0, bytes.byteLength);
        sized(signal, value, into);
      });
    },
    _op_listxattr(signal, path, into) {
      at(path, (node) => sized(signal, node < 0 ? node : tree.listxattr(slotOf(node), inodeOf(node)), into));
    },
    _op_read(signal, path, _fd, into, _length, low, high) {
      const done = (status: number) => signal(status, 0, into.buffer);
      at(path, (node) => {
        const result = read(node, into, high * 2 ** 32 + low);
        if (typeof result === 'number') done(result);
        else void result.then(done);
      });
    },
  };
}

/** An empty buffer asks for the length. */
function sized(signal: Signal, value: Uint8Array | number, into: Buffer): void {
  if (typeof value === 'number') return signal(value, into.buffer);
  if (into.byteLength > 0 && into.byteLength < value.byteLength) return signal(-ERANGE, into.buffer);
  if (into.byteLength > 0) into.set(value);
  signal(value.byteLength, into.buffer);
}

function copy({ fd, position }: CachedRange, into: Buffer, size: number): boolean {
  try {
    return size === 0 || readSync(fd, into, 0, size, position) === size;
  } catch {
    return false;
  }
}

/*
 * By words: 0 mode  1 uid  2 gid  3 size u64  5 dev  6 nlink  7 ino  8 rdev  9 blksize  10 blocks u64
 * 12 atime, 14 mtime, 16 ctime, each u64 milliseconds since 1970: what is finer, or earlier, is lost
 */
function statWords(a: Attributes, ino: number): StatWords {
  const words = new Uint32Array(18);
  const u64 = (at: number, value: number) => {
    words[at] = value;
    words[at + 1] = Math.floor(value / 2 ** 32);
  };
  words[0] = a.mode;
  words[1] = a.uid;
  words[2] = a.gid;
  u64(3, a.size);
  words[6] = a.nlink;
  words[7] = ino;
  words[8] = a.rdev;
  words[9] = 4096;
  u64(10, Math.ceil(a.size / 512));
  const milliseconds = Math.max(0, a.mtime * 1000 + Math.floor(a.mtimeNsec / 1e6));
  for (const at of [12, 14, 16]) u64(at, milliseconds);
  return words;
}
