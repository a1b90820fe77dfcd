import { promisify } from 'node:util';
import { gunzip } from 'node:zlib';
import type { Digest } from '../digest/digest.js';
import { digestOf } from '../digest/digester.js';
import { verifyBytes } from '../digest/verify.js';
import { describeError, FormatError, LazylayerError } from '../errors.js';
import type { RandomAccessReader, ReadOptions } from '../io/reader.js';
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
  /** Brings the bytes of the TOC's own blob (a gzipped tar) for a layer whose TOC lies in another image. */
  readonly externalToc?: () => Promise<Uint8Array>;
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
 * Bytes to ask for first, from the end of a blob of `size` bytes, so that the TOC is among them. Debian's tools write TOCs of 45 to
 * 60 bytes an entry: 0.8 to 1.9 percent of layers of programs, headers or manual pages. A little more than that costs less than
 * a second request.
 */
export function suffixBytes(size: number): number {
  return Math.min(size, Math.max(256 * 1024, Math.min(2 * 1024 * 1024, Math.ceil(size / 40))));
}

/**
 * Reads and verifies a blob's TOC: one read of the blob's end; a second one only where the TOC is longer.
 * @throws NotEstargzError for a blob without a footer
 * @throws FAILED_PRECONDITION where no TOC digest is given and none may be missing
 * @throws VerificationError where the TOC is not the one claimed; FormatError where it cannot be read
 */
export async function openToc(reader: RandomAccessReader, options?: OpenOptions): Promise<OpenedToc> {
  if (options?.tocDigest === undefined && options?.allowNoVerification !== true)
    throw new LazylayerError(
      'FAILED_PRECONDITION',
      'eStargz: expected the annotation containerd.io/snapshot/stargz/toc.digest on the layer, found none; ' +
        'without it nothing can be verified (--allow-no-verification takes the layer all the same)',
    );
  const { size } = reader;
  if (size < FOOTER_BYTES.external) throw new NotEstargzError(`${size} bytes`);
  const start = size - suffixBytes(size);
  let tail = await reader.read(start, size - start, options);
  const footer = parseFooter(tail, size);
  if (footer === undefined) throw new NotEstargzError('other bytes');
  const { kind, tocOffset } = footer;
  let compressed: Uint8Array;
  if (kind === 'external') {
    if (options?.externalToc === undefined)
      throw new LazylayerError(
        'UNSUPPORTED',
        'eStargz: the TOC lies in another image, and no way to that image was given',
      );
    compressed = await options.externalToc();
  } else {
    if (size - tocOffset > MAX_TOC_BYTES)
      throw new FormatError('eStargz footer', {
        offset: size - FOOTER_BYTES[kind],
        expected: `a TOC of at most ${MAX_TOC_BYTES} bytes`,
        found: `${size - tocOffset}`,
      });
    if (tocOffset < start) {
      const before = await reader.read(tocOffset, start - tocOffset, options);
      tail = Buffer.concat([before, tail]);
    }
    compressed = tail.subarray(tail.byteLength - (size - tocOffset), tail.byteLength - FOOTER_BYTES[kind]);
  }
  options?.signal?.throwIfAborted();
  const json = await readTocMember(compressed);
  if (options?.tocDigest !== undefined) verifyBytes(json, options.tocDigest, 'TOC');
  return {
    tocDigest: options?.tocDigest ?? digestOf(json),
    verified: options?.tocDigest !== undefined,
    json,
    contentEnd: tocOffset,
    tocBytes: size - tocOffset,
    footer: kind,
  };
}

/** Opens a blob and builds its tree. See `openToc` for requests and errors. */
export async function readEstargzTree(
  reader: RandomAccessReader,
  options?: OpenOptions,
): Promise<{ tree: Tree; tocDigest: Digest; tocBytes: number }> {
  const { json, tocDigest, tocBytes, contentEnd, verified } = await openToc(reader, options);
  return { tree: treeFromToc(json, { tocDigest, contentEnd, ...tocOptions(verified) }), tocDigest, tocBytes };
}

/** What a TOC may leave out, by whether anything is verified at all. */
export function tocOptions(verified: boolean): TocOptions {
  return { allowMissingDigests: !verified };
}

const inflate = promisify<Uint8Array, { maxOutputLength: number }, Buffer>(gunzip);

/** The JSON in a TOC member: a gzipped tar whose first file is `stargz.index.json`. */
async function readTocMember(compressed: Uint8Array): Promise<Buffer> {
  let tar: Buffer;
  try {
    tar = await inflate(compressed, { maxOutputLength: MAX_TOC_BYTES });
  } catch (error) {
    throw new FormatError('TOC', { expected: 'a gzip member', found: describeError(error) }, { cause: error });
  }
  const header = parseTarHeader(tar, 0, 0);
  const name = header?.name.toString('latin1') ?? 'nothing';
  if (header === undefined || name !== TOC_NAME || header.size > tar.byteLength - TAR_BLOCK)
    throw new FormatError('TOC', {
      expected: `a tar that holds ${TOC_NAME}`,
      found: `${JSON.stringify(name)}, ${header?.size ?? 0} bytes, in ${tar.byteLength}`,
    });
  return tar.subarray(TAR_BLOCK, TAR_BLOCK + header.size);
}
