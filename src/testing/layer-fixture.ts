import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ChunkCache, type ChunkCacheOptions } from '../cache/chunk-cache.js';
import { EstargzWriter, type EstargzWriterOptions } from '../estargz/writer.js';
import { BufferReader } from '../io/readers.js';
import type { RandomAccessReader, ReadOptions } from '../io/reader.js';
import type { LayerSource } from '../layer/source.js';
import { fileOf, type FileSpec } from './image-files.js';
import { LayerStore, type LayerStoreOptions } from '../layer/store.js';

/** One range that was asked for. */
export interface AskedRange {
  readonly offset: number;
  readonly length: number;
}

/** A blob in memory that counts what is asked of it, and may be told to fail, to wait, or to lie. */
export class FakeBlob {
  readonly asked: AskedRange[] = [];
  /** Called before each piece goes out; what it throws is the transfer's failure. */
  beforePiece: (offset: number) => Promise<void> | void = () => {};
  /** Bytes of a piece. */
  piece = 16 * 1024;
  aborted = 0;

  constructor(public bytes: Uint8Array) {}

  reader(): RandomAccessReader {
    const inner = new BufferReader(this.bytes);
    return {
      size: inner.size,
      read: async (offset, length) => {
        this.asked.push({ offset, length });
        await this.beforePiece(offset);
        return Buffer.from(this.bytes.subarray(offset, offset + length));
      },
      stream: (offset, length, options) => this.#stream(offset, length, options),
      [Symbol.asyncDispose]: async () => {},
    };
  }

  async *#stream(offset: number, length: number, options?: ReadOptions): AsyncGenerator<Uint8Array> {
    this.asked.push({ offset, length });
    let whole = false;
    const buffer = Buffer.alloc(this.piece); // used again for each piece, as the contract allows
    try {
      for (let at = offset; at < offset + length; at += this.piece) {
        options?.signal?.throwIfAborted();
        await this.beforePiece(at);
        options?.signal?.throwIfAborted();
        const end = Math.min(at + this.piece, offset + length);
        buffer.set(this.bytes.subarray(at, end));
        yield buffer.subarray(0, end - at);
      }
      whole = true;
    } finally {
      if (!whole) this.aborted++;
    }
  }
}

/** Lets no piece out that begins between these offsets of the blob until the returned function is called. */
export function gate(blob: FakeBlob, from = 0, end = Infinity): () => void {
  let open!: () => void;
  const opened = new Promise<void>((resolve) => (open = resolve));
  blob.beforePiece = (offset) => (offset < from || offset >= end ? undefined : opened);
  return open;
}

export interface FixtureFile {
  readonly name: string;
  readonly bytes: Uint8Array;
}

/** An eStargz layer of these files, in this order, with the files after `landmarkAfter` behind a prefetch landmark. */
export async function estargzLayer(
  files: readonly (FixtureFile | FileSpec)[],
  options?: EstargzWriterOptions & { landmarkAfter?: number },
): Promise<{ blob: FakeBlob; source: LayerSource }> {
  const parts: Buffer[] = [];
  const writer = new EstargzWriter((bytes) => void parts.push(Buffer.from(bytes)), options);
  for (const [i, file] of files.entries()) {
    if (i === options?.landmarkAfter) await writer.addLandmark('prefetch');
    const { entry, content } =
      'path' in file ? fileOf(file) : { entry: tarFile(file.name, file.bytes.byteLength), content: file.bytes };
    await writer.add(entry, [content]);
  }
  const { digest, size, diffId, tocDigest } = await writer.finish();
  const blob = new FakeBlob(Buffer.concat(parts));
  const mediaType = 'application/vnd.oci.image.layer.v1.tar+gzip';
  return { blob, source: { descriptor: { mediaType, digest, size }, diffId, tocDigest, reader: () => blob.reader() } };
}

/** What a tar header says of a regular file. */
export function tarFile(name: string, size: number) {
  return {
    name: Buffer.from(name),
    type: 'reg' as const,
    size,
    mode: 0o644,
    uid: 0,
    gid: 0,
    mtime: 0,
    mtimeNsec: 0,
    linkName: Buffer.alloc(0),
    devMajor: 0,
    devMinor: 0,
    xattrs: [],
  };
}

/** A pseudo-random sequence from a seed: bytes that compress to about a half, and numbers below a bound. */
export function randomness(seed: number) {
  let state = (seed * 2654435761) >>> 0 || 1;
  const next = () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>>= 0);
  };
  return {
    below: (n: number) => next() % n,
    bytes: (size: number) => {
      const bytes = Buffer.allocUnsafe(size);
      for (let i = 0; i < size; i++) bytes[i] = next() & 15;
      return bytes;
    },
  };
}

/** A cache, a scheduler and a store over one directory, which can be closed and opened again as a process would. */
export class LayerBench implements AsyncDisposable {
  cache!: ChunkCache;
  store!: LayerStore;

  private constructor(
    readonly root: string,
    private readonly owned: boolean,
    private readonly cacheOptions?: ChunkCacheOptions,
    private readonly storeOptions?: Omit<LayerStoreOptions, 'cache'>,
  ) {}

  static async create(
    options: { root?: string; cache?: ChunkCacheOptions; store?: Omit<LayerStoreOptions, 'cache'> } = {},
  ): Promise<LayerBench> {
    const root = options.root ?? (await mkdtemp(join(tmpdir(), 'lazylayer-layer-')));
    const bench = new LayerBench(root, options.root === undefined, options.cache, options.store);
    await bench.start();
    return bench;
  }

  async start(): Promise<void> {
    this.cache = await ChunkCache.open(this.root, this.cacheOptions);
    this.store = new LayerStore({ cache: this.cache, quietMs: 20, ...this.storeOptions });
  }

  async stop(): Promise<void> {
    await this.store[Symbol.asyncDispose]();
    await this.cache[Symbol.asyncDispose]();
  }

  /** The directory of the only layer, below the root. */
  layerDirectory(name: string): string {
    return join(this.root, 'layers', name);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
    if (this.owned) await rm(this.root, { recursive: true, force: true });
  }
}
