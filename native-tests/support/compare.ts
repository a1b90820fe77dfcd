import { createHash } from 'node:crypto';
import { createReadStream, type BigIntStats } from 'node:fs';
import { lstat, readdir, readlink } from 'node:fs/promises';
import { outcomeOf, requirePrograms } from './tools.js';

/** What is told of one file of a tree, as words to compare. */
export type Facts = Readonly<Record<string, string>>;

export interface CompareOptions {
  /** What is left of a time in nanoseconds by how the trees came to be; applied to both. Default: all of it. */
  readonly time?: (nanoseconds: bigint) => bigint;
  /** Names in the root of either tree that are not compared. */
  readonly ignore?: readonly string[];
}

/** The files that make an eStargz layer one: in its tar, so that unpacking shows them, and hidden where it is mounted. */
export const estargzFiles = ['stargz.index.json', '.prefetch.landmark', '.no.prefetch.landmark'];

/**
 * Compares two directory trees and gives one readable line a difference; an empty list means equal. Compared are names (bytes),
 * type, mode, owner, size, time, link count, which names are one file, device numbers, xattrs, symlink targets and contents.
 * Not compared, for they are the filesystem's own: sizes and link counts of directories.
 */
export async function compareTrees(expected: string, found: string, options: CompareOptions = {}): Promise<string[]> {
  return compareFacts(...(await Promise.all([describeTree(expected, options), describeTree(found, options)])));
}

/** The same of two trees that are described already. */
export function compareFacts(left: ReadonlyMap<string, Facts>, right: ReadonlyMap<string, Facts>): string[] {
  const differences: string[] = [];
  for (const [name, facts] of left) {
    const others = right.get(name);
    if (others === undefined) differences.push(`${name}: expected ${facts['type']}, found nothing`);
    else
      for (const key of new Set([...Object.keys(facts), ...Object.keys(others)]))
        if (facts[key] !== others[key])
          differences.push(`${name}: ${key}: expected ${facts[key] ?? 'none'}, found ${others[key] ?? 'none'}`);
  }
  for (const [name, facts] of right)
    if (!left.has(name)) differences.push(`${name}: expected nothing, found ${facts['type']}`);
  return differences.sort();
}

/** Facts of every file below a directory by its path, in which bytes that are no printable ASCII are escaped. */
export async function describeTree(root: string, options: CompareOptions = {}): Promise<Map<string, Facts>> {
  requirePrograms('getfattr');
  const xattrs = await readXattrs(root);
  const files = new Map<string, { path: Buffer; stat: BigIntStats }>();
  await walk(Buffer.from(root), '.', new Set(options.ignore), files);
  const firstNames = new Map<string, string>();
  const tree = new Map<string, Facts>();
  for (const name of [...files.keys()].sort()) {
    const { path, stat } = files.get(name)!;
    const facts: Record<string, string> = {
      type: typeOf(stat),
      mode: (stat.mode & 0o7777n).toString(8),
      owner: `${stat.uid}:${stat.gid}`,
      mtime: `${options.time?.(stat.mtimeNs) ?? stat.mtimeNs} ns`,
      ...xattrs.get(name),
    };
    if (!stat.isDirectory()) {
      facts['links'] = `${stat.nlink}`;
      facts['size'] = `${stat.size}`;
      const file = `${stat.dev} ${stat.ino}`;
      const first = firstNames.get(file);
      if (first === undefined) firstNames.set(file, name);
      facts['same file as'] = first ?? name;
    }
    if (stat.isSymbolicLink()) facts['target'] = escape(await readlink(path, { encoding: 'buffer' }));
    if (stat.isBlockDevice() || stat.isCharacterDevice()) facts['device'] = `${stat.rdev}`;
    if (stat.isFile()) facts['content'] = await sha256File(path);
    tree.set(name, facts);
  }
  return tree;
}

async function walk(
  directory: Buffer,
  name: string,
  ignore: ReadonlySet<string>,
  files: Map<string, { path: Buffer; stat: BigIntStats }>,
): Promise<void> {
  files.set(name, { path: directory, stat: await lstat(directory, { bigint: true }) });
  for (const entry of await readdir(directory, { encoding: 'buffer', withFileTypes: true })) {
    const bytes = entry.name as unknown as Buffer;
    if (ignore.has(bytes.toString('latin1'))) continue;
    const path = Buffer.concat([directory, Buffer.from('/'), bytes]);
    const below = `${name}/${escape(bytes)}`;
    if (entry.isDirectory()) await walk(path, below, noNames, files);
    else files.set(below, { path, stat: await lstat(path, { bigint: true }) });
  }
}

const noNames: ReadonlySet<string> = new Set();

/** Escapes as getfattr(1) does, so that its names are ours: backslash and what is no printable ASCII, as three octal digits. */
function escape(bytes: Buffer): string {
  let text = '';
  for (const byte of bytes)
    text +=
      byte < 0x20 || byte > 0x7e || byte === 0x5c
        ? `\\${byte.toString(8).padStart(3, '0')}`
        : String.fromCharCode(byte);
  return text;
}

/** All xattrs of a tree, also of symlinks, as `xattr NAME` facts with hexadecimal values. */
async function readXattrs(root: string): Promise<Map<string, Record<string, string>>> {
  const args = ['-h', '-R', '-P', '-d', '-m', '-', '-e', 'hex', '--', '.'];
  const { status, stdout, stderr } = await outcomeOf('getfattr', args, {
    cwd: root,
    env: { ...process.env, LC_ALL: 'C' },
  });
  if (status !== 0) throw new Error(`getfattr in ${root} ended with ${status}: ${stderr}`);
  const all = new Map<string, Record<string, string>>();
  for (const block of stdout.toString('latin1').split('\n\n')) {
    const [head, ...lines] = block.split('\n').filter((line) => line !== '');
    if (head === undefined) continue;
    const path = head
      .slice('# file: '.length)
      .replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(parseInt(octal, 8)));
    const facts: Record<string, string> = {};
    for (const line of lines) {
      const equals = line.indexOf('=');
      facts[`xattr ${equals < 0 ? line : line.slice(0, equals)}`] = equals < 0 ? 'empty' : line.slice(equals + 1);
    }
    all.set(path === '.' ? '.' : `./${escape(Buffer.from(path, 'latin1'))}`, facts);
  }
  return all;
}

function typeOf(stat: BigIntStats): string {
  if (stat.isFile()) return 'file';
  if (stat.isDirectory()) return 'directory';
  if (stat.isSymbolicLink()) return 'symlink';
  if (stat.isCharacterDevice()) return 'character device';
  if (stat.isBlockDevice()) return 'block device';
  if (stat.isFIFO()) return 'fifo';
  return 'socket';
}

/** Rounds half up, as ctr-remote does with the times that it writes into a TOC. */
export function roundToSeconds(nanoseconds: bigint): bigint {
  const seconds = 1_000_000_000n;
  const shifted = nanoseconds + seconds / 2n;
  return shifted - (((shifted % seconds) + seconds) % seconds);
}

export async function sha256File(path: Buffer | string): Promise<string> {
  const hash = createHash('sha256');
  for await (const bytes of createReadStream(path, { highWaterMark: 1 << 20 })) hash.update(bytes as Buffer);
  return hash.digest('hex');
}
