import { dirname, join } from 'node:path';
import { mkdir, writeFile } from 'node:fs/promises';
import { lazylayerPlugin, startContainerd, type Containerd } from '../../native-tests/support/containerd.js';
import { mountedWhole, Scene } from '../../native-tests/support/scene.js';
import { eventually, run, type Teardown } from '../../native-tests/support/tools.js';
import { benchFs, fsParts, type FsPart, type FsRuns } from '../../src/bench/fs/fs.js';
import { readWhole } from '../../src/bench/fs/whole.js';
import type { CacheUsage } from '../../src/cache/chunk-cache.js';
import { HALT_POLL_NS, pollBeforeHalt } from '../../src/util/halt-polling.js';
import type { Lazylayer } from '../../src/bench/start/engine.js';
import { LazyDaemon } from '../../src/bench/start/lazylayer.js';
import { PodmanStorage } from '../../src/bench/start/podman-storage.js';
import { median } from '../../src/bench/statistics.js';
import { GrpcClient } from '../../src/containerd/grpc.js';
import { Snapshots } from '../../src/containerd/proto/snapshots_pb.js';
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
 * An image unpacked by containerd into overlayfs first, then the same over lazy layers whose every chunk is cached: mounted by containerd,
 * once more through FUSE alone, and, if wanted, by Podman.
 */
export async function benchOverlay(options: OverlayOptions): Promise<OverlayRuns> {
  const { cleanup, runs, signal, say } = options;
  const { directory } = await Scene.open(cleanup);
  const { wholeLayers, ...containerd } = await mountByContainerd(options, directory);
  const podman = options.podman ? [await mountByPodman(options, directory, wholeLayers)] : [];
  const measure = (how: string) =>
    benchFs({
      directories: [containerd.local, containerd.lazy, containerd.fuse, ...podman],
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

interface ByContainerd {
  /** Unpacked. */
  readonly local: string;
  /** Over lazy layers as they are mounted once all of them is there. */
  readonly lazy: string;
  /** The same through FUSE. */
  readonly fuse: string;
  /** Layers that this kernel reads by itself. */
  readonly wholeLayers: number;
}

/** All ways by one containerd. */
async function mountByContainerd(options: OverlayOptions, directory: string): Promise<ByContainerd> {
  const { cleanup, image, lazylayer, signal, say } = options;
  const address = join(directory, 'snapshots', 'lazylayer.sock');
  let daemon = await LazyDaemon.start(lazylayer, directory, { address }, signal);
  cleanup.teardown(() => daemon[Symbol.asyncDispose]());
  const containerd = await startContainerd(cleanup, lazylayerPlugin(address));
  const { ctr, ctrRemote } = containerd;
  say(`files: unpacking ${image}`);
  await ctr('images', 'pull', '--plain-http', '--snapshotter', 'overlayfs', image);
  const local = await SnapshotView.make(containerd, 'overlayfs', directory);
  await local.mount();
  cleanup.teardown(() => local.umount());
  say(`files: fetching all of ${image} for containerd`);
  await ctrRemote('images', 'rpull', '--plain-http', '--snapshotter', 'lazylayer', image);
  const lazy = await SnapshotView.make(containerd, 'lazylayer', directory);
  await lazy.mount();
  await fetchAll(options, daemon, lazy.target);
  await lazy.umount();
  await daemon[Symbol.asyncDispose]();
  // A daemon that has fetched is not the daemon of a second start.
  daemon = await LazyDaemon.start(lazylayer, directory, { address }, signal);
  await lazy.mount();
  cleanup.teardown(() => lazy.umount());
  const wholeLayers = (await mountedWhole(daemon.root)).length;
  // What was mounted needs none; where the kernel reads no layer by itself, it does, and there is nothing else to mount.
  if (wholeLayers === 0) return { local: local.target, lazy: lazy.target, fuse: lazy.target, wholeLayers };
  await daemon[Symbol.asyncDispose]();
  const config = join(directory, 'fuse.toml');
  await writeFile(config, '[fuse]\nerofs = false\n');
  daemon = await LazyDaemon.start({ ...lazylayer, config }, directory, { address }, signal);
  const fuse = await lazy.again('fuse');
  await fuse.mount();
  cleanup.teardown(() => fuse.umount());
  return { local: local.target, lazy: lazy.target, fuse: fuse.target, wholeLayers };
}

/** The one image of a snapshotter, as containerd would mount it read-only: `ctr images mount` knows overlayfs alone. */
class SnapshotView {
  private constructor(
    private readonly snapshots: (...args: string[]) => Promise<string>,
    readonly target: string,
  ) {}

  /** The target is below the directory, named like the snapshotter. */
  static async make({ ctr, socket }: Containerd, snapshotter: string, directory: string): Promise<SnapshotView> {
    const snapshots = (...args: string[]) => ctr('snapshots', '--snapshotter', snapshotter, ...args);
    const rows = (await snapshots('ls')).split('\n').slice(1);
    const layers = rows.map((row) => row.split(/\s+/));
    const [top] = layers.find(([key]) => layers.every(([, parent]) => parent !== key))!;
    const target = join(directory, 'mounted', snapshotter);
    await mkdir(target, { recursive: true });
    // Not by ctr, which does not keep a view from being collected: a label that comes after it may come too late.
    using containerd = new GrpcClient(socket, { 'containerd-namespace': 'default' });
    const labels = { 'containerd.io/gc.root': 'measured' };
    await containerd.call(Snapshots.method.view, { snapshotter, key: 'measured', parent: top, labels });
    return new SnapshotView(snapshots, target);
  }

  /** The same, to be mounted beside it. */
  async again(name: string): Promise<SnapshotView> {
    const target = join(dirname(this.target), name);
    await mkdir(target);
    return new SnapshotView(this.snapshots, target);
  }

  async mount(): Promise<void> {
    // containerd takes a while to find a snapshotter that was started anew.
    const command = await eventually('the snapshotter tells of its mounts', () =>
      this.snapshots('mounts', this.target, 'measured'),
    );
    await run('sh', ['-ec', command]);
  }

  async umount(): Promise<void> {
    await run('umount', [this.target]);
  }
}

async function mountByPodman(options: OverlayOptions, place: string, wholeLayers: number): Promise<string> {
  const { cleanup, image, lazylayer, signal, say } = options;
  const directory = join(place, 'podman');
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
  await fetchAll(options, daemon, await mount());
  await umount();
  await daemon[Symbol.asyncDispose]();
  daemon = await start();
  cleanup.teardown(umount);
  await eventually('the kernel reads the layers by itself', async () =>
    (await mountedWhole(daemon.root)).length === wholeLayers ? true : undefined,
  );
  return mount();
}

/**
 * Resolves when every layer is lazy and has every chunk in the cache: what is read is fetched at once, what upper layers hide by the background
 * fetch, of which the next daemon has nothing left to do.
 */
async function fetchAll({ signal }: OverlayOptions, daemon: LazyDaemon, tree: string): Promise<void> {
  await readWhole(tree, [], { signal });
  const refused = daemon.refused();
  if (refused.length > 0) throw new Error(`files: ${refused.join('; ')}`);
  const whole = async () => {
    const { layers } = JSON.parse(await daemon.run(['cache', 'du', '--json'], signal)) as CacheUsage;
    return layers.length > 0 && layers.every(({ chunks, presentChunks }) => presentChunks === chunks)
      ? true
      : undefined;
  };
  await eventually('every chunk is cached', whole, 300_000);
}

const mounters = ['containerd', 'containerd, by FUSE', 'Podman'];

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
