import { join } from 'node:path';
import { mkdir } from 'node:fs/promises';
import { startContainerd } from '../../native-tests/support/containerd.js';
import { Scene } from '../../native-tests/support/scene.js';
import { eventually, run, type Teardown } from '../../native-tests/support/tools.js';
import { benchFs, fsParts, type FsPart, type FsRuns } from '../../src/bench/fs/fs.js';
import { median } from '../../src/bench/statistics.js';

/** Ratios to overlayfs on local disk that are wanted, page cache dropped and everything in lazylayer's cache. */
export const wantedOverlay: Readonly<Partial<Record<FsPart, number>>> = {
  walk: 1.5,
  stat: 1.5,
  random: 1.3,
  whole: 1.5,
};

export interface OverlayRatio {
  readonly part: FsPart;
  readonly localMs: number;
  readonly lazyMs: number;
  readonly ratio: number;
  readonly wanted: number | undefined;
}

/** An image unpacked by containerd into overlayfs, and the same over lazy layers whose every chunk is cached. */
export async function benchOverlay(
  cleanup: Teardown,
  image: string,
  runs: number,
  signal: AbortSignal,
  say: (text: string) => void,
): Promise<FsRuns[]> {
  const scene = await Scene.open(cleanup);
  const containerd = await startContainerd(cleanup);
  const local = join(scene.directory, 'overlayfs');
  await mkdir(local);
  await containerd.ctr('images', 'pull', '--plain-http', '--snapshotter', 'overlayfs', image);
  await containerd.ctr('images', 'mount', '--snapshotter', 'overlayfs', image, local);
  cleanup.teardown(async () => void (await run('umount', [local])));
  const target = await scene.mountPoint('lazylayer');
  say(`fetching all of ${image}`);
  await scene.mount(image, target);
  const whole = async () => {
    const [info] = await scene.ps();
    return info.presentBytes === info.contentBytes ? true : undefined;
  };
  await eventually('everything is cached', whole, 600_000);
  // A daemon that has fetched is not the daemon of a second start.
  await scene.umount(target);
  await scene.daemonGone();
  await scene.mount(image, target, '--no-background-fetch');
  cleanup.teardown(() => scene.umount(target));
  return benchFs({
    directories: [local, target],
    runs,
    dropCaches: true,
    signal,
    onRun: (i, what) => say(`${i}: ${what}`),
  });
}

/** Medians of what was measured with the page cache dropped. */
export function overlayRatios([local, lazy]: readonly FsRuns[]): OverlayRatio[] {
  const cold = ({ figures }: FsRuns, part: FsPart) =>
    median(figures.filter((figure) => figure.part === part && figure.state === 'cold').map(({ ms }) => ms));
  return (Object.keys(fsParts) as FsPart[]).map((part) => {
    const [localMs, lazyMs] = [cold(local, part), cold(lazy, part)];
    return { part, localMs, lazyMs, ratio: lazyMs / localMs, wanted: wantedOverlay[part] };
  });
}
