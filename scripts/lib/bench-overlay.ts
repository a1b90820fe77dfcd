import { join } from 'node:path';
import { mkdir } from 'node:fs/promises';
import { startContainerd } from '../../native-tests/support/containerd.js';
import { Scene } from '../../native-tests/support/scene.js';
import { eventually, run, type Teardown } from '../../native-tests/support/tools.js';
import { benchFs, fsParts, type FsPart, type FsRuns } from '../../src/bench/fs/fs.js';
import { HALT_POLL_NS, pollBeforeHalt } from '../../src/util/halt-polling.js';
import type { Lazylayer } from '../../src/bench/start/engine.js';
import { LazyDaemon } from '../../src/bench/start/lazylayer.js';
import { PodmanStorage } from '../../src/bench/start/podman-storage.js';
import { median } from '../../src/bench/statistics.js';
import { parseReference } from '../../src/image/reference.js';

/** Ratios to overlayfs on local disk that are wanted, page cache dropped and everything in lazylayer's cache. */
export const wantedOverlay: Readonly<Partial<Record<FsPart, number>>> = {
  walk: 1.5,
  stat: 1.5,
  random: 1.3,
  whole: 1.5,
};

export interface OverlayRatio {
  readonly part: FsPart;
  /** Who mounted the lazy layers. */
  readonly by: string;
  readonly localMs: number;
  readonly lazyMs: number;
  readonly ratio: number;
  readonly wanted?: number;
}

export interface OverlayOptions {
  readonly cleanup: Teardown;
  readonly image: string;
  readonly runs: number;
  readonly podman: boolean;
  readonly lazylayer: Lazylayer;
  readonly signal: AbortSignal;
  readonly say: (text: string) => void;
}

/** The same trees, twice. */
export interface OverlayRuns {
  readonly asIs: readonly FsRuns[];
  /** With idle processors that poll before they halt, where the machine can and does not by itself. */
  readonly polling?: readonly FsRuns[];
}

/**
 * An image unpacked by containerd into overlayfs first, then the same over lazy layers whose every chunk is cached: mounted by hand, and,
 * if wanted, by Podman.
 */
export async function benchOverlay(options: OverlayOptions): Promise<OverlayRuns> {
  const { cleanup, runs, signal, say } = options;
  const scene = await Scene.open(cleanup);
  const local = await mountLocal(options, scene);
  const target = await mountByHand(options, scene);
  const byPodman = options.podman ? [await mountByPodman(options, scene)] : [];
  const measure = (how: string) =>
    benchFs({
      directories: [local, target, ...byPodman],
      runs,
      dropCaches: true,
      signal,
      onRun: (i, what) => say(`files${how}, run ${i} of ${runs}: ${what}`),
    });
  const asIs = await measure('');
  using on = pollBeforeHalt();
  if (on === undefined) return { asIs };
  return { asIs, polling: await measure(`, guest halt polling ${HALT_POLL_NS / 1000} µs`) };
}

async function mountLocal({ cleanup, image, say }: OverlayOptions, scene: Scene): Promise<string> {
  say(`files: unpacking ${image}`);
  const containerd = await startContainerd(cleanup);
  const local = join(scene.directory, 'overlayfs');
  await mkdir(local);
  await containerd.ctr('images', 'pull', '--plain-http', '--snapshotter', 'overlayfs', image);
  await containerd.ctr('images', 'mount', '--snapshotter', 'overlayfs', image, local);
  cleanup.teardown(async () => void (await run('umount', [local])));
  return local;
}

async function mountByHand({ cleanup, image, say }: OverlayOptions, scene: Scene): Promise<string> {
  const target = await scene.mountPoint('lazylayer');
  say(`files: fetching all of ${image}`);
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
  return target;
}

async function mountByPodman({ cleanup, image, lazylayer, signal, say }: OverlayOptions, scene: Scene) {
  const directory = join(scene.directory, 'podman');
  const layers = join(directory, 'layers');
  await mkdir(layers, { recursive: true });
  const start = () => LazyDaemon.start(lazylayer, directory, { store: layers }, signal);
  let daemon = await start();
  cleanup.teardown(() => daemon[Symbol.asyncDispose]());
  const storage = cleanup.use(await PodmanStorage.make(directory, parseReference(image).host, layers, signal));
  const mount = async () => (await storage.run(['image', 'mount', image], signal)).trim();
  const umount = async () => void (await storage.run(['image', 'umount', image]));
  say(`files: fetching all of ${image} for Podman`);
  await storage.run(['pull', '--quiet', image], signal);
  const all = ['-c', 'tar -C "$0" --one-file-system -cf - . | cat >/dev/null', await mount()];
  await run('sh', all, { timeout: 600_000 });
  await umount();
  await daemon[Symbol.asyncDispose]();
  daemon = await start();
  cleanup.teardown(umount);
  return mount();
}

const mounters = ['lazylayer mount', 'Podman'];

/** Medians of what was measured with the page cache dropped. */
export function overlayRatios([local, ...lazies]: readonly FsRuns[]): OverlayRatio[] {
  const cold = ({ figures }: FsRuns, part: FsPart) =>
    median(figures.filter((figure) => figure.part === part && figure.state === 'cold').map(({ ms }) => ms));
  return (Object.keys(fsParts) as FsPart[]).flatMap((part) =>
    lazies.map((lazy, i) => {
      const [localMs, lazyMs] = [cold(local, part), cold(lazy, part)];
      return { part, by: mounters[i], localMs, lazyMs, ratio: lazyMs / localMs, wanted: wantedOverlay[part] };
    }),
  );
}
