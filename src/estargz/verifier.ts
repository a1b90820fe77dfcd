import { pipeline } from 'node:stream/promises';
import { createGunzip } from 'node:zlib';
import { digestFromBytes, type Digest } from '../digest/digest.js';
import { createDigester, type Digester } from '../digest/digester.js';
import { describeError, FormatError, LazylayerError, VerificationError } from '../errors.js';
import type { RandomAccessReader, ReadOptions } from '../io/reader.js';
import { TarReader, type TarEntry } from '../tar/reader.js';
import type { TocEntry, Xattr } from '../toc/entry.js';
import { normalizeName, showName } from '../toc/names.js';
import { TOC_NAME, type OpenOptions } from './open.js';
import { EstargzReader } from './reader.js';

/** What is claimed of a layer elsewhere: in its descriptor, and in the image's config. */
export interface LayerClaims extends Pick<OpenOptions, 'externalToc'> {
  readonly tocDigest: Digest;
  /** Of the blob. */
  readonly digest?: Digest;
  /** Of the uncompressed tar. */
  readonly diffId?: Digest;
  /** Of the uncompressed tar, in bytes. */
  readonly uncompressedSize?: number;
}

export interface VerifiedLayer {
  readonly entries: number;
  readonly digest: Digest;
  readonly diffId: Digest;
  readonly uncompressedSize: number;
}

/**
 * Recomputes every claim of a layer: the TOC's digest, every chunk as it is read lazily, every file's digest, and, from the blob
 * read once more as a plain tar.gz, that the tar holds the same entries with the same bytes, and the digests of blob and tar.
 * @throws VerificationError that names the first claim that does not hold; FormatError for what cannot be read
 */
export async function verifyLayer(
  blob: RandomAccessReader,
  claims: LayerClaims,
  options?: ReadOptions,
): Promise<VerifiedLayer> {
  const lazy = await EstargzReader.open(blob, { ...claims, ...options });
  const compressed = createDigester();
  const uncompressed = createDigester();
  const stream = passing(inflated(passing(blob.stream(0, blob.size, options), compressed)), uncompressed);
  const tar = new TarReader(stream);
  let entries = 0;
  for await (const found of tar) {
    if (found.name.toString('latin1') === TOC_NAME) continue;
    const claimed = await lazy.readEntry();
    if (claimed === undefined) throw new VerificationError('TOC', `an entry for ${showName(found.name)}`, 'none');
    sameAttributes(claimed, found);
    if (claimed.type === 'reg') await sameBytes(claimed, lazy.openReadStream(claimed, options), tar.payload());
    entries++;
  }
  const missing = await lazy.readEntry();
  if (missing !== undefined) throw new VerificationError('tar', `an entry for ${showName(missing.name)}`, 'none');
  const result = {
    entries,
    digest: compressed.digest(),
    diffId: uncompressed.digest(),
    uncompressedSize: tar.position,
  };
  for (const key of ['digest', 'diffId', 'uncompressedSize'] as const)
    if (claims[key] !== undefined && claims[key] !== result[key])
      throw new VerificationError(`layer ${key}`, `${claims[key]}`, `${result[key]}`);
  return result;
}

/** Holds what the TOC says of an entry against the tar. Times may differ by the second that some writers round by. */
function sameAttributes(claimed: TocEntry, found: TarEntry): void {
  const what = `TOC entry ${showName(claimed.name)}`;
  const same = (attribute: string, toc: string | number, tar: string | number): void => {
    if (toc !== tar) throw new VerificationError(`${what}, ${attribute}`, `${tar}, as in the tar`, `${toc}`);
  };
  same('name', normalizeName(claimed.name, what), normalizeName(found.name, what));
  for (const key of ['type', 'size', 'mode', 'uid', 'gid', 'devMajor', 'devMinor'] as const)
    same(key, claimed[key], found[key]);
  same('target', claimed.linkName.toString('latin1'), found.linkName.toString('latin1'));
  same('xattrs', xattrText(claimed.xattrs), xattrText(found.xattrs));
  if (Math.abs(claimed.mtime - found.mtime) > 1) same('mtime', claimed.mtime, found.mtime);
}

function xattrText(xattrs: readonly Xattr[]): string {
  const lines = xattrs.map(({ name, value }) => `${showName(Buffer.from(name))}=${Buffer.from(value).toString('hex')}`);
  return lines.sort().join(' ');
}

async function sameBytes(
  claimed: TocEntry,
  lazy: AsyncIterable<Uint8Array>,
  payload: AsyncIterable<Uint8Array>,
): Promise<void> {
  const what = `${showName(claimed.name)}, the file`;
  const [read, stored] = [await digestOfStream(lazy), await digestOfStream(payload)];
  if (read !== stored) throw new VerificationError(what, `${stored}, as in the tar`, read);
  const whole = claimed.digest === undefined ? undefined : digestFromBytes(claimed.digest);
  if (whole !== undefined && whole !== read) throw new VerificationError(what, whole, read);
}

async function digestOfStream(source: AsyncIterable<Uint8Array>): Promise<Digest> {
  const digester = createDigester();
  for await (const bytes of source) digester.update(bytes);
  return digester.digest();
}

async function* passing(source: AsyncIterable<Uint8Array>, digester: Digester): AsyncGenerator<Uint8Array> {
  for await (const bytes of source) {
    digester.update(bytes);
    yield bytes;
  }
}

/** All members of a gzip file after each other. */
async function* inflated(source: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  // The stream holds what it was given, while the source may use its memory again.
  const copies = async function* () {
    for await (const bytes of source) yield Buffer.from(bytes);
  };
  const gunzip = createGunzip();
  const done = pipeline(copies, gunzip).catch((error: unknown) => error);
  try {
    for await (const bytes of gunzip) yield bytes as Uint8Array;
  } catch (error) {
    if (error instanceof LazylayerError) throw error;
    throw new FormatError('layer', { expected: 'a gzip file', found: describeError(error) }, { cause: error });
  } finally {
    gunzip.destroy();
    await done;
  }
}
