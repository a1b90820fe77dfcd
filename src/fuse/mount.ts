import { closeSync, openSync, statSync } from 'node:fs';
import { realpath, writeFile } from 'node:fs/promises';
import { codeOf, LazylayerError } from '../errors.js';
import { runCommand } from '../util/command.js';
import { listMounts } from '../util/mountinfo.js';

/** An open `/dev/fuse` that is mounted. It lives as long as any process holds the descriptor. */
export interface FuseConnection {
  readonly fd: number;
  /** Absolute and free of symlinks, as the kernel's mount table has it. */
  readonly mountpoint: string;
}

export interface ConnectionOptions {
  /** What the mount table shows as the source. */
  readonly source?: string;
  /** Refuse changes before they reach the server. */
  readonly readOnly?: boolean;
}

/**
 * Opens `/dev/fuse` and mounts it; requests wait until somebody serves the connection. Nothing of it is inherited by programs
 * started later: the descriptor is close-on-exec.
 * @throws FAILED_PRECONDITION without the device, INTERNAL with mount(8)'s words where the mount is refused.
 */
export async function openConnection(mountpoint: string, options: ConnectionOptions = {}): Promise<FuseConnection> {
  const target = await realpath(mountpoint);
  const fd = openDevice();
  try {
    const flags = [
      ...[options.readOnly === false ? 'rw' : 'ro', 'noatime', 'fd=3', 'rootmode=40000', 'user_id=0', 'group_id=0'],
      ...['allow_other', 'default_permissions'],
    ].join(',');
    const args = ['-i', '-c', '-t', 'fuse.lazylayer', '-o', flags, options.source ?? 'lazylayer', target];
    await runCommand('mount', args, { descriptors: [fd] });
    return { fd, mountpoint: target };
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}

function openDevice(): number {
  try {
    return openSync('/dev/fuse', 'r+');
  } catch (error) {
    const refused = codeOf(error) === 'PERMISSION_DENIED';
    throw refused
      ? new LazylayerError('PERMISSION_DENIED', refusal(), { cause: error })
      : new LazylayerError(
          'FAILED_PRECONDITION',
          'cannot open /dev/fuse: load the kernel module with `modprobe fuse`',
          {
            cause: error,
          },
        );
  }
}

/** A user namespace's root is nobody special to a device: there the mode must let everybody in, as udev makes it. */
function refusal(): string {
  const mode = (statSync('/dev/fuse').mode & 0o777).toString(8).padStart(4, '0');
  return `cannot open /dev/fuse: expected to be root, or mode 0666, found mode ${mode}; root can \`chmod 0666 /dev/fuse\` for containers without root`;
}

const readAheadKiB = 1024;

/**
 * INIT can only lower a mount's read-ahead; the rest is set here. Found through the mount table: a stat would be a request to
 * the very process that asks. Only speed depends on it, so a read-only /sys is no error.
 */
export async function setReadAhead(mountpoint: string): Promise<void> {
  const mount = (await listMounts()).findLast((m) => m.target === mountpoint);
  if (mount === undefined) return;
  try {
    await writeFile(`/sys/class/bdi/${mount.device}/read_ahead_kb`, String(readAheadKiB));
  } catch {
    return;
  }
}
