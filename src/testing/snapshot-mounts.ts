import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, posix } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { describeError } from '../errors.js';
import type { Mount } from '../snapshot/snapshotter.js';
import { bindIdmapped, type IdRanges } from './idmapped.js';
import { runCommand } from '../util/command.js';

/** Who takes cleanup work: an ava test. */
interface Cleanup {
  teardown(work: () => void | Promise<void>): void;
}

/** What mount(2) takes as options, its terminating NUL included. */
const optionBytes = 4096;

/**
 * Mounts a snapshot at a directory, which is made, the way containerd does: a `lowerdir` that would be too long is given from the
 * directory that all its paths share, and with `uidmap` and `gidmap` the trees below are mapped ones. The mount is gone after the test; the returned function ends it before.
 */
export async function mountSnapshot(
  t: Cleanup,
  mounts: readonly Mount[],
  target: string,
): Promise<() => Promise<void>> {
  if (mounts.length !== 1) throw new Error(`expected one mount, found ${mounts.length}`);
  const mapped = await idmapped(mounts[0]);
  try {
    await mountAt(mapped.mount, target);
  } finally {
    // What is mounted over them keeps the mapped trees.
    await mapped.release();
  }
  let mounted = true;
  const unmount = async () => {
    if (mounted) await unmountOnceIdle(target);
    mounted = false;
  };
  t.teardown(async () => {
    if (mounted) await runCommand('umount', ['-i', '-l', target]);
  });
  return unmount;
}

/** Whoever looks at mounts, such as another test's `du`, may be in it for a moment. */
async function unmountOnceIdle(target: string): Promise<void> {
  for (let tries = 50; ; tries--) {
    try {
      await runCommand('umount', ['-i', target]);
      return;
    } catch (error) {
      if (tries === 0 || !/busy/.test(describeError(error))) throw error;
      await sleep(100);
    }
  }
}

async function mountAt({ type, source, options: given }: Mount, target: string): Promise<void> {
  const { directory, options } = shortened(given);
  if (Buffer.byteLength(options) >= optionBytes)
    throw new Error(`mount options of ${options.length} bytes: ${options}`);
  await mkdir(target, { recursive: true });
  const how = type === 'bind' ? [] : ['-t', type];
  const mount = ['mount', '-i', ...how, '-o', options, source, target];
  await runCommand('sh', ['-c', 'cd "$0" && exec "$@"', directory, ...mount]);
}

/** The mount with the trees that `uidmap` and `gidmap` speak of replaced by mapped ones: its source, or the lower directories. */
async function idmapped(mount: Mount): Promise<{ mount: Mount; release: () => Promise<void> }> {
  const ids = rangesOf(mount.options);
  if (ids === undefined) return { mount, release: () => Promise.resolve() };
  const place = await mkdtemp(join(tmpdir(), 'lazylayer-idmapped-'));
  const sources = lowerOf(mount.options) ?? [mount.source];
  const binds = sources.map((source, i) => ({ source, target: join(place, String(i)) }));
  const release = async () => {
    for (const { target } of binds) await runCommand('umount', ['-i', '-l', target]).catch(() => undefined);
    await rm(place, { recursive: true });
  };
  try {
    for (const { target } of binds) await mkdir(target);
    await bindIdmapped(binds, ids);
  } catch (error) {
    await release();
    throw error;
  }
  const targets = binds.map(({ target }) => target);
  const options = mount.options
    .filter((option) => !/^[ug]idmap=/.test(option))
    .map((option) => (option.startsWith('lowerdir=') ? `lowerdir=${targets.join(':')}` : option));
  return { mount: { ...mount, options, source: mount.type === 'bind' ? targets[0] : mount.source }, release };
}

function rangesOf(options: readonly string[]): IdRanges | undefined {
  const [uids, gids] = ['uidmap=', 'gidmap='].map((key) =>
    options.find((option) => option.startsWith(key))?.slice(key.length),
  );
  return uids === undefined || gids === undefined ? undefined : { uids, gids };
}

function lowerOf(options: readonly string[]): string[] | undefined {
  return options
    .find((option) => option.startsWith('lowerdir='))
    ?.slice('lowerdir='.length)
    .split(':');
}

function shortened(options: readonly string[]): { directory: string; options: string } {
  const lower = lowerOf(options);
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
