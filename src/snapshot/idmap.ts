import { statfs } from 'node:fs/promises';
import { release } from 'node:os';
import { LazylayerError } from '../errors.js';
import { allowsIdmap, type Negotiated } from '../fuse/codec.js';
import { label } from './labels.js';
import { kernelAtLeast } from './overlay.js';
import type { Labels } from './snapshotter.js';

/** What the mapping labels of a snapshot ask for. */
export interface IdMapping {
  /** Who is root of the container, outside it. */
  readonly root: { readonly uid: number; readonly gid: number };
  /** `uidmap=` and `gidmap=` as containerd's mounts take them. */
  readonly options: readonly string[];
}

/** From which kernel on a filesystem's mounts can be id-mapped, by its magic number (statfs(2)). */
const filesystems: ReadonlyMap<number, { name: string; since: readonly [number, number] }> = new Map([
  [0xef53, { name: 'ext4', since: [5, 12] }],
  [0x58465342, { name: 'xfs', since: [5, 12] }],
  [0x9123683e, { name: 'btrfs', since: [5, 15] }],
  [0xf2f52010, { name: 'f2fs', since: [5, 18] }],
  [0x01021994, { name: 'tmpfs', since: [6, 3] }],
]);

/**
 * Reads the labels `containerd.io/snapshot/uidmapping` and `…/gidmapping`: `CONTAINER:HOST:COUNT`, several with commas.
 * Undefined where there are none.
 * @throws INVALID_ARGUMENT where one is missing, cannot be read, or does not map id 0
 */
export function idMappingOf(labels: Labels): IdMapping | undefined {
  const uids = labels[label.uidMapping];
  const gids = labels[label.gidMapping];
  if (uids === undefined && gids === undefined) return undefined;
  const uid = mappedRoot(label.uidMapping, uids);
  const gid = mappedRoot(label.gidMapping, gids);
  return { root: { uid, gid }, options: [`uidmap=${uids}`, `gidmap=${gids}`] };
}

function mappedRoot(key: string, text: string | undefined): number {
  let root: number | undefined;
  for (const range of (text ?? '').split(',')) {
    const found = /^(\d{1,10}):(\d{1,10}):(\d{1,10})$/.exec(range);
    const [container, host, count] = (found?.slice(1) ?? []).map(Number);
    if (found === null || count === 0 || Math.max(container, host) + count > 2 ** 32)
      throw new LazylayerError(
        'INVALID_ARGUMENT',
        `label ${key}: expected CONTAINER:HOST:COUNT, found ${text === undefined ? 'no such label' : text}`,
      );
    if (container === 0) root = host;
  }
  if (root === undefined)
    throw new LazylayerError('INVALID_ARGUMENT', `label ${key}: expected a mapping of id 0, found ${text}`);
  return root;
}

/** Why overlays over directories in `path` cannot be id-mapped; undefined where they can. */
export async function idmapRefusal(path: string, kernel = release()): Promise<string | undefined> {
  // Overlayfs takes id-mapped lower directories since 5.19.
  if (!kernelAtLeast(kernel, 5, 19)) return `kernel ${kernel} has no id-mapped overlays, which came with 5.19`;
  const { type } = await statfs(path);
  const known = filesystems.get(type);
  if (known === undefined) return `the filesystem of ${path} (type 0x${type.toString(16)}) has no id-mapped mounts`;
  const [major, minor] = known.since;
  if (kernelAtLeast(kernel, major, minor)) return undefined;
  return `kernel ${kernel} has no id-mapped mounts of ${known.name}, which came with ${major}.${minor}`;
}

/** Why the layers of the FUSE mount cannot be id-mapped; undefined where kernel and server agreed that they can. */
export function servedIdmapRefusal(negotiated: Negotiated | undefined, kernel = release()): string | undefined {
  if (negotiated === undefined)
    return 'lazy layers are served by fuse-native, which has no id-mapped mounts: set backend = "kernel" in [fuse]';
  if (allowsIdmap(negotiated)) return undefined;
  return `kernel ${kernel} has no id-mapped mounts of lazy layers, which are FUSE: they came with 6.12`;
}
