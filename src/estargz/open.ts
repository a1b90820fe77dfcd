import { promisify } from 'node:util';
import { gunzip, type ZlibOptions } from 'node:zlib';
import type { Digest } from '../digest/digest.js';
import { digestInTurns } from '../digest/digester.js';
import { describeError, FormatError, LazylayerError, VerificationError } from '../errors.js';
import type { BlobEnd, EndOptions, RandomAccessReader } from '../io/reader.js';
import { parseTarHeader, TAR_BLOCK } from '../tar/header.js';
import type { Tree } from '../toc/tree.js';
import { gather } from '../util/bytes.js';
import { FOOTER_BYTES, parseFooter, type FooterKind } from './footer.js';
import { treeFromToc, type TocOptions } from './toc.js';

export const TOC_NAME = 'stargz.index.json';

/** TOCs beyond this, in bytes of the tar that holds the JSON, are refused: some 800,000 files. */
export const MAX_TOC_BYTES = 256 * 1024 * 1024;

/** The blob is a layer of another kind: to be downloaded whole. */
export class NotEstargzError extends LazylayerError {
  constructor(found: string) {
    super('UNSUPPORTED', `eStargz: expected a footer at the end of the blob, found ${found}`);
  }
}

/** Brings the end of a blob that was asked for before, if it does. */
export type EndSource = (signal?: AbortSignal) => Promise<BlobEnd | undefined>;

export interface OpenOptions extends EndOptions {
  /** What the layer's descriptor claims in `containerd.io/snapshot/stargz/toc.digest`. The TOC is always held against it. */
  readonly tocDigest?: Digest;
  /** The layer is not an image's lowest: its TOC is likely to be short. */
  readonly aboveBase?: boolean;
  /** Open a layer without a TOC digest: nothing that it holds can then be trusted. */
  readonly allowNoVerification?: boolean;
  /** The blob's end where it was asked for before; what does not fit the blob is asked for again. */
  readonly end?: EndSource;
  /** Awaited before the TOC is inflated, to so many bytes at most, and again where it turns out to be longer. Its digest is not known by then. */
  readonly onInflate?: (bytes: number) => Promise<void>;
  /** Brings the bytes of the TOC's own blob (a gzipped tar) for a layer whose TOC lies in another image. */
  readonly externalToc?: (signal?: AbortSignal) => Promise<Uint8Array>;
}

/** A TOC that is what its layer's manifest vouches for, if it does: plain data, fit to be handed to another thread. Nobody has read it yet. */
export interface OpenedToc {
  /** Digest of the TOC's JSON: the one claimed, or the one found where none is claimed. */
  readonly tocDigest: Digest;
  /** False where nothing was claimed to verify against. */
  readonly verified: boolean;
  /** The TOC's JSON. */
  readonly json: Uint8Array;
  /** Byte in the blob where content ends. */
  readonly contentEnd: number;
  /** Bytes of the blob from `contentEnd` to its end: the compressed TOC and the footer. */
  readonly tocBytes: number;
  readonly footer: FooterKind;
}

/**
 * Bytes to ask for first, from the end of a blob of `size` bytes, so that the TOC is among them. A TOC takes some 50 bytes an entry:
 * 0.6 percent of a Debian base, 0.03 to 0.15 percent of layers of programs, two percent of headers or manual pages. A second
 * request costs a round trip, in which a line carries about a megabyte: what covers bases, and most of the layers above them, costs less than that.
 */
export function suffixBytes(size: number, aboveBase = false): number {
  const likely = Math.ceil(size / (aboveBase ? 1024 : 128));
  return Math.min(size, Math.max(LEAST_SUFFIX_BYTES, Math.min(MOST_SUFFIX_BYTES, likely)));
}

/** The same where the size is not known. */
export function blindSuffixBytes(aboveBase: boolean): number {
  return aboveBase ? LEAST_SUFFIX_BYTES : MOST_SUFFIX_BYTES;
}

const LEAST_SUFFIX_BYTES = 128 * 1024;
const MOST_SUFFIX_BYTES = 512 * 1024;

/** The end of a blob, with which reading its TOC begins. */
async function readEnd(reader: RandomAccessReader, options: OpenOptions): Promise<BlobEnd> {
  const length = suffixBytes(reader.size, options.aboveBase);
  const end = { start: reader.size - length, bytes: Buffer.allocUnsafeSlow(length) };
  await gather(reader.stream(end.start, length, options), end.bytes, (come) => options.onEnd?.(end, come));
  return end;
}

/** The TOC's gzip member, where it lies, and the blob's content where that came with it. */
interface FetchedToc extends Pick<OpenedToc, 'contentEnd' | 'tocBytes' | 'footer'> {
  readonly compressed: Uint8Array;
  readonly content?: Uint8Array;
}

async function fetchToc(reader: RandomAccessReader, options: OpenOptions): Promise<FetchedToc> {
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
  const content = start === 0 ? tail.subarray(0, contentEnd) : undefined;
  return { compressed, contentEnd, tocBytes, footer: kind, ...(content !== undefined && { content }) };
}

/**
 * Reads a blob's TOC and holds it against the digest that is claimed: one read of the blob's end, a second one only where the TOC is longer.
 * @throws NotEstargzError for a blob without a footer
 * @throws FAILED_PRECONDITION where no TOC digest is given and none may be missing
 * @throws VerificationError where the TOC is not the one claimed; FormatError where it is none
 */
export async function openToc(
  reader: RandomAccessReader,
  options: OpenOptions = {},
): Promise<OpenedToc & Pick<FetchedToc, 'content'>> {
  const { tocDigest: claimed } = options;
  if (claimed === undefined && options.allowNoVerification !== true)
    throw new LazylayerError(
      'FAILED_PRECONDITION',
      'eStargz: expected the annotation containerd.io/snapshot/stargz/toc.digest on the layer, found none; ' +
        'without it nothing can be verified (--allow-no-verification takes the layer all the same)',
    );
  const { compressed, ...where } = await fetchToc(reader, options);
  const json = jsonIn(await inflated(compressed, options.onInflate));
  const tocDigest = await digestInTurns(json);
  if (claimed !== undefined && tocDigest !== claimed) throw new VerificationError('TOC', claimed, tocDigest);
  return { ...where, json, tocDigest, verified: claimed !== undefined };
}

/**
 * The tree of a TOC. Takes some 5 microseconds an entry without a pause: fit for another thread.
 * @throws FormatError where the TOC cannot be read
 */
export function buildTree({ json, tocDigest, verified, contentEnd }: OpenedToc): Tree {
  return treeFromToc(json, { tocDigest, contentEnd, ...tocOptions(verified) });
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
 * Opens a blob: reads its TOC (see `openToc` for requests and errors), of which `build` makes the tree.
 * @throws FormatError where the TOC cannot be read
 */
export async function readEstargzTree(
  reader: RandomAccessReader,
  options?: OpenOptions,
  build: (toc: OpenedToc) => Tree | Promise<Tree> = buildTree,
): Promise<OpenedTree> {
  const { content, ...toc } = await openToc(reader, options);
  const tree = await build(toc);
  return { tree, tocDigest: toc.tocDigest, tocBytes: toc.tocBytes, ...(content !== undefined && { content }) };
}

/** What a TOC may leave out, by whether anything is verified at all. */
export function tocOptions(verified: boolean): TocOptions {
  return { allowMissingDigests: !verified };
}

const inflate = promisify<Uint8Array, ZlibOptions, Buffer>(gunzip);
/** Deflate packs no tighter. */
const MAX_RATIO = 1032;

/**
 * What was packed by gzip, in one piece of memory where it is one member, whose end tells its length (RFC 1952, ISIZE: the last four bytes). Of
 * several members, which no writer is known to make of a TOC, it tells that of the last one alone.
 */
async function inflated(packed: Uint8Array, onInflate: OpenOptions['onInflate']): Promise<Buffer> {
  const { buffer, byteOffset, byteLength } = packed;
  const claimed = byteLength < 18 ? 0 : new DataView(buffer, byteOffset, byteLength).getUint32(byteLength - 4, true);
  if (Math.min(claimed, MAX_RATIO * byteLength) > MAX_TOC_BYTES)
    throw new FormatError('TOC', { expected: `at most ${MAX_TOC_BYTES} bytes`, found: `${claimed}` });
  const possible = Math.min(MAX_RATIO * byteLength, MAX_TOC_BYTES);
  for (let most = Math.min(claimed, possible); ; most = possible) {
    await onInflate?.(most);
    try {
      return await inflate(packed, { maxOutputLength: Math.max(1, most), chunkSize: Math.max(64 * 1024, most + 1) });
    } catch (error) {
      const isLonger = (error as NodeJS.ErrnoException).code === 'ERR_BUFFER_TOO_LARGE';
      if (isLonger && most < possible) continue;
      const [expected, found] = isLonger
        ? [`at most ${MAX_TOC_BYTES} bytes`, 'more']
        : ['what gzip has packed', describeError(error)];
      throw new FormatError('TOC', { expected, found }, { cause: error });
    }
  }
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
