import type { ProgramsAhead } from '../ahead/programs.js';
import type { Config } from '../config/config.js';
import type { ServedLayers } from '../fuse/served.js';
import type { MountProgress } from '../mount/request.js';
import { pull, type PullOptions } from '../pull/pull.js';
import type { PullInfo, PullRequest } from '../pull/request.js';
import { LazyLayers } from '../snapshot/lazy-layers.js';
import { OverlaySnapshotter } from '../snapshot/overlay-snapshotter.js';
import type { RemoteLayers } from '../snapshot/remote-layers.js';
import { serveSnapshots, type SnapshotServer } from '../snapshot/server.js';
import type { Workspace } from '../workspace/workspace.js';
import { layoutOf } from './layout.js';
import type { Logger } from './log.js';

export interface SnapshotsOptions {
  readonly config: Config;
  readonly workspace: Workspace;
  readonly served: ServedLayers;
  readonly programs?: ProgramsAhead;
  readonly log: Logger;
  /** Put before the layers, to watch what is asked of them. */
  readonly watch?: (layers: RemoteLayers) => RemoteLayers;
}

/** containerd's snapshots: first what there is of them is brought back, then, once files are served, they are offered. */
export class Snapshots {
  #server: SnapshotServer | undefined;

  private constructor(
    private readonly options: SnapshotsOptions,
    private readonly layers: LazyLayers,
    private readonly snapshotter: OverlaySnapshotter,
  ) {}

  /** Resolves when every layer that could be brought back is among those served; no registry is asked. */
  static async restore(options: SnapshotsOptions): Promise<Snapshots> {
    const { config, workspace, served, log } = options;
    const { fuse, snapshotter: root } = layoutOf(config.root);
    const layers = new LazyLayers({
      workspace,
      served,
      programs: options.programs,
      fuseRoot: fuse,
      prefetch: config.fetch.prefetch,
      prefetchLabel: config.snapshotter.prefetch_label,
      background: config.fetch.background,
      onError: (what, error) => log.warn({ err: error }, what),
    });
    const snapshotter = await OverlaySnapshotter.open({
      root,
      remote: options.watch?.(layers) ?? layers,
      remapIds: config.snapshotter.remap_ids,
      log,
    });
    return new Snapshots(options, layers, snapshotter);
  }

  /** @throws BUSY where somebody listens at the address already */
  async offer(): Promise<void> {
    const { address } = this.options.config.snapshotter;
    this.#server = await serveSnapshots(this.snapshotter, address);
    this.options.log.info({ address }, 'snapshots are offered');
  }

  /** Puts an image into containerd, which has to know this snapshotter. */
  pull(request: PullRequest, onProgress: (progress: MountProgress) => void, signal: AbortSignal): Promise<PullInfo> {
    const { workspace, config } = this.options;
    const { ending } = this.layers;
    const expect: PullOptions['expect'] = (...image) => this.layers.expect(...image);
    return pull(request, { workspace, prefetch: config.fetch.prefetch, ending, expect, onProgress, signal });
  }

  /** Lets calls under way end, takes no new ones. The layers stay, for the files that are read from them. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#server?.close();
    this.layers.stopFetching();
    await this.snapshotter.close();
  }
}
