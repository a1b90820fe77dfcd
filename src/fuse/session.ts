import { constants } from 'node:os';
import type { LookedUp } from '../ahead/looked-up.js';
import { ASLEEP, DEFERRED, UPPER, blankAttributes, blankEntry, inodeOf, slotOf } from '../fs/nodes.js';
import type { CachedRange } from '../fs/nodes.js';
import type { ServedTree } from '../fs/served-tree.js';
import { pread } from '../util/syscalls.js';
import { wallClock } from '../util/wall-clock.js';
import * as codec from './codec.js';
import { Message, Opcode, OUT_HEADER } from './codec.js';
import { Count } from './messages.js';
import type { ReadRing } from './read-ring.js';
import type { DeferredRequest, DeferredUse, SessionOutput } from './session-output.js';

const { EINVAL, EIO, ENOENT, ENOSYS, EPROTO, ERANGE, EROFS, ESTALE } = constants.errno;

/** A request as it came. The device's buffer is used for the next. */
interface Parked {
  readonly message: Message;
  readonly length: number;
  /** It waits for a name, or for a use to be counted; else for a layer. */
  readonly named: boolean;
}

/** Layers never change; what lies above them may, within this many seconds. */
const UPPER_VALID = 1;
/** Messages of the reply buffer hold at most this much behind their header. */
const BODY = codec.MAX_READ;

/**
 * Answers the kernel's requests from the served tree. Every request gets exactly one reply through `output`, except those that
 * have none (FORGET) and those that are deferred. Nothing that the device can bring makes it throw.
 */
export class Session {
  /** Is told of each READ that the cache answers. */
  ring: ReadRing | undefined;
  /** Is told of each file of a layer that is found by name, of each READ, and of each directory that is listed. */
  lookedUp: LookedUp | undefined;
  /** Hears which process looks for a file of a layer. */
  lookedBy: ((slot: number, pid: number) => void) | undefined;
  readonly #tree: ServedTree;
  readonly #output: SessionOutput;
  readonly #counts: Uint32Array<ArrayBufferLike>;
  readonly #touched: Uint8Array<ArrayBufferLike>;
  /** Reused for every reply: a request is answered before the next is looked at. */
  readonly #reply = new Message(OUT_HEADER + BODY);
  readonly #body = this.#reply.bytes.subarray(OUT_HEADER);
  readonly #attributes = blankAttributes();
  readonly #entry = blankEntry();
  readonly #range: CachedRange = { fd: -1, position: 0 };
  readonly #parked = new Map<number, Parked>();
  /** The request that is being answered. */
  #request = new Message(codec.IN_HEADER);
  #length = 0;
  #uniqueLow = 0;
  #uniqueHigh = 0;
  /** Whoever makes names, or counts uses, was asked for this one already. */
  #named = false;
  #closed = false;

  /** `touched` is set to 1 at the slot of each request; what lies beyond its end is not noted. */
  constructor(
    tree: ServedTree,
    output: SessionOutput,
    counts: Uint32Array<ArrayBufferLike> = new Uint32Array(Count.size),
    touched: Uint8Array<ArrayBufferLike> = new Uint8Array(0),
  ) {
    this.#tree = tree;
    this.#output = output;
    this.#counts = counts;
    this.#touched = touched;
  }

  /** One request: bytes `[0, length)` of a message as the device gave it. */
  handle(message: Message, length: number): void {
    const { words } = message;
    if (length < codec.IN_HEADER || words[0] !== length) return;
    this.#counts[Count.requests]++;
    this.#touched[words[5]] = 1;
    this.#named = false;
    this.#answer(message, length);
  }

  #answer(message: Message, length: number): void {
    const { words } = message;
    this.#request = message;
    this.#length = length;
    this.#uniqueLow = words[2];
    this.#uniqueHigh = words[3];
    const inode = words[4];
    const slot = words[5];
    switch (words[1]) {
      case Opcode.LOOKUP:
        return this.#lookup(message, length, slot, inode);
      case Opcode.GETATTR:
        return this.#getattr(slot, inode);
      case Opcode.READ:
        return this.#read(message, length, slot, inode);
      case Opcode.READDIRPLUS:
        return this.#readdir(message, length, slot, inode, true);
      case Opcode.READDIR:
        return this.#readdir(message, length, slot, inode, false);
      case Opcode.READLINK:
        return this.#bytes(this.#tree.readlink(slot, inode));
      case Opcode.GETXATTR:
        return this.#getxattr(message, length, slot, inode);
      case Opcode.LISTXATTR:
        return this.#listxattr(message, length, slot, inode);
      case Opcode.STATFS:
        return this.#statfs();
      case Opcode.FORGET:
      case Opcode.BATCH_FORGET:
        // Node numbers are not handed out but computed: there is nothing to forget. These two have no reply.
        return;
      case Opcode.INTERRUPT:
        if (length >= codec.IN_HEADER + 8) this.#output.interrupt(words[10], words[11]);
        return;
      case Opcode.INIT:
        return this.#init(message, length);
      case Opcode.DESTROY:
        return this.#done(0);
      case Opcode.MKNOD:
      case Opcode.CREATE:
        // 16 bytes of flags and modes come before the name, for both.
        return this.#use(message, length, slot, inode, 'use', codec.IN_HEADER + 16);
      case Opcode.RMDIR:
        return this.#use(message, length, slot, inode, 'release', codec.IN_HEADER);
      case Opcode.SETATTR:
      case Opcode.SYMLINK:
      case Opcode.MKDIR:
      case Opcode.UNLINK:
      case Opcode.RENAME:
      case Opcode.LINK:
      case Opcode.WRITE:
      case Opcode.SETXATTR:
      case Opcode.REMOVEXATTR:
      case Opcode.FALLOCATE:
      case Opcode.RENAME2:
      case Opcode.TMPFILE:
        return this.#fail(EROFS);
      default:
        // Among them OPEN, OPENDIR and FLUSH: the kernel does not ask again, and keeps what it has read.
        return this.#fail(ENOSYS);
    }
  }

  /** The header in front of `body` bytes that are in the reply already. */
  #done(body: number): void {
    codec.putHeader(this.#reply.words, OUT_HEADER + body, 0, this.#uniqueLow, this.#uniqueHigh);
    this.#output.write(this.#reply.bytes, OUT_HEADER + body);
  }

  #fail(errno: number): void {
    codec.putHeader(this.#reply.words, OUT_HEADER, -errno, this.#uniqueLow, this.#uniqueHigh);
    this.#output.write(this.#reply.bytes, OUT_HEADER);
  }

  /** What the tree gave in place of a result for `slot`: an errno, or that the layer must be woken first. */
  #refuse(result: number, slot = this.#request.words[5]): void {
    if (result !== ASLEEP) return this.#fail(-result);
    if (!this.#park(false)) return;
    this.#output.deferWake({ ...this.#identity(), slot });
  }

  #identity(): DeferredRequest {
    return { uniqueLow: this.#uniqueLow, uniqueHigh: this.#uniqueHigh, pid: this.#request.words[8] };
  }

  /** False where the session is closed: then the request has its answer. */
  #park(named: boolean): boolean {
    if (this.#closed) {
      this.#fail(EIO);
      return false;
    }
    const message = new Message(Math.ceil(this.#length / 4) * 4);
    message.bytes.set(this.#request.bytes.subarray(0, this.#length));
    const unique = codec.uniqueOf(this.#uniqueLow, this.#uniqueHigh);
    this.#parked.set(unique, { message, length: this.#length, named });
    return true;
  }

  #bytes(result: Uint8Array | number): void {
    if (typeof result === 'number') return this.#refuse(result);
    this.#reply.bytes.set(result, OUT_HEADER);
    this.#done(result.byteLength);
  }

  /** Where the name that starts at `start` ends, or -1 where there is none. */
  #nameEnd(message: Message, start: number, length: number): number {
    const end = message.bytes.indexOf(0, start);
    return end > start && end < length ? end : -1;
  }

  /** fuse_lookup_in is the name alone, ended by a zero byte. */
  #lookup(message: Message, length: number, slot: number, inode: number): void {
    const end = this.#nameEnd(message, codec.IN_HEADER, length);
    if (end < 0) return this.#fail(EINVAL);
    const node = this.#tree.lookup(slot, inode, message.bytes, codec.IN_HEADER, end);
    if (node !== DEFERRED) {
      this.#entryOf(slot, node);
      if (slot === UPPER) return;
      this.lookedBy?.(slot, message.words[8]);
      if (node >= 0) this.lookedUp?.found(slot, inode, inodeOf(node), message.bytes, codec.IN_HEADER, end);
      return;
    }
    if (this.#named) return this.#fail(ENOENT);
    const parent = this.#tree.pathOf(inode);
    if (parent === undefined) return this.#fail(ESTALE);
    if (!this.#park(true)) return;
    const path = [...parent, message.bytes.toString('latin1', codec.IN_HEADER, end)];
    this.#output.deferLookup({ ...this.#identity(), path });
  }

  /** Making `use` in a layer's directory, or removing that directory, is a message to the store; nothing else can be made or removed. */
  #use(
    message: Message,
    length: number,
    slot: number,
    inode: number,
    change: DeferredUse['change'],
    start: number,
  ): void {
    if (slot !== UPPER || !this.#tree.resolves) return this.#fail(EROFS);
    const end = length > start ? this.#nameEnd(message, start, length) : -1;
    if (end < 0) return this.#fail(EINVAL);
    if (this.#named) return this.#fail(ENOENT);
    const parent = this.#tree.pathOf(inode);
    if (parent === undefined) return this.#fail(ESTALE);
    const path = [...parent, message.bytes.toString('latin1', start, end)];
    if (change === 'use' && path.pop() !== 'use') return this.#fail(EROFS);
    if (path.length !== 2) return this.#fail(EROFS);
    if (!this.#park(true)) return;
    this.#output.deferUse({ ...this.#identity(), change, path });
  }

  /**
   * Answers a request that was deferred: with an errno, or by what the tree has now. A name that is still not there is ENOENT; a
   * layer that sleeps again is asked for again.
   */
  lookAgain(uniqueLow: number, uniqueHigh: number, errno: number): void {
    const unique = codec.uniqueOf(uniqueLow, uniqueHigh);
    const parked = this.#parked.get(unique);
    if (parked === undefined) return;
    this.#parked.delete(unique);
    this.#uniqueLow = uniqueLow;
    this.#uniqueHigh = uniqueHigh;
    if (errno !== 0) return this.#fail(errno);
    this.#named = parked.named;
    this.#answer(parked.message, parked.length);
  }

  /** Whether the kernel has a directory of the upper tree locked for a request that waits here. */
  locks(directory: number): boolean {
    for (const { message } of this.#parked.values()) {
      const { words } = message;
      if (words[4] === directory && words[5] === UPPER && locking.has(words[1])) return true;
    }
    return false;
  }

  /** Answers every request that waits here by EIO, and from now on those that would wait: they might hold a lock that nobody ends. */
  close(): void {
    this.#closed = true;
    for (const { message } of [...this.#parked.values()]) this.lookAgain(message.words[2], message.words[3], EIO);
  }

  /** The reply to a LOOKUP in a directory of `slot` that found `node`, or a negated errno. */
  #entryOf(slot: number, node: number): void {
    const { words } = this.#reply;
    if (node === -ENOENT && slot !== UPPER) {
      codec.putNoEntry(words, OUT_HEADER / 4, codec.FOREVER);
      return this.#done(codec.ENTRY_OUT);
    }
    const result = node < 0 ? node : this.#tree.getattr(slotOf(node), inodeOf(node), this.#attributes);
    if (result < 0) return this.#refuse(result, node < 0 ? slot : slotOf(node));
    codec.putEntry(words, OUT_HEADER / 4, this.#attributes, validity(slot), validity(slotOf(node)));
    this.#done(codec.ENTRY_OUT);
  }

  #getattr(slot: number, inode: number): void {
    const result = this.#tree.getattr(slot, inode, this.#attributes);
    if (result < 0) return this.#refuse(result);
    codec.putAttrOut(this.#reply.words, OUT_HEADER / 4, this.#attributes, validity(slot));
    this.#done(codec.ATTR_OUT);
  }

  /** fuse_read_in, by words behind the header: 10 fh  12 offset  14 size  15 read_flags  16 lock_owner  18 flags  19 padding */
  #read(message: Message, length: number, slot: number, inode: number): void {
    if (length < codec.IN_HEADER + 24) return this.#fail(EINVAL);
    const { words } = message;
    const offset = codec.getU64(words, 12);
    const range = this.#range;
    this.lookedUp?.read(slot, inode);
    const start = this.ring === undefined ? 0 : wallClock();
    const size = this.#tree.read(slot, inode, offset, Math.min(words[14], BODY), range);
    if (size >= 0 && this.#copy(size)) {
      this.#counts[Count.cachedReads]++;
      this.ring?.put(slot, inode, offset, size, start, wallClock());
      return this.#done(size);
    }
    if (size < 0 && size !== DEFERRED) return this.#refuse(size);
    this.#tree.getattr(slot, inode, this.#attributes);
    this.#counts[Count.deferredReads]++;
    this.#output.deferRead({
      ...this.#identity(),
      slot,
      inode,
      offset,
      size: Math.min(words[14], BODY, this.#attributes.size - offset),
      ...(slot === UPPER && { path: this.#tree.pathOf(inode) }),
    });
  }

  /** The cached range into the reply, behind the header. False where the file does not give it: then it is not cached. */
  #copy(size: number): boolean {
    return size === 0 || pread(this.#range.fd, this.#body, size, this.#range.position) === size;
  }

  /** fuse_read_in again; `offset` is the last record's `off`. A reply without records is the end. */
  #readdir(message: Message, length: number, slot: number, inode: number, plus: boolean): void {
    if (length < codec.IN_HEADER + 24) return this.#fail(EINVAL);
    const entry = this.#entry;
    if (slot !== UPPER) this.lookedUp?.listed(slot, inode);
    const limit = OUT_HEADER + Math.min(message.words[14], BODY);
    const fixed = plus ? codec.ENTRY_OUT + codec.DIRENT : codec.DIRENT;
    let at = OUT_HEADER;
    for (let offset = codec.getU64(message.words, 12); ; offset = entry.next) {
      const found = this.#tree.readdir(slot, inode, offset, entry);
      if (found < 0) return this.#refuse(found);
      if (found === 0) break;
      const bytes = codec.recordBytes(fixed, entry);
      if (at + bytes > limit) break;
      if (plus) this.#putPlus(at, slot, offset);
      codec.putDirent(this.#reply, at + fixed - codec.DIRENT, entry);
      at += bytes;
    }
    this.#done(at - OUT_HEADER);
  }

  /** The entry_out in front of a dirent. The kernel must not keep `.` and `..`; what sleeps or is gone meanwhile has no attributes. */
  #putPlus(at: number, directorySlot: number, offset: number): void {
    const { node } = this.#entry;
    const slot = slotOf(node);
    const { words } = this.#reply;
    if (offset < 2 || this.#tree.getattr(slot, inodeOf(node), this.#attributes) < 0)
      return codec.putNoEntry(words, at / 4, 0);
    codec.putEntry(words, at / 4, this.#attributes, validity(directorySlot), validity(slot));
  }

  /** fuse_getxattr_in, by words: 10 size  11 padding, then the name. Size 0 asks for the value's length. */
  #getxattr(message: Message, length: number, slot: number, inode: number): void {
    const start = codec.IN_HEADER + 8;
    const end = length > start ? this.#nameEnd(message, start, length) : -1;
    if (end < 0) return this.#fail(EINVAL);
    this.#sized(message, this.#tree.getxattr(slot, inode, message.bytes, start, end));
  }

  #listxattr(message: Message, length: number, slot: number, inode: number): void {
    if (length < codec.IN_HEADER + 8) return this.#fail(EINVAL);
    this.#sized(message, this.#tree.listxattr(slot, inode));
  }

  /** fuse_getxattr_out, by words: 0 size  1 padding */
  #sized(message: Message, value: Uint8Array | number): void {
    if (typeof value === 'number') return this.#refuse(value);
    const room = message.words[10];
    if (room === 0) {
      codec.putU64(this.#reply.words, OUT_HEADER / 4, value.byteLength);
      return this.#done(8);
    }
    if (value.byteLength > room) return this.#fail(ERANGE);
    this.#bytes(value);
  }

  #statfs(): void {
    const statistics = { bytes: 0, files: 0 };
    this.#tree.statfs(statistics);
    codec.putStatfs(this.#reply.words, OUT_HEADER / 4, statistics);
    this.#done(codec.STATFS_OUT);
  }

  #init(message: Message, length: number): void {
    const { words } = message;
    if (length < codec.IN_HEADER + 16) return this.#fail(EINVAL);
    const [major, minor, readahead, flags] = words.subarray(10, 14);
    // Kernels before flags2 end here; what then lies in the buffer is an older message's.
    const flags2 = length < codec.IN_HEADER + 20 ? 0 : words[14];
    // A newer major: the kernel speaks ours when it sees it in the reply. Older ones have other structures.
    if (major < codec.PROTOCOL_MAJOR || (major === codec.PROTOCOL_MAJOR && minor < codec.OLDEST_MINOR))
      return this.#fail(EPROTO);
    const negotiated = codec.negotiate(minor, flags, flags2);
    codec.putInit(this.#reply.words, OUT_HEADER / 4, negotiated, readahead);
    this.#done(codec.INIT_OUT);
    if (major === codec.PROTOCOL_MAJOR) this.#output.negotiated(negotiated);
  }
}

/** Requests of a name: the kernel has its directory locked until they are answered. */
const locking: ReadonlySet<number> = new Set([Opcode.LOOKUP, Opcode.MKNOD, Opcode.CREATE, Opcode.RMDIR]);

/** For how many seconds the kernel may keep what it was told of a slot. */
function validity(slot: number): number {
  return slot === UPPER ? UPPER_VALID : codec.FOREVER;
}
