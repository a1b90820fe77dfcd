import { closeSync, openSync } from 'node:fs';
import { mkdir, readdir, realpath, rm, rmdir, writeFile } from 'node:fs/promises';
import { constants } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { LazylayerError } from '../errors.js';
import type { Tree } from '../toc/tree.js';
import { listMounts } from '../util/mountinfo.js';
import { Serial } from '../util/serial.js';
import { Teardown } from '../util/teardown.js';
import { unmount } from '../util/unmount.js';
import { erofsImage, IMAGE_ENTRY, PROBES } from './image.js';

/** A layer all of whose content is in its cache file. */
export interface WholeLayer {
  readonly slot: number;
  readonly tree: Tree;
  /** Of the cache file; open when `mount` is called. */
  readonly fd: number;
}

const TYPE = 'erofs';

const { EACCES, EINVAL, ENODEV, ENOTBLK, EOPNOTSUPP, EPERM } = { ...constants.errno, ENOTBLK: 15 };
/** How a kernel says that it has no EROFS, none over files, or not for this user. */
const lacking: readonly number[] = [EACCES, EINVAL, ENODEV, ENOTBLK, EOPNOTSUPP, EPERM];

/**
 * Layers that the kernel reads by itself: mounts of EROFS over their cache files. Nothing of them is asked of this process, and they outlive it.
 * Each is made from a tree in memory; no image stays on disk.
 */
export class WholeMounts {
  readonly #mounted = new Set<number>();
  /** Slots of layers that no image can show. */
  readonly #unshowable = new Set<number>();
  readonly #line = new Serial();
  #unavailable = false;
  #closed = false;

  private constructor(
    private readonly directory: string,
    private readonly onUnavailable?: (error: LazylayerError) => void,
  ) {}

  /**
   * Makes mount points below a directory, one a slot, and takes over what an earlier process left mounted there. `onUnavailable` hears once
   * that this kernel, or this user, cannot have such mounts.
   */
  static async open(directory: string, onUnavailable?: (error: LazylayerError) => void): Promise<WholeMounts> {
    await mkdir(directory, { recursive: true, mode: 0o700 });
    const mounts = new WholeMounts(directory, onUnavailable);
    for (const target of await targets(directory)) mounts.#mounted.add(Number(basename(target)));
    for (const name of await readdir(directory))
      if (!mounts.#mounted.has(Number(name))) await rm(join(directory, name), { recursive: true, force: true });
    return mounts;
  }

  /** The directory of a layer that is mounted so. */
  path(slot: number): string | undefined {
    return this.#mounted.has(slot) ? join(this.#target(slot), IMAGE_ENTRY) : undefined;
  }

  get count(): number {
    return this.#mounted.size;
  }

  #target(slot: number): string {
    return join(this.directory, String(slot));
  }

  /**
   * Mounts a layer, and gives its directory; undefined where no image can show the layer, or the kernel has no such mounts.
   * @throws what the disk says, and the kernel of this one mount
   */
  async mount({ slot, tree, fd }: WholeLayer): Promise<string | undefined> {
    if (this.#isDecided(slot)) return this.path(slot);
    // Of its own, at once: the layer may be closed meanwhile, and the number be another file's.
    const data = openSync(`/proc/self/fd/${fd}`, 'r');
    try {
      return await this.#line.run(() => this.#mount(slot, tree, data));
    } finally {
      closeSync(data);
    }
  }

  #isDecided(slot: number): boolean {
    return this.#mounted.has(slot) || this.#unavailable || this.#closed || this.#unshowable.has(slot);
  }

  async #mount(slot: number, tree: Tree, data: number): Promise<string | undefined> {
    if (this.#isDecided(slot)) return this.path(slot);
    const image = erofsImage(tree);
    if (image === undefined) {
      this.#unshowable.add(slot);
      return undefined;
    }
    const target = this.#target(slot);
    const file = `${target}.image`;
    try {
      await writeFile(file, image, { mode: 0o600 });
      await mkdir(target, { recursive: true });
      await mountImage(file, target, data);
    } catch (error) {
      await rmdir(target).catch(() => {});
      // One that has such mounts does not lack them: this image is at fault.
      if (!(error instanceof LazylayerError && error.code === 'UNSUPPORTED') || this.#mounted.size > 0) throw error;
      this.#unavailable = true;
      this.onUnavailable?.(error);
      return undefined;
    } finally {
      await rm(file, { force: true });
    }
    this.#mounted.add(slot);
    return this.path(slot);
  }

  /**
   * Takes a mount out of sight; whoever has it below an overlay keeps it. Not where it is `wanted` again when its turn comes. Nobody is told of
   * it any more from when on `hidden` is called, and until that resolves it is still there.
   * @throws what `hidden` throws, and umount(8): then it stays, and is told of again
   */
  unmount(slot: number, options: { wanted?: () => boolean; hidden?: () => Promise<void> } = {}): Promise<void> {
    return this.#line.run(async () => {
      if (options.wanted?.() === true) return;
      this.#unshowable.delete(slot);
      if (!this.#mounted.delete(slot)) return;
      try {
        await options.hidden?.();
        await release(this.#target(slot));
      } catch (error) {
        // Another one above it would hide it for good.
        this.#mounted.add(slot);
        throw error;
      }
    });
  }

  /** Takes away all mounts but those of the slots that are wanted. */
  async retain(wanted: (slot: number) => boolean): Promise<void> {
    await using each = new Teardown();
    for (const slot of this.#mounted) each.teardown(() => this.unmount(slot, { wanted: () => wanted(slot) }));
  }

  /** Takes away all mounts, and makes none any more. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    await this.#line.flushed();
    await this.retain(() => false);
  }
}

/** Takes away what a daemon that is gone left mounted below its directory. Gives the mount points. */
export async function releaseWholeMounts(directory: string): Promise<string[]> {
  const found = await targets(directory);
  for (const target of found) await release(target);
  return found;
}

async function targets(directory: string): Promise<string[]> {
  const real = await realpath(directory).catch(() => directory);
  const mounts = await listMounts();
  return mounts.filter(({ type, target }) => type === TYPE && dirname(target) === real).map((m) => m.target);
}

async function release(target: string): Promise<void> {
  await unmount(target, { lazy: true });
  await rmdir(target).catch(() => {}); // an empty directory is no mount: the next one finds it, or the next opening takes it away
}

/**
 * mount(8) would put a loop device below an image that is a file, and such a one knows no second file. `directio`, since Linux 6.15, reads
 * cache files past the page cache, which would hold all that is read twice.
 */
async function mountImage(image: string, target: string, data: number): Promise<void> {
  const { mountReadOnly, systemError, xattrLength } = await import('../util/syscalls.js');
  const device = `device=/proc/self/fd/${data}`;
  let status = 0;
  for (const options of [`${device},directio`, device]) {
    status = mountReadOnly(image, target, TYPE, options);
    if (status !== 0) continue;
    if (PROBES.every((name) => xattrLength(target, name) === 0)) return;
    await unmount(target, { lazy: true });
    throw new LazylayerError(
      'UNSUPPORTED',
      "this kernel's EROFS shows no extended attributes, of which layers are made too",
    );
  }
  const cause = systemError('mount', status);
  if (!lacking.includes(-status)) throw cause;
  throw new LazylayerError('UNSUPPORTED', 'EROFS over files needs Linux 6.12, with EROFS, and root', { cause });
}
