import { promisify } from 'node:util';
import { gunzip, gunzipSync } from 'node:zlib';
import type { Digest } from '../digest/digest.js';
import { digestOf } from '../digest/digester.js';
import { verifyBytes } from '../digest/verify.js';
import { describeError, FormatError, LazylayerError } from '../errors.js';
import type { BlobEnd, RandomAccessReader, ReadOptions } from '../io/reader.js';
import { parseTarHeader, TAR_BLOCK } from '../tar/header.js';
import type { Tree } from '../toc/tree.js';
import { FOOTER_BYTES, parseFooter, type FooterKind } from './footer.js';
import { treeFromToc, type TocOptions } from './toc.js';

export const TOC_NAME = 'stargz.index.json';

/** TOCs beyond this, in bytes of JSON, are refused: some 1.5 million files. */
export const MAX_TOC_BYTES = 512 * 1024 * 1024;

/** The blob is a layer of another kind: to be downloaded whole. */
export class NotEstargzError extends LazylayerError {
  constructor(found: string) {
    super('UNSUPPORTED', `eStargz: expected a footer at the end of the blob, found ${found}`);
  }
}

export interface OpenOptions extends ReadOptions {
  /** What the layer's descriptor claims in `containerd.io/snapshot/stargz/toc.digest`. The TOC is always held against it. */
  readonly tocDigest?: Digest;
  /** Open a layer without a TOC digest: nothing that it holds can then be trusted. */
  readonly allowNoVerification?: boolean;
  /** Brings the blob's end where it was asked for before; what does not fit the blob is asked for again. */
  readonly end?: (signal?: AbortSignal) => Promise<BlobEnd | undefined>;
  /** Brings the bytes of the TOC's own blob (a gzipped tar) for a layer whose TOC lies in another image. */
  readonly externalToc?: (signal?: AbortSignal) => Promise<Uint8Array>;
}

/** A TOC as it lies in the blob, not verified yet: plain data, fit to be handed to another thread. */
export interface FetchedToc {
  /** The TOC's gzip member. */
  readonly compressed: Uint8Array;
  /** What its JSON must have; undefined where nothing vouches for it and that was allowed. */
  readonly tocDigest?: Digest;
  /** Byte in the blob where content ends. */
  readonly contentEnd: number;
  /** Bytes of the blob from `contentEnd` to its end: the compressed TOC and the footer. */
  readonly tocBytes: number;
  readonly footer: FooterKind;
}

export interface OpenedToc {
  /** Digest of the TOC's JSON: the one claimed, or the one found where none is claimed. */
  readonly tocDigest: Digest;
  /** False where nothing was claimed to verify against. */
  readonly verified: boolean;
  /** The TOC's JSON. */
  readonly json: Buffer;
  /** Byte in the blob where content ends. */
  readonly contentEnd: number;
  /** Bytes of the blob from `contentEnd` to its end: the compressed TOC and the footer. */
  readonly tocBytes: number;
  readonly footer: FooterKind;
}

/**
 * Bytes to ask for first, from the end of a blob of `size` bytes, so that the TOC is among them. A TOC takes some 50 bytes an entry:
 * 0.6 percent of a Debian base, 0.03 to 0.15 percent of layers of programs, two percent of headers or manual pages. A second
 * request costs a round trip, in which a line carries about a megabyte: what covers bases and most layers costs less than that.
 */
export function suffixBytes(size: number): number {
  return Math.min(size, Math.max(LEAST_SUFFIX_BYTES, Math.min(MOST_SUFFIX_BYTES, Math.ceil(size / 128))));
}

/** The same where the size is not known: of the lowest layer, which may be a base, and of those above it. */
export function blindSuffixBytes(lowest: boolean): number {
  return lowest ? MOST_SUFFIX_BYTES : LEAST_SUFFIX_BYTES;
}

const LEAST_SUFFIX_BYTES = 256 * 1024;
const MOST_SUFFIX_BYTES = 512 * 1024;

/** The end of a blob, with which reading its TOC begins. */
export async function readEnd(reader: RandomAccessReader, options?: ReadOptions): Promise<BlobEnd> {
  const start = reader.size - suffixBytes(reader.size);
  return { start, bytes: await reader.read(start, reader.size - start, options) };
}

/**
 * Reads a blob's TOC: one read of the blob's end; a second one only where the TOC is longer.
 * @throws NotEstargzError for a blob without a footer
 * @throws FAILED_PRECONDITION where no TOC digest is given and none may be missing
 */
async function fetchToc(
  reader: RandomAccessReader,
  options: OpenOptions = {},
): Promise<{ toc: FetchedToc; content?: Uint8Array }> {
  const { tocDigest } = options;
  if (tocDigest === undefined && options.allowNoVerification !== true)
    throw new LazylayerError(
      'FAILED_PRECONDITION',
      'eStargz: expected the annotation containerd.io/snapshot/stargz/toc.digest on the layer, found none; ' +
        'without it nothing can be verified (--allow-no-verification takes the layer all the same)',
    );
  const { size } = reader;
  if (size < FOOTER_BYTES.external) throw new NotEstargzError(`${size} bytes`);
  const ahead = await options.end?.(options.signal);
  const fits = ahead !== undefined && ahead.start + ahead.bytes.byteLength === size;
  const { start, bytes: tail } = fits ? ahead : await readEnd(reader, options);
  const footer = parseFooter(tail, size);
  if (footer === undefined) throw new NotEstargzError('other bytes');
  const { kind, tocOffset: contentEnd } = footer;
  const tocBytes = size - contentEnd;
  let compressed: Uint8Array;
  if (kind === 'external') {
    if (options.externalToc === undefined)
      throw new LazylayerError(
        'UNSUPPORTED',
        'eStargz: the TOC lies in another image, and no way to that image was given',
      );
    compressed = await options.externalToc(options.signal);
  } else {
    if (tocBytes > MAX_TOC_BYTES)
      throw new FormatError('eStargz footer', {
        offset: size - FOOTER_BYTES[kind],
        expected: `a TOC of at most ${MAX_TOC_BYTES} bytes`,
        found: `${tocBytes}`,
      });
    const rest = tail.subarray(Math.max(0, contentEnd - start), tail.byteLength - FOOTER_BYTES[kind]);
    compressed =
      contentEnd < start ? Buffer.concat([await reader.read(contentEnd, start - contentEnd, options), rest]) : rest;
  }
  options.signal?.throwIfAborted();
  const toc = { compressed, contentEnd, tocBytes, footer: kind, ...(tocDigest !== undefined && { tocDigest }) };
  return { toc, ...(start === 0 && { content: tail.subarray(0, contentEnd) }) };
}

/**
 * Reads and verifies a blob's TOC.
 * @throws what `readEstargzTree` throws for requests, footer and digest
 */
export async function openToc(reader: RandomAccessReader, options?: OpenOptions): Promise<OpenedToc> {
  const { toc: fetched } = await fetchToc(reader, options);
  const json = jsonIn(await inflate(fetched.compressed, inflateOptions).catch(noGzip));
  const tocDigest = verified(json, fetched);
  const { contentEnd, tocBytes, footer } = fetched;
  return { tocDigest, verified: fetched.tocDigest !== undefined, json, contentEnd, tocBytes, footer };
}

/**
 * The tree of a TOC that has come. Takes some 5 microseconds an entry without a pause: fit for another thread.
 * @throws VerificationError where the TOC is not the one claimed; FormatError where it cannot be read
 */
export function buildTree(toc: FetchedToc): Tree {
  const { tocDigest: claimed, contentEnd, compressed } = toc;
  let tar: Buffer;
  try {
    tar = gunzipSync(compressed, inflateOptions);
  } catch (error) {
    return noGzip(error);
  }
  const json = jsonIn(tar);
  const tocDigest = verified(json, toc);
  return treeFromToc(json, { tocDigest, contentEnd, ...tocOptions(claimed !== undefined) });
}

export interface OpenedTree {
  readonly tree: Tree;
  /** Digest of the TOC's JSON. */
  readonly tocDigest: Digest;
  /** Bytes of the blob from the content's end to its own. */
  readonly tocBytes: number;
  /** The blob up to `facts.contentEnd`, not verified, where it is so short that it came with the TOC. */
  readonly content?: Uint8Array;
}

/**
 * Opens a blob: one read of its end, a second one only where the TOC is longer, then its tree is made by `build`.
 * @throws NotEstargzError for a blob without a footer
 * @throws FAILED_PRECONDITION where no TOC digest is given and none may be missing
 * @throws VerificationError where the TOC is not the one claimed; FormatError where it cannot be read
 */
export async function readEstargzTree(
  reader: RandomAccessReader,
  options?: OpenOptions,
  build: (toc: FetchedToc) => Tree | Promise<Tree> = buildTree,
): Promise<OpenedTree> {
  const { toc, content } = await fetchToc(reader, options);
  const tree = await build(toc);
  return { tree, tocDigest: tree.facts.source, tocBytes: toc.tocBytes, ...(content !== undefined && { content }) };
}

/** What a TOC may leave out, by whether anything is verified at all. */
export function tocOptions(verified: boolean): TocOptions {
  return { allowMissingDigests: !verified };
}

const inflateOptions = { maxOutputLength: MAX_TOC_BYTES, chunkSize: 256 * 1024 };
const inflate = promisify<Uint8Array, typeof inflateOptions, Buffer>(gunzip);

function noGzip(error: unknown): never {
  throw new FormatError('TOC', { expected: 'a gzip member', found: describeError(error) }, { cause: error });
}

/** The JSON in a TOC member: a tar whose first file is `stargz.index.json`. */
function jsonIn(tar: Buffer): Buffer {
  const header = parseTarHeader(tar, 0, 0);
  const name = header?.name.toString('latin1') ?? 'nothing';
  if (header === undefined || name !== TOC_NAME || header.size > tar.byteLength - TAR_BLOCK)
    throw new FormatError('TOC', {
      expected: `a tar that holds ${TOC_NAME}`,
      found: `${JSON.stringify(name)}, ${header?.size ?? 0} bytes, in ${tar.byteLength}`,
    });
  return tar.subarray(TAR_BLOCK, TAR_BLOCK + header.size);
}

/** The digest of a TOC: the one claimed, or the one found where none is claimed. */
function verified(json: Buffer, { tocDigest }: FetchedToc): Digest {
  if (tocDigest === undefined) return digestOf(json);
  verifyBytes(json, tocDigest, 'TOC');
  return tocDigest;
}
