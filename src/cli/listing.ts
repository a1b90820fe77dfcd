import { constants } from 'node:fs';
import type { MergedNode, MergedTree } from '../fs/merged.js';
import { table } from './text.js';

const { S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG, S_IFSOCK } = constants;

const types: Readonly<Record<number, { readonly letter: string; readonly name: string }>> = {
  [S_IFREG]: { letter: '-', name: 'file' },
  [S_IFDIR]: { letter: 'd', name: 'directory' },
  [S_IFLNK]: { letter: 'l', name: 'symlink' },
  [S_IFCHR]: { letter: 'c', name: 'character device' },
  [S_IFBLK]: { letter: 'b', name: 'block device' },
  [S_IFIFO]: { letter: 'p', name: 'fifo' },
  [S_IFSOCK]: { letter: 's', name: 'socket' },
};

/** `-rwxr-xr-x`, with `s`, `S`, `t` and `T` for setuid, setgid and sticky, as ls(1) has it. */
export function modeText(mode: number): string {
  const bits = [6, 3, 0].map((shift, i) => {
    const [r, w, x] = [4, 2, 1].map((bit) => (mode & (bit << shift)) !== 0);
    const special = (mode & (0o4000 >> i)) !== 0;
    const letter = i === 2 ? 't' : 's';
    const last = special ? (x ? letter : letter.toUpperCase()) : x ? 'x' : '-';
    return `${r ? 'r' : '-'}${w ? 'w' : '-'}${last}`;
  });
  return `${types[mode & S_IFMT]?.letter ?? '?'}${bits.join('')}`;
}

/** A file as `ls --json` tells it. */
export interface FileFacts {
  readonly path: string;
  /** Base64 of the path's bytes, where they are not UTF-8. */
  readonly pathBytes?: string;
  readonly type: string;
  /** Four octal digits. */
  readonly mode: string;
  readonly uid: number;
  readonly gid: number;
  readonly links: number;
  readonly size: number;
  /** RFC 3339, nanoseconds where there are any. */
  readonly modified: string;
  readonly target?: string;
  readonly device?: { readonly major: number; readonly minor: number };
  /** Index of the layer, from the lowest, 0. */
  readonly layer: number;
}

export function factsOf(tree: MergedTree, path: Buffer, node: MergedNode): FileFacts {
  const stat = tree.stat(node);
  const text = path.toString();
  return {
    path: text,
    ...(!Buffer.from(text).equals(path) && { pathBytes: path.toString('base64') }),
    type: types[stat.mode & S_IFMT]?.name ?? 'unknown',
    mode: (stat.mode & 0o7777).toString(8).padStart(4, '0'),
    uid: stat.uid,
    gid: stat.gid,
    links: stat.nlink,
    size: stat.size,
    modified: timestamp(stat.mtime, stat.mtimeNsec),
    ...(tree.isSymlink(node) && { target: tree.readlink(node).toString() }),
    ...(stat.device && { device: stat.device }),
    layer: node.layer,
  };
}

/** A time outside of what a Date can tell is given in seconds. */
function timestamp(seconds: number, nanoseconds: number): string {
  const date = new Date(seconds * 1000);
  if (Number.isNaN(date.getTime())) return `@${seconds}`;
  const fraction = nanoseconds === 0 ? '' : `.${String(nanoseconds).padStart(9, '0').replace(/0+$/, '')}`;
  return date.toISOString().replace('.000Z', `${fraction}Z`);
}

export type Listed = { readonly path: Buffer; readonly node: MergedNode };

/** Lines of `ls -l`, without names: those are bytes. Times are in UTC. */
export function longLines(tree: MergedTree, files: readonly Listed[]): string[] {
  const rows = files.map(({ node }) => {
    const { mode, nlink, uid, gid, size, mtime, device } = tree.stat(node);
    const time = timestamp(mtime, 0).replace('T', ' ').slice(0, 16);
    const extent = device === undefined ? String(size) : `${device.major}, ${device.minor}`;
    return [modeText(mode), String(nlink), String(uid), String(gid), extent, time];
  });
  const right = { right: true };
  return table([{}, right, right, right, right, {}], rows).split('\n').slice(0, rows.length);
}

/** Bytes of a name for a terminal: control characters would be commands there. Anything else gets the bytes as they are. */
export function shownName(name: Buffer, toTerminal: boolean): Buffer {
  if (!toTerminal || !name.some((byte) => byte < 0x20 || byte === 0x7f)) return name;
  return Buffer.from(name.map((byte) => (byte < 0x20 || byte === 0x7f ? 0x3f : byte)));
}
