import { hash } from 'node:crypto';
import { close, constants, fdatasync, ftruncate, open, readSync, writeSync, fstat } from 'node:fs';
import { rm, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setImmediate as turn } from 'node:timers/promises';
import { promisify } from 'node:util';
import type { Digest } from '../digest/digest.js';
import { codeOf, LazylayerError } from '../errors.js';
import { CACHE_ALIGN } from '../toc/layout.js';
import type { Tree } from '../toc/tree.js';
import { syncDirectory } from '../util/atomic-file.js';
import { roundUp } from '../util/bytes.js';
import { loadBitmap, saveBitmap } from './bitmap-file.js';
import type { LayerKey } from './key.js';
import { Presence } from './presence.js';

const openFd = promisify(open);
const closeFd = promisify(close);
const sync = promisify(fdatasync);
const setLength = promisify(ftruncate);
const stat = promisify(fstat);

/** Names in a layer's directory. */
export const FILES = { tree: 'tree', data: 'data', present: 'present', open: 'open' } as const;

/** What a thread needs to read a layer's cached bytes, and to write more of them. */
export interface LayerView {
  /** Number of the layer, durable. */
  readonly slot: number;
  readonly tree: Tree;
  readonly presence: Presence;
  /** The cache file, open for reading and writing as long as the layer is. */
  readonly fd: number;
}

/**
 * One layer's cache while it is open. After an unclean end, all chunks are suspects: they are held against their digests when they
 * are first needed, and believed only then.
 */
export class CachedLayer implements LayerView {
  /** An unclean end came before: any chunk may be there though its bit is not set. */
  #suspect: boolean;
  /** Bits were set since the bitmap was last saved. */
  #dirty = false;
  /** Bytes were written since the layer was opened: they must be on disk before the mark goes. */
  #written = false;
  #saving: Promise<void> = Promise.resolve();
  /** Bytes that the files take on disk: counted on while the layer is open, exact after `measure`. */
  allocated = 0;

  private constructor(
    readonly key: LayerKey,
    readonly name: string,
    readonly directory: string,
    readonly slot: number,
    readonly tree: Tree,
    readonly presence: Presence,
    readonly fd: number,
    suspect: boolean,
    /** The bits as they were found. */
    private readonly saved: Presence | undefined,
    private mark: Mark,
  ) {
    this.#suspect = suspect;
  }

  /**
   * Opens the files beside a tree that is in memory (and, where the disk has room, on disk). Everything that cannot be believed
   * at once (unclean end, damaged bitmap, a tree that was just made beside older data) is suspect.
   */
  static async open(
    key: LayerKey,
    name: string,
    directory: string,
    slot: number,
    tree: Tree,
    treeIsNew: boolean,
  ): Promise<CachedLayer> {
    const path = (file: string) => join(directory, file);
    const chunks = tree.counts.chunks;
    const mark = await setMark(directory);
    const fd = await openFd(path(FILES.data), constants.O_RDWR | constants.O_CREAT, 0o644);
    try {
      const { size, blocks } = await stat(fd);
      // To a block's end, as EROFS wants it.
      const length = roundUp(tree.facts.cacheBytes, CACHE_ALIGN);
      const whole = size >= tree.facts.cacheBytes;
      const saved = await loadBitmap(path(FILES.present), chunks, tree.facts.source);
      if (size < length) await setLength(fd, length);
      const empty = () => new Presence(new SharedArrayBuffer(Presence.bytes(chunks)));
      const believed = !treeIsNew && mark !== 'found' && whole && saved !== undefined;
      // A layer that was opened and never read leaves a file of holes, and no bitmap.
      const nothing = saved === undefined && blocks === 0;
      // The last bits before an unclean end were not saved: any chunk may be there.
      const suspect = !believed && !nothing;
      const presence = believed ? saved : empty();
      return new CachedLayer(key, name, directory, slot, tree, presence, fd, suspect, saved, mark);
    } catch (error) {
      await closeFd(fd);
      throw error;
    }
  }

  get digest(): Digest {
    return this.key.digest;
  }

  /** Whether any chunk may be on disk though its bit is not set. */
  get hasSuspects(): boolean {
    return this.#suspect;
  }

  /** Whether every chunk is there: after an unclean end, the suspects are verified for that, up to the first that is not. */
  async isWhole(): Promise<boolean> {
    for (let chunk = 0; chunk < this.tree.counts.chunks; chunk++) {
      if (this.presence.has(chunk)) continue;
      if (!this.recover(chunk)) return false;
      await turn(); // a chunk's hash is long enough to hold others up
    }
    return true;
  }

  /** Takes a suspect chunk back into belief if its bytes are right. Synchronous: reads and hashes the chunk. */
  recover(chunk: number): boolean {
    if (!this.#suspect) return false;
    let bytes: Buffer | undefined;
    try {
      bytes = readVerified(this.fd, this.tree.chunkCache[chunk], this.tree, chunk);
    } catch {
      return false; // a bad sector holds no chunk
    }
    if (bytes === undefined) return false;
    this.noteWritten();
    this.presence.set(chunk);
    return true;
  }

  /** Writes a chunk whose bytes match its digest, and sets its bit. @throws what the disk says, ENOSPC above all */
  store(chunk: number, bytes: Uint8Array): void {
    writeAll(this.fd, bytes, this.tree.chunkCache[chunk]);
    this.noteWritten();
    this.presence.set(chunk);
  }

  /** Says that bits were set, here or in another thread, so that the bitmap wants saving. */
  noteWritten(): void {
    this.#dirty = true;
    this.#written = true;
  }

  /** Saves the bitmap if bits were set since the last time. */
  save(): Promise<void> {
    this.#saving = this.#saving
      .catch(() => {})
      .then(async () => {
        if (!this.#dirty) return;
        this.#dirty = false;
        try {
          await this.#write();
        } catch (error) {
          this.#dirty = true;
          throw error;
        }
      });
    return this.#saving;
  }

  async #write(): Promise<void> {
    const { directory, tree } = this;
    // Bits without the mark would be believed after an unclean end.
    if (this.mark === 'no room' && (this.mark = await setMark(directory)) === 'no room')
      throw new LazylayerError('RESOURCE_EXHAUSTED', `${directory}: no room on the disk for the mark of an open layer`);
    if (this.mark === 'made') await syncDirectory(directory);
    this.mark = 'found';
    await saveBitmap(join(directory, FILES.present), this.#kept(), tree.counts.chunks, tree.facts.source);
  }

  /** The bits to save: after an unclean end, also those that were found, though their chunks are still suspects. */
  #kept(): Presence {
    const { saved, presence } = this;
    if (!this.#suspect || saved === undefined) return presence;
    const chunks = this.tree.counts.chunks;
    const both = new Presence(new SharedArrayBuffer(Presence.bytes(chunks)));
    for (let chunk = 0; chunk < chunks; chunk++) if (saved.has(chunk) || presence.has(chunk)) both.set(chunk);
    return both;
  }

  /** Marks the layer as used now, in a way that outlives the process. */
  async touch(): Promise<void> {
    const now = new Date();
    await utimes(join(this.directory, FILES.tree), now, now).catch(() => {});
  }

  /** Reads from the disk what the files take. */
  async measure(): Promise<number> {
    return (this.allocated =
      (await stat(this.fd)).blocks * 512 + this.tree.buffer.byteLength + this.presence.buffer.byteLength);
  }

  /** A clean end: data, then bits, then the mark goes, each on disk before the next. No thread may use `fd` any more. */
  async close(): Promise<void> {
    try {
      await this.touch();
      if (this.#written) await sync(this.fd);
      await this.save();
      if (!this.#suspect || this.presence.hasAll(0, this.tree.counts.chunks)) {
        await rm(join(this.directory, FILES.open), { force: true });
        await syncDirectory(this.directory);
      }
    } finally {
      await closeFd(this.fd);
    }
  }
}

type Mark = 'made' | 'found' | 'no room';

/**
 * Makes the mark of an open layer. It must be durable before any bits are saved: else a power cut could leave some that nothing casts
 * doubt on. A mark that is found was left by an unclean end.
 */
async function setMark(directory: string): Promise<Mark> {
  try {
    await writeFile(join(directory, FILES.open), '', { flag: 'wx' });
  } catch (error) {
    if (codeOf(error) === 'ALREADY_EXISTS') return 'found';
    if (codeOf(error) === 'RESOURCE_EXHAUSTED') return 'no room';
    throw error;
  }
  return 'made';
}

/** The chunk's bytes from a place in a file, or undefined where they are not what its digest names. */
export function readVerified(fd: number, place: number, tree: Tree, chunk: number): Buffer | undefined {
  const size = tree.chunkSize[chunk];
  const bytes = Buffer.allocUnsafe(size);
  if (readSync(fd, bytes, 0, size, place) !== size) return undefined;
  const found = hash('sha256', bytes, 'buffer');
  return found.compare(tree.chunkDigests, chunk * 32, chunk * 32 + 32) === 0 ? bytes : undefined;
}

/** One pwrite where the kernel takes all, more where it does not. */
export function writeAll(fd: number, bytes: Uint8Array, place: number): void {
  for (let done = 0; done < bytes.byteLength;)
    done += writeSync(fd, bytes, done, bytes.byteLength - done, place + done);
}
