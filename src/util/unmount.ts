import { LazylayerError } from '../errors.js';
import { CommandError, runCommand } from './command.js';
import { listMounts } from './mountinfo.js';

export interface UnmountOptions {
  /** Out of sight now, gone when nobody uses it. */
  readonly lazy?: boolean;
  /** FUSE: requests that wait fail now. */
  readonly force?: boolean;
}

/**
 * Unmounts the topmost mount at a directory; nothing where there is none. umount(8) does it, a process of its own: one that serves
 * the mount must never touch it.
 * @throws BUSY where somebody uses the mount and `lazy` is not set
 */
export async function unmount(target: string, options: UnmountOptions = {}): Promise<void> {
  const flags = [...(options.force === true ? ['-f'] : []), ...(options.lazy === true ? ['-l'] : [])];
  try {
    await runCommand('umount', ['-i', '-c', ...flags, target]);
  } catch (error) {
    if (!(error instanceof CommandError)) throw error;
    if (!(await listMounts()).some((m) => m.target === target)) return;
    if (error.said.includes('busy'))
      throw new LazylayerError(
        'BUSY',
        `${target} is in use (fuser -vm ${target} shows by whom): end that, or unmount lazily`,
        {
          cause: error,
        },
      );
    throw error;
  }
}
