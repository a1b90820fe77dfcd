import { LazylayerError } from '../errors.js';
import { runCommand } from '../util/command.js';
import { listMounts, type MountEntry } from '../util/mountinfo.js';
import { unmount, type UnmountOptions } from '../util/unmount.js';

/** What our overlays name as their source, so that they are known again in the kernel's mount table. */
const OVERLAY_SOURCE = 'lazylayer';

/** The kernel takes at most one page of mount options, its terminating NUL included (mount(2)). */
const optionBytes = 4096;

export interface OverlayMount {
  /** Where the layers' directories are named from: the FUSE mount. */
  readonly base: string;
  /** Layer directories by their paths from `base` on, topmost first. */
  readonly lower: readonly string[];
  /** An empty directory: overlayfs takes no read-only mount of a single layer. */
  readonly empty: string;
  readonly writable?: { readonly upper: string; readonly work: string };
  readonly target: string;
}

/** @throws INVALID_ARGUMENT for a path that overlayfs options cannot carry, or more layers than they have room for. */
export function overlayOptions(mount: OverlayMount): string {
  const options: string[] = [];
  if (mount.writable !== undefined)
    options.push(`upperdir=${plain(mount.writable.upper)}`, `workdir=${plain(mount.writable.work)}`);
  else options.push('ro');
  const lower = [...mount.lower];
  if (lower.length === 0 || (lower.length === 1 && mount.writable === undefined)) lower.push(plain(mount.empty));
  options.push(`lowerdir=${lower.join(':')}`);
  const text = options.join(',');
  if (Buffer.byteLength(text) >= optionBytes)
    throw new LazylayerError(
      'INVALID_ARGUMENT',
      `overlay of ${mount.lower.length} layers: expected at most ${optionBytes - 1} bytes of mount options, found ${Buffer.byteLength(text)}`,
    );
  return text;
}

/** @throws INVALID_ARGUMENT for a path that overlayfs options cannot carry */
export function plain(path: string): string {
  if (/[,:\\]/.test(path))
    throw new LazylayerError(
      'INVALID_ARGUMENT',
      `path for overlayfs: expected one without ',', ':' and '\\', found ${path}`,
    );
  return path;
}

/**
 * Mounts an overlay. The program that does it changes into the FUSE mount on its own, so that layers have short relative names
 * and this process, which may serve that mount, never touches it.
 */
export async function mountOverlay(mount: OverlayMount, signal?: AbortSignal): Promise<void> {
  const enter = 'cd "$0" && exec "$@"';
  const command = ['mount', '-i', '-t', 'overlay', '-o', overlayOptions(mount), OVERLAY_SOURCE, mount.target];
  await runCommand('sh', ['-c', enter, mount.base, ...command], { signal });
}

/** Whether a mount is an overlay of ours, of whichever daemon. */
export const isOurs = ({ type, source }: Pick<MountEntry, 'type' | 'source'>) =>
  type === 'overlay' && source === OVERLAY_SOURCE;

/** How many overlays of ours lie at a directory, one above the other. */
export async function overlaysAt(target: string): Promise<number> {
  return (await listMounts()).filter((mount) => mount.target === target && isOurs(mount)).length;
}

/**
 * Unmounts the overlay of ours at a directory, and nothing else; nothing where there is none.
 * @throws BUSY where something else is mounted over it, or somebody uses it and `lazy` is not set
 */
export async function unmountOverlay(target: string, options: UnmountOptions = {}): Promise<void> {
  const there = (await listMounts()).filter((mount) => mount.target === target);
  if (!there.some(isOurs)) return;
  if (!isOurs(there.at(-1)!))
    throw new LazylayerError(
      'BUSY',
      `${target} is covered by another mount (${there.at(-1)!.source}): umount that first`,
    );
  await unmount(target, options);
}
