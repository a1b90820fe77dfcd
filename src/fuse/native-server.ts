import { realpath } from 'node:fs/promises';
import { LazylayerError } from '../errors.js';
import type { LayerView, SleepingLayer } from '../fs/layer-nodes.js';
import { ServedTree, type ReferenceLayer } from '../fs/served-tree.js';
import { UPPER } from '../fs/nodes.js';
import { listMounts } from '../util/mountinfo.js';
import { FOREVER } from './codec.js';
import { loadFuseNative, type NativeFuse, type NativeLibrary, type NativeOperations } from './fuse-native.js';
import { unmount } from '../util/unmount.js';
import type { ConnectionOptions } from './mount.js';
import { nativeOperations, type NativeTraces } from './native-operations.js';
import type { ReadRing } from './read-ring.js';
import type { FuseHost, FuseServer, FuseStats, ServeOptions } from './server.js';

/** How often the mount table is looked at, in milliseconds: libfuse does not tell of the end. */
const lookMs = 250;

/**
 * Mounts and serves with fuse-native (libfuse 2), on the main thread, whose business every request then is. Less than the kernel
 * backend: names and targets in UTF-8 only (others are left out), times in milliseconds since 1970, inode numbers of 32 bits
 * that last as long as the mount, no reader killed while libfuse waits, lookups in one directory one after the other. Programs that
 * this process starts inherit the connection, so that it can outlive a crash unserved: `umount -f` ends it. Disposing unmounts.
 * @throws FAILED_PRECONDITION where fuse-native or its library is missing
 */
export async function mountNative(
  mountpoint: string,
  host: FuseHost,
  options: ServeOptions & ConnectionOptions = {},
): Promise<FuseServer> {
  const server = new NativeServer(loadFuseNative(), await realpath(mountpoint), host, options);
  await server.open();
  return server;
}

class NativeServer implements FuseServer {
  readonly negotiated = undefined;
  readonly ended: Promise<void>;
  readonly #tree: ServedTree;
  readonly #fuse: NativeFuse;
  readonly #mountpoint: string;
  readonly #traces: NativeTraces = {
    counts: { requests: 0, cachedReads: 0, deferredReads: 0 },
    waiting: new Set(),
    touched: new Set(),
    ring: undefined,
  };
  #closed = false;
  readonly #bases = new Map<number, number>();
  #nextBase = 1;
  #timer: NodeJS.Timeout | undefined;
  #end!: () => void;

  constructor(library: NativeLibrary, mountpoint: string, host: FuseHost, options: ServeOptions & ConnectionOptions) {
    this.#mountpoint = mountpoint;
    this.#tree = new ServedTree({ pool: options.pool, resolves: host.resolve !== undefined });
    for (const view of options.layers ?? []) this.#attach(view);
    for (const layer of options.asleep ?? []) this.#sleep(layer);
    for (const { reference, layers } of options.references ?? []) this.#tree.setReference(reference, layers);
    this.ended = new Promise((resolve) => (this.#end = resolve));
    const inodes = (slot: number, inode: number) => this.#inode(slot, inode);
    const operations = nativeOperations(this.#tree, host, inodes, this.#traces);
    this.#fuse = construct(library, mountpoint, operations, options.source ?? 'lazylayer');
  }

  get stats(): FuseStats {
    return { ...this.#traces.counts, waitingReads: this.#traces.waiting.size };
  }

  async open(): Promise<void> {
    await new Promise<void>((resolve, reject) =>
      this.#fuse.open((error) => (error === null ? resolve() : reject(error))),
    );
    this.#timer = setInterval(() => void this.#look(), lookMs).unref();
  }

  async attach(view: LayerView): Promise<void> {
    this.#attach(view);
  }

  async sleep(layer: SleepingLayer): Promise<void> {
    this.#sleep(layer);
  }

  touched(slot: number): boolean {
    return this.#traces.touched.delete(slot);
  }

  async detach(slot: number): Promise<void> {
    this.#tree.detach(slot);
  }

  async setReference(reference: string, layers: readonly ReferenceLayer[] | undefined): Promise<void> {
    this.#tree.setReference(reference, layers);
  }

  async trace(ring: ReadRing | undefined): Promise<void> {
    this.#traces.ring = ring;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#closed && (await this.#mounted())) await unmount(this.#mountpoint, { lazy: true });
    await this.#stop();
  }

  /** Slots have ranges below 2^31 in the order in which they came, the upper tree's hashes the numbers above. */
  #inode(slot: number, inode: number): number {
    return slot === UPPER ? (inode | 0x8000_0000) >>> 0 : ((this.#bases.get(slot) ?? 0) + inode) & 0x7fff_ffff;
  }

  #attach(view: LayerView): void {
    this.#tree.attach(view);
    this.#number(view.slot, view.tree.counts.inodes);
  }

  #sleep(layer: SleepingLayer): void {
    this.#tree.sleep(layer);
    this.#number(layer.slot, layer.statistics.files);
  }

  /** Gives a slot its range of inode numbers, for as long as the mount lasts. */
  #number(slot: number, inodes: number): void {
    if (this.#bases.has(slot)) return;
    this.#bases.set(slot, this.#nextBase);
    this.#nextBase += inodes;
  }

  async #mounted(): Promise<boolean> {
    return (await listMounts()).some((m) => m.target === this.#mountpoint && m.type === 'fuse.lazylayer');
  }

  async #look(): Promise<void> {
    // The table could not be read, for want of descriptors perhaps: the next look will tell.
    if (!(await this.#mounted().catch(() => true))) await this.#stop();
  }

  async #stop(): Promise<void> {
    clearInterval(this.#timer);
    if (!this.#closed) {
      this.#closed = true;
      for (const abort of this.#traces.waiting) abort.abort();
      await new Promise<void>((resolve) => this.#fuse.close(() => resolve()));
    }
    this.#end();
  }
}

function construct(
  { Fuse, binding }: NativeLibrary,
  mountpoint: string,
  operations: NativeOperations,
  source: string,
): NativeFuse {
  if (Buffer.byteLength(source) > MAX_SOURCE)
    throw new LazylayerError('INVALID_ARGUMENT', `mount source: expected at most ${MAX_SOURCE} bytes, found ${source}`);
  // The public operations are told neither the size of an xattr's buffer nor a time's whole words; the ones below them are. An
  // operation counts as implemented by the presence of its public name.
  const names = Object.keys(operations).map((name) => [name.slice('_op_'.length), true] as const);
  const extra = ['ro', 'noatime', 'suid', 'dev', 'use_ino', `negative_timeout=${NEGATIVE_SECONDS}`];
  const fuse = new Fuse(mountpoint, Object.fromEntries(names), {
    fsname: [source, ...extra].join(','),
    subtype: 'lazylayer',
    allowOther: true,
    defaultPermissions: true,
    kernelCache: true,
    entryTimeout: FOREVER,
    attrTimeout: FOREVER,
    timeout: false,
  });
  return Object.assign(fuse, operations, {
    // The mount is gone by then; what is left is libfuse's hold on the event loop.
    _close(done: (error: Error | null) => void) {
      binding.fuse_native_unmount(fuse.mnt, fuse._thread);
      done(null);
    },
  });
}

/** Of the 1024 bytes that fuse-native has for all options. */
const MAX_SOURCE = 512;

/** One time for the whole mount, and the tree above the layers grows: what is not there may come. */
const NEGATIVE_SECONDS = 1;
