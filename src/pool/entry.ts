import { randomBytes } from 'node:crypto';
import { mkdir, readFile, rename, rm, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { hexOf, isDigest, type Digest } from '../digest/digest.js';
import { createPureDigester } from '../digest/digester.js';
import { verifyBytes } from '../digest/verify.js';
import { codeOf, FormatError, VerificationError } from '../errors.js';
import { bufferOf } from '../util/bytes.js';

/** What a reference stands for: the platform's manifest, as the registry sent it. */
export interface PoolManifest {
  /** Of the platform's manifest. For a reference that names an index this is not the index's own. */
  readonly descriptor: { readonly mediaType: string; readonly digest: Digest; readonly size: number };
  readonly manifestBytes: Uint8Array;
}

/** With the config that it names, as the registry sent it; undefined where nobody has asked for that yet. */
export interface PoolContent extends PoolManifest {
  readonly configBytes?: Uint8Array;
}

/** Which image an entry is of. */
export interface PoolName {
  readonly reference: string;
  /** As `os/arch[/variant]`; undefined for this machine's. */
  readonly platform?: string;
}

export interface PoolEntry extends PoolName, PoolContent {
  /** When the registry was last asked, in milliseconds since 1970. */
  readonly loadedAt: number;
  /** The entry's directory, which holds `manifest`, and `config` where it is known. */
  readonly directory: string;
}

/** What the third file, `reference`, says: a digest cannot be turned back into a name. */
interface Label extends PoolName {
  readonly version: 1;
  readonly descriptor: PoolContent['descriptor'];
  readonly loadedAt: number;
}

const directoryPattern = /^metadata--sha256-[0-9a-f]{64}$/;
const asidePattern = /^metadata--sha256-[0-9a-f]{64}\..+\.tmp$/;

export const isEntryDirectory = (name: string): boolean => directoryPattern.test(name);
/** What a write or a removal that was cut short leaves. */
export const isLeftover = (name: string): boolean => asidePattern.test(name);

/**
 * `metadata--sha256-<hex>`, by the digest of the reference: the name that tools behind an additional layer store look for. An
 * image of another platform than this machine's has the platform in the digest too, after a space, which no reference holds.
 */
export function directoryName({ reference, platform }: PoolName): string {
  const text = platform === undefined ? reference : `${reference} ${platform}`;
  return `metadata--sha256-${hexOf(createPureDigester().update(Buffer.from(text)).digest())}`;
}

/** @throws FormatError, VerificationError unless the bytes are the manifest described and, where it is there, the config that it names. */
export function checkContent(content: PoolContent): void {
  verifyPart(content.manifestBytes, content.descriptor, 'manifest');
  const config = (
    parseJson(content.manifestBytes, 'manifest') as { config?: { digest?: unknown; size?: unknown } } | null
  )?.config;
  const { digest, size } = config ?? {};
  if (typeof digest !== 'string' || !isDigest(digest) || typeof size !== 'number')
    throw new FormatError('manifest', { expected: 'a config descriptor', found: JSON.stringify(config) ?? 'none' });
  if (content.configBytes !== undefined) verifyPart(content.configBytes, { digest, size }, 'config');
}

function verifyPart(bytes: Uint8Array, expected: { digest: Digest; size: number }, what: string): void {
  if (bytes.byteLength !== expected.size)
    throw new VerificationError(what, `${expected.size} bytes`, `${bytes.byteLength} bytes`);
  verifyBytes(bytes, expected.digest, what);
}

function parseJson(bytes: Uint8Array, what: string): unknown {
  try {
    return JSON.parse(bufferOf(bytes).toString('utf8')) as unknown;
  } catch (cause) {
    throw new FormatError(what, { expected: 'JSON', found: (cause as Error).message }, { cause });
  }
}

/**
 * The entry's name and age, without its content.
 * @throws FormatError when the label is malformed or lies in the directory of another name; ENOENT.
 */
export async function readLabel(directory: string): Promise<Label> {
  const label = parseJson(await readFile(join(directory, 'reference')), 'reference') as Partial<Label> | null;
  if (
    label?.version !== 1 ||
    typeof label.reference !== 'string' ||
    (label.platform !== undefined && typeof label.platform !== 'string') ||
    !Number.isFinite(label.loadedAt) ||
    typeof label.descriptor?.mediaType !== 'string' ||
    typeof label.descriptor.size !== 'number' ||
    typeof label.descriptor.digest !== 'string' ||
    !isDigest(label.descriptor.digest) ||
    !directory.endsWith(directoryName(label as Label))
  )
    throw new FormatError(`${directory}/reference`, {
      expected: 'the label of this entry',
      found: JSON.stringify(label),
    });
  return label as Label;
}

/** @throws FormatError, VerificationError, ENOENT: any of them means that the entry must be loaded again. */
export async function readEntry(directory: string): Promise<PoolEntry> {
  const [label, manifestBytes, configBytes] = await Promise.all([
    readLabel(directory),
    readFile(join(directory, 'manifest')),
    readFile(join(directory, 'config')).catch((error: unknown) => {
      if (codeOf(error) !== 'NOT_FOUND') throw error;
    }),
  ]);
  const { reference, platform, descriptor, loadedAt } = label;
  const config = configBytes !== undefined && { configBytes };
  const entry: PoolEntry = { reference, platform, descriptor, manifestBytes, ...config, loadedAt, directory };
  checkContent(entry);
  return entry;
}

/**
 * Puts an entry in its directory, in the place of an older one: written aside and renamed, so a reader sees a whole entry. Nothing
 * is synced: what a crash tears fails its digest when it is read, and costs one load.
 */
export async function writeEntry(entry: PoolEntry): Promise<void> {
  const { reference, platform, descriptor, loadedAt, directory } = entry;
  const label: Label = { version: 1, reference, platform, descriptor, loadedAt };
  const aside = `${directory}.${randomBytes(6).toString('hex')}.tmp`;
  try {
    await mkdir(aside, { mode: 0o755 });
    await writeFile(join(aside, 'manifest'), entry.manifestBytes);
    if (entry.configBytes !== undefined) await writeFile(join(aside, 'config'), entry.configBytes);
    await writeFile(join(aside, 'reference'), JSON.stringify(label));
    await touch(aside, loadedAt);
    await removeEntry(directory);
    await rename(aside, directory);
  } catch (error) {
    await rm(aside, { recursive: true, force: true });
    throw error;
  }
}

/** The name goes first, so that no reader meets an entry that is half gone. */
export async function removeEntry(directory: string): Promise<void> {
  const aside = `${directory}.${randomBytes(6).toString('hex')}.tmp`;
  try {
    await rename(directory, aside);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return;
    throw error;
  }
  await rm(aside, { recursive: true, force: true });
}

/** Marks the entry as used at `time` (milliseconds): what its place in the LRU is taken from after a restart. */
export async function touch(directory: string, time: number): Promise<void> {
  await utimes(directory, time / 1000, time / 1000);
}
