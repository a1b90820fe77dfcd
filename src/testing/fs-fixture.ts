import { closeSync, openSync, unlinkSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { randomBytes } from 'node:crypto';
import { Presence } from '../cache/presence.js';
import { hexOf } from '../digest/digest.js';
import { digestOf } from '../digest/digester.js';
import type { LayerView } from '../fs/layer-nodes.js';
import { TreeBuilder } from '../toc/builder.js';
import type { EntryType, TocChunk } from '../toc/entry.js';
import { NONE, ROOT, type Tree } from '../toc/tree.js';

/** One file of a fixture layer. Names and targets in latin1, so that a test can write any bytes. */
export interface FixtureEntry {
  readonly name: string;
  readonly type?: EntryType;
  readonly mode?: number;
  readonly uid?: number;
  readonly gid?: number;
  readonly mtime?: number;
  readonly mtimeNsec?: number;
  readonly size?: number;
  readonly link?: string;
  readonly major?: number;
  readonly minor?: number;
  readonly xattrs?: Readonly<Record<string, string>>;
  /** Whether its chunks are in the cache file from the start. */
  readonly cached?: boolean;
}

export const FIXTURE_CHUNK = 64 * 1024;

/** The bytes `[offset, offset + length)` of the fixture file that was entered under `name`: a different word at every place. */
export function fixtureContent(name: string, offset: number, length: number): Buffer {
  const seed = Buffer.from(hexOf(digestOf(name)), 'hex').readUInt32LE();
  const firstWord = Math.floor(offset / 4);
  const skip = offset - firstWord * 4;
  const words = new Uint32Array(Math.ceil((skip + length) / 4));
  for (let i = 0; i < words.length; i++) words[i] = Math.imul(firstWord + i + seed, 0x9e3779b1) ^ (firstWord + i);
  return Buffer.from(words.buffer, skip, length);
}

/** A layer with a cache file, made of entries, whose files hold `fixtureContent`. */
export class FixtureLayer implements Disposable {
  readonly tree: Tree;
  readonly presence: Presence;
  readonly fd: number;
  readonly #names = new Map<number, string>();

  constructor(entries: readonly FixtureEntry[], chunkSize = FIXTURE_CHUNK) {
    const builder = new TreeBuilder('fixture');
    let offset = 0;
    for (const entry of entries) {
      const chunks: TocChunk[] = [];
      for (let at = 0; at < (entry.size ?? 0); at += chunkSize) {
        const size = Math.min(chunkSize, entry.size! - at);
        chunks.push({ offset, innerOffset: 0, size, digest: Buffer.alloc(32) });
        offset += size;
      }
      builder.add({
        name: Buffer.from(entry.name, 'latin1'),
        type: entry.type ?? 'reg',
        size: entry.size ?? 0,
        mode: entry.mode ?? (entry.type === 'dir' ? 0o755 : 0o644),
        uid: entry.uid ?? 0,
        gid: entry.gid ?? 0,
        mtime: entry.mtime ?? 1_700_000_000,
        mtimeNsec: entry.mtimeNsec ?? 0,
        linkName: Buffer.from(entry.link ?? '', 'latin1'),
        devMajor: entry.major ?? 0,
        devMinor: entry.minor ?? 0,
        xattrs: Object.entries(entry.xattrs ?? {}).map(([name, value]) => ({
          name: Buffer.from(name),
          value: Buffer.from(value),
        })),
        chunks,
      });
    }
    this.tree = builder.build({ source: digestOf('fixture'), contentEnd: Math.max(offset, 1) });
    this.presence = new Presence(new SharedArrayBuffer(Presence.bytes(this.tree.counts.chunks)));
    this.fd = openUnlinked();
    for (const entry of entries) {
      if ((entry.type ?? 'reg') !== 'reg' || entry.name.includes('.wh.')) continue;
      this.#names.set(this.find(entry.name), entry.name);
      if (entry.cached) this.fill(entry.name);
    }
  }

  view(slot: number): LayerView {
    return { slot, tree: this.tree, presence: this.presence, fd: this.fd };
  }

  /** The inode at a path. */
  find(path: string): number {
    const inode = path
      .split('/')
      .reduce((at, name) => (at === NONE ? NONE : this.tree.lookup(at, Buffer.from(name, 'latin1'))), ROOT);
    if (inode === NONE) throw new Error(`fixture: nothing at ${path}`);
    return inode;
  }

  /** Puts bytes of a file into the cache file, by whole chunks, and then says so. */
  fill(path: string, offset = 0, length = Infinity): void {
    const inode = this.find(path);
    const { first, end } = this.tree.chunksOf(inode, offset, length);
    for (let chunk = first; chunk < end; chunk++) {
      const position = this.tree.chunkCache[chunk];
      const at = position - this.tree.cacheOffset(inode);
      writeSync(this.fd, this.content(inode, at, this.tree.chunkSize[chunk]), 0, undefined, position);
      this.presence.set(chunk);
    }
  }

  content(inode: number, offset: number, length: number): Buffer {
    return fixtureContent(this.nameOf(inode), offset, length);
  }

  /** The name under which a regular file was entered. */
  nameOf(inode: number): string {
    const name = this.#names.get(inode);
    if (name === undefined) throw new Error(`fixture: inode ${inode} is no regular file`);
    return name;
  }

  [Symbol.dispose](): void {
    closeSync(this.fd);
  }
}

function openUnlinked(): number {
  const path = join(tmpdir(), `lazylayer-fixture-${randomBytes(6).toString('hex')}`);
  const fd = openSync(path, 'wx+');
  unlinkSync(path);
  return fd;
}
