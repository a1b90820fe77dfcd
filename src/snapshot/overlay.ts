import { access, readFile } from 'node:fs/promises';
import { release } from 'node:os';
import { LazylayerError } from '../errors.js';
import type { Mount } from './snapshotter.js';
import { inUserNamespace } from '../util/user-namespace.js';

/** The directories that a snapshot is mounted from. Absolute paths. */
export interface OverlayParts {
  /** The snapshot's own tree: written to when it is active, read when it is a view without parents. */
  readonly own: string;
  /** Where overlayfs prepares changes; only an active snapshot has one. */
  readonly work?: string;
  /** Trees of the parents, the nearest first. */
  readonly lower: readonly string[];
  /** `uidmap=` and `gidmap=` for an id-mapped mount. */
  readonly idmap: readonly string[];
}

/** Overlay options of every mount, found out once. */
export type OverlayDefaults = readonly string[];

/**
 * One mount for a snapshot. A single tree needs no overlayfs, which takes no single read-only layer either: it is bound. Clients
 * shorten a long `lowerdir` by the directory that all its paths share, as containerd does: 128 layers fit in a page.
 */
export function overlayMounts(parts: OverlayParts, defaults: OverlayDefaults): Mount[] {
  const { own, work, lower, idmap } = parts;
  if (lower.length === 0) return [bind(own, work === undefined ? 'ro' : 'rw', idmap)];
  if (work === undefined && lower.length === 1) return [bind(lower[0], 'ro', idmap)];
  const writable = work === undefined ? [] : [`workdir=${work}`, `upperdir=${own}`];
  const options = [...idmap, ...writable, `lowerdir=${lower.join(':')}`, ...defaults];
  return [{ type: 'overlay', source: 'overlay', target: '', options }];
}

function bind(source: string, access: 'ro' | 'rw', idmap: readonly string[]): Mount {
  return { type: 'bind', source, target: '', options: [...idmap, access, 'rbind'] };
}

/** @throws INVALID_ARGUMENT for a path that overlayfs options cannot carry */
export function checkOverlayPath(path: string): string {
  if (!path.startsWith('/') || /[,:\\"\n]/.test(path))
    throw new LazylayerError(
      'INVALID_ARGUMENT',
      `directory for overlay mounts: expected an absolute path without ',', ':', '\\' and '"', found ${path}`,
    );
  return path;
}

/**
 * `index=off` where the kernel knows it: with the index, a lower directory that two containers share is refused as busy.
 * `userxattr` in a user namespace: only there may overlayfs not use its own `trusted.` names.
 */
export async function overlayDefaults(): Promise<OverlayDefaults> {
  const knowsIndex = await access('/sys/module/overlay/parameters/index').then(
    () => true,
    () => false,
  );
  const userns = inUserNamespace(await readFile('/proc/self/uid_map', 'utf8'));
  return [...(userns && kernelAtLeast(release(), 5, 11) ? ['userxattr'] : []), ...(knowsIndex ? ['index=off'] : [])];
}

/** Compares a kernel release such as `6.1.0-18-amd64`. */
export function kernelAtLeast(kernel: string, major: number, minor: number): boolean {
  const [, x, y] = /^(\d+)\.(\d+)/.exec(kernel) ?? ['', '0', '0'];
  return Number(x) > major || (Number(x) === major && Number(y) >= minor);
}
