import { hash } from 'node:crypto';
import { gzipSync } from 'node:zlib';
import type { Digest } from '../digest/digest.js';
import { createDigester, digestOf } from '../digest/digester.js';
import { LazylayerError } from '../errors.js';
import { encodeTarHeader, TAR_END, tarPadding, type TarAttributes } from '../tar/writer.js';
import { NO_BYTES } from '../toc/entry.js';
import { bufferOf } from '../util/bytes.js';
import { encodeFooter, type FooterKind } from './footer.js';
import { TOC_NAME } from './open.js';
import { formatRfc3339 } from './time.js';
import { TOC_DIGEST_ANNOTATION, UNCOMPRESSED_SIZE_ANNOTATION } from './annotations.js';

export const DEFAULT_CHUNK_BYTES = 4 * 1024 * 1024;

export interface EstargzWriterOptions {
  /** Uncompressed bytes of a chunk; 4 MiB by default. */
  readonly chunkSize?: number;
  /** Small files share a member until it holds this many uncompressed bytes; by default each chunk begins its own. */
  readonly minChunkSize?: number;
  /** `stargz` writes the legacy footer, `external` leaves the TOC to a blob of its own. */
  readonly footer?: FooterKind;
  /** zlib level, 0 to 9; 9 by default, as other writers of the format have it. */
  readonly level?: number;
}

export interface EstargzResult {
  /** Of the JSON: what the manifest's annotation must claim. */
  readonly tocDigest: Digest;
  /** Digest of the uncompressed tar. */
  readonly diffId: Digest;
  readonly digest: Digest;
  /** Bytes of the blob. */
  readonly size: number;
  /** Bytes of the uncompressed tar. */
  readonly uncompressedSize: number;
  /** What the layer's descriptor must carry. */
  readonly annotations: Readonly<Record<string, string>>;
  /** The TOC's own blob, a gzipped tar, where the footer is `external`. */
  readonly tocBlob: Buffer | undefined;
}

/** One object of the TOC, its strings one character a byte, in the order in which the format's first writer puts its members. */
interface JsonEntry {
  name: string;
  type: string;
  [member: string]: unknown;
}

/**
 * Writes an eStargz blob as its entries come: any tar.gz reader reads it, and `openToc` finds its TOC. Memory holds the TOC and one
 * member. Names go into the TOC byte by byte, whatever their encoding.
 */
export class EstargzWriter {
  readonly #chunkSize: number;
  readonly #minChunkSize: number;
  readonly #footer: FooterKind;
  readonly #level: number;
  readonly #diff = createDigester();
  readonly #blob = createDigester();
  readonly #toc: JsonEntry[] = [];
  #member: Buffer[] = [];
  #memberBytes = 0;
  #offset = 0;
  #uncompressed = 0;

  /** @param sink takes the blob's bytes in order; what it returns is awaited */
  constructor(
    private readonly sink: (bytes: Uint8Array) => Promise<void> | void,
    options?: EstargzWriterOptions,
  ) {
    this.#chunkSize = options?.chunkSize ?? DEFAULT_CHUNK_BYTES;
    this.#minChunkSize = options?.minChunkSize ?? 0;
    this.#footer = options?.footer ?? 'estargz';
    this.#level = options?.level ?? 9;
  }

  /**
   * Appends an entry and a regular file's bytes.
   * @throws INVALID_ARGUMENT where `payload` has not `entry.size` bytes
   */
  async add(entry: TarAttributes, payload?: AsyncIterable<Uint8Array> | Iterable<Uint8Array>): Promise<void> {
    if (entry.name.toString('latin1') === TOC_NAME) return; // a layer converted again: the old TOC goes
    this.#append(encodeTarHeader(entry));
    const record = describe(entry);
    this.#toc.push(record);
    if (entry.type !== 'reg') return;
    const whole = createDigester();
    let at = 0;
    for await (const chunk of chunked(payload ?? [], this.#chunkSize)) {
      whole.update(chunk);
      await this.#startChunk();
      const first = at === 0;
      const target = first ? record : { name: record.name, type: 'chunk' };
      if (!first) this.#toc.push(target);
      Object.assign(target, {
        offset: this.#offset,
        ...(first ? {} : { chunkOffset: at }),
        ...(chunk.byteLength < entry.size - at ? { chunkSize: chunk.byteLength } : {}),
        chunkDigest: `sha256:${hash('sha256', chunk, 'hex')}`,
        ...(this.#memberBytes > 0 ? { innerOffset: this.#memberBytes } : {}),
      });
      this.#append(chunk);
      at += chunk.byteLength;
    }
    if (at !== entry.size)
      throw new LazylayerError(
        'INVALID_ARGUMENT',
        `eStargz writer: expected ${entry.size} bytes of payload, found ${at}`,
      );
    record.digest = whole.digest();
    this.#append(tarPadding(entry.size));
  }

  /** Marks the place: what was added before is to be fetched first (`prefetch`), or nothing is (`none`). At most once. */
  async addLandmark(kind: 'prefetch' | 'none'): Promise<void> {
    const name = kind === 'prefetch' ? '.prefetch.landmark' : '.no.prefetch.landmark';
    await this.add({ ...plainFile, name: Buffer.from(name), size: 1 }, [Buffer.of(0x0f)]);
  }

  /** Writes TOC and footer. The writer is spent afterwards. */
  async finish(): Promise<EstargzResult> {
    const json = Buffer.from(JSON.stringify({ version: 1, entries: this.#toc }, undefined, '\t'), 'latin1');
    const header = encodeTarHeader({ ...plainFile, name: Buffer.from(TOC_NAME), mode: 0o444, size: json.byteLength });
    const tocTar = Buffer.concat([header, json, tarPadding(json.byteLength), TAR_END]);
    const external = this.#footer === 'external';
    if (external) this.#append(TAR_END);
    await this.#flush();
    const tocOffset = this.#offset;
    if (!external) {
      this.#append(tocTar);
      await this.#flush();
    }
    await this.#write(encodeFooter(this.#footer, tocOffset));
    const tocDigest = digestOf(json);
    return {
      tocDigest,
      diffId: this.#diff.digest(),
      digest: this.#blob.digest(),
      size: this.#offset,
      uncompressedSize: this.#uncompressed,
      annotations: {
        [TOC_DIGEST_ANNOTATION]: tocDigest,
        [UNCOMPRESSED_SIZE_ANNOTATION]: String(this.#uncompressed),
      },
      tocBlob: external ? this.#gzip(tocTar) : undefined,
    };
  }

  async #startChunk(): Promise<void> {
    if (this.#memberBytes >= this.#minChunkSize) await this.#flush();
  }

  #append(bytes: Uint8Array): void {
    if (bytes.byteLength === 0) return;
    this.#diff.update(bytes);
    this.#uncompressed += bytes.byteLength;
    this.#memberBytes += bytes.byteLength;
    this.#member.push(bufferOf(bytes));
  }

  async #flush(): Promise<void> {
    if (this.#memberBytes === 0) return;
    const member = Buffer.concat(this.#member);
    this.#member = [];
    this.#memberBytes = 0;
    await this.#write(this.#gzip(member));
  }

  #gzip(bytes: Buffer): Buffer {
    return gzipSync(bytes, { level: this.#level });
  }

  async #write(bytes: Buffer): Promise<void> {
    this.#blob.update(bytes);
    this.#offset += bytes.byteLength;
    await this.sink(bytes);
  }
}

const plainFile: TarAttributes = {
  name: NO_BYTES,
  type: 'reg',
  size: 0,
  mode: 0o644,
  uid: 0,
  gid: 0,
  mtime: 0,
  mtimeNsec: 0,
  linkName: NO_BYTES,
  devMajor: 0,
  devMinor: 0,
  xattrs: [],
};

function describe(entry: TarAttributes): JsonEntry {
  const hasTime = entry.mtime !== 0 || entry.mtimeNsec !== 0;
  const isDevice = entry.type === 'char' || entry.type === 'block';
  return {
    name: entry.name.toString('latin1'),
    type: entry.type,
    ...(entry.size > 0 ? { size: entry.size } : {}),
    ...(hasTime ? { modtime: formatRfc3339({ seconds: entry.mtime, nanoseconds: entry.mtimeNsec }) } : {}),
    ...(entry.linkName.byteLength > 0 ? { linkName: entry.linkName.toString('latin1') } : {}),
    mode: entry.mode,
    ...(entry.uid === 0 ? {} : { uid: entry.uid }),
    ...(entry.gid === 0 ? {} : { gid: entry.gid }),
    ...(isDevice ? { devMajor: entry.devMajor, devMinor: entry.devMinor } : {}),
    ...(entry.xattrs.length > 0 ? { xattrs: xattrsOf(entry) } : {}),
  };
}

function xattrsOf(entry: TarAttributes): Record<string, string> {
  return Object.fromEntries(
    entry.xattrs.map(({ name, value }) => [
      Buffer.from(name).toString('latin1'),
      Buffer.from(value).toString('base64'),
    ]),
  );
}

/** The same bytes in pieces of exactly `size`, the last one shorter; each is memory of its own. */
async function* chunked(
  source: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
  size: number,
): AsyncGenerator<Buffer, void, undefined> {
  let parts: Buffer[] = [];
  let have = 0;
  for await (const piece of source)
    for (let at = 0; at < piece.byteLength;) {
      const part = piece.subarray(at, at + size - have);
      parts.push(Buffer.from(part));
      have += part.byteLength;
      at += part.byteLength;
      if (have < size) continue;
      yield Buffer.concat(parts);
      parts = [];
      have = 0;
    }
  if (have > 0) yield Buffer.concat(parts);
}
