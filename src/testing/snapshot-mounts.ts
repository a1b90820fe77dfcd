import { mkdir } from 'node:fs/promises';
import { posix } from 'node:path';
import type { Mount } from '../snapshot/snapshotter.js';
import { runCommand } from '../util/command.js';

/** Who takes cleanup work: an ava test. */
interface Cleanup {
  teardown(work: () => void | Promise<void>): void;
}

/** What mount(2) takes as options, its terminating NUL included. */
const optionBytes = 4096;

/**
 * Mounts a snapshot at a directory, which is made, the way containerd does: a `lowerdir` that would be too long is given from the
 * directory that all its paths share. The mount is gone after the test; the returned function ends it before.
 */
export async function mountSnapshot(
  t: Cleanup,
  mounts: readonly Mount[],
  target: string,
): Promise<() => Promise<void>> {
  if (mounts.length !== 1) throw new Error(`expected one mount, found ${mounts.length}`);
  const [{ type, source }] = mounts;
  const { directory, options } = shortened(mounts[0].options);
  if (Buffer.byteLength(options) >= optionBytes)
    throw new Error(`mount options of ${options.length} bytes: ${options}`);
  await mkdir(target, { recursive: true });
  const how = type === 'bind' ? [] : ['-t', type];
  const mount = ['mount', '-i', ...how, '-o', options, source, target];
  await runCommand('sh', ['-c', 'cd "$0" && exec "$@"', directory, ...mount]);
  let mounted = true;
  const unmount = async () => {
    if (mounted) await runCommand('umount', ['-i', target]);
    mounted = false;
  };
  t.teardown(async () => {
    if (mounted) await runCommand('umount', ['-i', '-l', target]);
  });
  return unmount;
}

function shortened(options: readonly string[]): { directory: string; options: string } {
  const lower = options
    .find((option) => option.startsWith('lowerdir='))
    ?.slice('lowerdir='.length)
    .split(':');
  if (lower === undefined || lower.length === 1) return { directory: '/', options: options.join(',') };
  let directory = posix.dirname(lower[0]);
  while (!lower.every((path) => path.startsWith(`${directory}/`))) directory = posix.dirname(directory);
  const short = lower.map((path) => path.slice(directory.length + 1)).join(':');
  const others = options.filter((option) => !option.startsWith('lowerdir='));
  return { directory, options: [...others, `lowerdir=${short}`].join(',') };
}

/** Where the writes of an active snapshot land: what a client that knows overlayfs writes to without a mount. */
export function upperDirectory(mounts: readonly Mount[]): string {
  const [{ type, source, options }] = mounts;
  const upper = options.find((option) => option.startsWith('upperdir='));
  if (upper !== undefined) return upper.slice('upperdir='.length);
  if (type === 'bind' && options.includes('rw')) return source;
  throw new Error(`expected the mounts of an active snapshot, found ${JSON.stringify(mounts)}`);
}
