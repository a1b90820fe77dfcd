import { open, type Database, type RootDatabase } from 'lmdb';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setImmediate as turn } from 'node:timers/promises';
import type { Tree } from '../toc/tree.js';
import { checkIndexFile } from './index-check.js';

/** Where another layer may have a chunk: a hint, never believed without the digest. */
export interface ChunkHint {
  readonly slot: number;
  /** Byte in that layer's cache file. */
  readonly place: number;
}

interface Pending {
  readonly tree: Tree;
  readonly slot: number;
  readonly first: number;
  readonly end: number;
}

const KEY_BYTES = 16;
/** Value: slot (u32), place (f64), little-endian. */
const VALUE_BYTES = 12;
const FLUSH_MS = 1000;
/** Chunks that one write transaction takes, so that the event loop is not held for long. */
const BATCH = 500;

/**
 * Slots by layer (durable, never given twice while the index lives) and chunks by the first 16 bytes of their digest. Hints may be
 * lost or stale; a slot may not.
 */
export class ChunkIndex implements AsyncDisposable {
  readonly #root: RootDatabase;
  readonly #slots: Database<number, string>;
  readonly #names: Database<string, number>;
  readonly #chunks: Database<Buffer, Buffer>;
  #pending: Pending[] = [];
  #timer: NodeJS.Timeout | undefined;
  #flushing: Promise<void> = Promise.resolve();

  private constructor(root: RootDatabase) {
    this.#root = root;
    this.#slots = root.openDB({ name: 'slots', encoding: 'json' });
    this.#names = root.openDB({ name: 'names', encoding: 'json' });
    this.#chunks = root.openDB({ name: 'chunks', keyEncoding: 'binary', encoding: 'binary' });
  }

  /** Opens or makes the index in a directory. One that cannot be read is made anew: all in it can be found out again. */
  static async open(path: string, onDamage: (error: unknown) => void): Promise<ChunkIndex> {
    try {
      await checkIndexFile(join(path, 'data.mdb'));
      return new ChunkIndex(open({ path, maxDbs: 3, noSubdir: false }));
    } catch (error) {
      onDamage(error);
      await rm(path, { recursive: true, force: true });
      return new ChunkIndex(open({ path, maxDbs: 3, noSubdir: false }));
    }
  }

  /**
   * The layer's number, from 1, on disk when this returns. The same for the same name as long as the index lives.
   * @throws what LMDB says when it cannot write
   */
  slotOf(name: string): number {
    this.giveSlots([name]);
    return this.#slots.get(name)!;
  }

  /** Numbers for all of these names that have none, by one write to the disk. @throws as `slotOf` */
  giveSlots(names: readonly string[]): void {
    const without = new Set(names.filter((name) => this.#slots.get(name) === undefined));
    if (without.size === 0) return;
    // Synchronous, as are all writes here: LMDB's queue of asynchronous ones hangs and rejects into the void on a full disk.
    this.#root.transactionSync(() => {
      let last = [...this.#names.getKeys({ reverse: true, limit: 1 })][0] ?? 0;
      for (const name of without) {
        this.#names.putSync(++last, name);
        this.#slots.putSync(name, last);
      }
    });
  }

  /** The layer's number, if it has one. */
  knownSlot(name: string): number | undefined {
    return this.#slots.get(name);
  }

  /** The layer that has a slot. */
  nameOfSlot(slot: number): string | undefined {
    return this.#names.get(slot);
  }

  /** Where a chunk with this digest was last seen. */
  find(tree: Tree, chunk: number): ChunkHint | undefined {
    const value = this.#chunks.getBinaryFast(chunkKey(tree, chunk));
    if (value === undefined || value.length !== VALUE_BYTES) return undefined;
    return { slot: value.readUInt32LE(0), place: value.readDoubleLE(4) };
  }

  /** Whether there is a hint for a digest, raw. */
  has(digest: Uint8Array): boolean {
    return this.#chunks.getBinaryFast(Buffer.from(digest.subarray(0, KEY_BYTES))) !== undefined;
  }

  /** Notes that the chunks of [first, end) are in the slot's cache file. Written later, many in one transaction. */
  add(tree: Tree, slot: number, first: number, end: number): void {
    const last = this.#pending.at(-1);
    if (last !== undefined && last.tree === tree && last.end === first)
      this.#pending[this.#pending.length - 1] = { ...last, end };
    else this.#pending.push({ tree, slot, first, end });
    this.#timer ??= setTimeout(() => void this.flush(), FLUSH_MS).unref();
  }

  /** Forgets the chunks that are noted for a slot whose layer is dropped. */
  async forget(tree: Tree, slot: number): Promise<void> {
    this.#pending = this.#pending.filter((p) => p.slot !== slot);
    await this.#inBatches(0, tree.counts.chunks, (chunk) => {
      if (this.find(tree, chunk)?.slot === slot) this.#chunks.removeSync(chunkKey(tree, chunk));
    });
  }

  /** Writes what `add` noted. Hints are not worth an error: what cannot be written is left out. */
  flush(): Promise<void> {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const work = this.#pending;
    this.#pending = [];
    this.#flushing = this.#flushing.then(async () => {
      for (const { tree, slot, first, end } of work)
        await this.#inBatches(first, end, (chunk) => {
          const value = Buffer.allocUnsafe(VALUE_BYTES);
          value.writeUInt32LE(slot, 0);
          value.writeDoubleLE(tree.chunkCache[chunk], 4);
          this.#chunks.putSync(chunkKey(tree, chunk), value);
        });
    }, noop);
    return (this.#flushing = this.#flushing.catch(noop));
  }

  async #inBatches(first: number, end: number, write: (chunk: number) => void): Promise<void> {
    for (let from = first; from < end; from += BATCH) {
      this.#root.transactionSync(() => {
        for (let chunk = from; chunk < Math.min(from + BATCH, end); chunk++) write(chunk);
      });
      await turn();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.flush();
    await this.#root.close();
  }
}

function chunkKey(tree: Tree, chunk: number): Buffer {
  return Buffer.from(tree.chunkDigests.subarray(chunk * 32, chunk * 32 + KEY_BYTES));
}

function noop(): void {}
