import type { TarAttributes } from '../tar/writer.js';
import type { EntryType } from '../toc/entry.js';

/** A file of a layer, said shortly. */
export interface FileSpec {
  /** A trailing slash makes a directory. */
  readonly path: string | Buffer;
  /** By default: `dir` for a path with a trailing slash, `symlink` where there is only a target, `reg` otherwise. */
  readonly type?: EntryType;
  readonly content?: string | Uint8Array;
  /** Instead of `content`: so many bytes, the same for the same `seed`. */
  readonly size?: number;
  readonly seed?: number;
  /** By default 0755 for directories, 0777 for symlinks, 0644 for the rest. */
  readonly mode?: number;
  readonly uid?: number;
  readonly gid?: number;
  readonly mtime?: number;
  readonly mtimeNsec?: number;
  readonly target?: string | Buffer;
  readonly devMajor?: number;
  readonly devMinor?: number;
  readonly xattrs?: Readonly<Record<string, string | Uint8Array>>;
}

const defaultModes: Partial<Record<EntryType, number>> = { dir: 0o755, symlink: 0o777 };

/** 2024-01-02T03:04:05Z */
export const DEFAULT_MTIME = 1_704_164_645;

/** The entry and the bytes that a specification stands for. */
export function fileOf(spec: FileSpec): { entry: TarAttributes; content: Uint8Array } {
  const name = Buffer.from(spec.path as string);
  const isDirectory = name.at(-1) === 0x2f;
  const hasContent = spec.content !== undefined || spec.size !== undefined;
  const type = spec.type ?? (isDirectory ? 'dir' : spec.target !== undefined && !hasContent ? 'symlink' : 'reg');
  const content =
    typeof spec.content === 'string'
      ? Buffer.from(spec.content)
      : (spec.content ?? seededBytes(spec.size ?? 0, spec.seed ?? 1));
  return {
    content,
    entry: {
      name,
      type,
      size: type === 'reg' ? content.byteLength : 0,
      mode: spec.mode ?? defaultModes[type] ?? 0o644,
      uid: spec.uid ?? 0,
      gid: spec.gid ?? 0,
      mtime: spec.mtime ?? DEFAULT_MTIME,
      mtimeNsec: spec.mtimeNsec ?? 0,
      linkName: Buffer.from((spec.target ?? '') as string),
      devMajor: spec.devMajor ?? 0,
      devMinor: spec.devMinor ?? 0,
      xattrs: Object.entries(spec.xattrs ?? {}).map(([key, value]) => ({
        name: Buffer.from(key),
        value: Buffer.from(value as string),
      })),
    },
  };
}

/** Bytes that compress to about half, as binaries do, and in runs long enough for gzip to be quick; different for every seed. */
export function seededBytes(size: number, seed: number): Buffer {
  const words = new Uint32Array(Math.ceil(size / 4));
  let state = (Math.imul(seed, 0x9e3779b1) ^ 0x2545f491) >>> 0 || 1;
  for (let i = 0; i < words.length; i++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    words[i] = (i & 8) === 0 ? state : 0x20202020;
  }
  return Buffer.from(words.buffer, 0, size);
}
