import { join } from 'node:path';
import type { ExecutionContext } from 'ava';
import { LazylayerError } from '../errors.js';
import { label } from '../snapshot/labels.js';
import { OverlaySnapshotter } from '../snapshot/overlay-snapshotter.js';
import type { PreparedLayer, RemoteLayers, RestoredLayer, RootAttributes } from '../snapshot/remote-layers.js';
import type { Info, Labels, Usage } from '../snapshot/snapshotter.js';
import { temporaryDirectory } from './temporary.js';

/** Layers by the label `layer`: `lazy…` is one, anything else is not. Everything that is asked is written down. */
export class FakeLayers implements RemoteLayers {
  idmapRefusal: string | undefined = 'the fake has no ids';
  readonly asked: string[] = [];
  /** References by layer. */
  readonly held = new Map<string, number>();
  readonly unreachable = new Set<string>();
  readonly lost = new Set<string>();
  /** Those of which the disk has nothing. */
  readonly remote = new Set<string>();
  /** The topmost layers of containers. */
  readonly started: string[] = [];
  /** Where the trees are. */
  base = '/fuse';
  /** What a prepare waits for. */
  gate: Promise<void> = Promise.resolve();
  /** What a tree waits for. */
  tree: Promise<void> = Promise.resolve();

  async prepare(labels: Labels, signal?: AbortSignal): Promise<PreparedLayer | { reason: string }> {
    const layer = labels['layer'];
    this.asked.push(`prepare ${layer}`);
    await this.gate;
    signal?.throwIfAborted();
    if (layer === 'broken') throw new LazylayerError('UNAVAILABLE', 'registry says 503');
    if (!layer.startsWith('lazy')) return { reason: `${layer} is\nno eStargz` };
    return { shown: this.tree.then(() => this.#hold(layer, 1)), record: { layer } };
  }

  isOf(labels: Labels, record: unknown): boolean {
    return labels['layer'] === (record as { layer: string }).layer;
  }

  starting(record: unknown): void {
    this.started.push((record as { layer: string }).layer);
  }

  usage(): Usage {
    return { size: 10, inodes: 2 };
  }

  async root(): Promise<RootAttributes> {
    return { mode: 0o2711, uid: 5, gid: 6 };
  }

  restore(record: unknown): RestoredLayer {
    const { layer } = record as { layer: string };
    this.asked.push(`restore ${layer}`);
    return { isLocal: !this.remote.has(layer), shown: this.#restored(layer) };
  }

  async lower(record: unknown): Promise<string> {
    return `${this.base}/${(record as { layer: string }).layer}`;
  }

  async #restored(layer: string): Promise<void> {
    if (this.remote.has(layer)) await this.tree;
    if (this.lost.has(layer)) throw new Error(`${layer} is not on disk`);
    this.#hold(layer, 1);
  }

  async check(record: unknown): Promise<void> {
    const { layer } = record as { layer: string };
    this.asked.push(`check ${layer}`);
    if (this.unreachable.has(layer)) throw new Error(`${layer} is far away`);
  }

  async release(record: unknown): Promise<void> {
    const { layer } = record as { layer: string };
    this.asked.push(`release ${layer}`);
    this.#hold(layer, -1);
  }

  #hold(layer: string, by: number): void {
    const count = (this.held.get(layer) ?? 0) + by;
    if (count < 0) throw new Error(`${layer} was released more often than held`);
    if (count === 0) this.held.delete(layer);
    else this.held.set(layer, count);
  }
}

interface Line {
  readonly message: string;
  readonly fields: Record<string, unknown>;
}

/** A snapshotter over such layers, with what it logs. */
export class RemoteScene {
  readonly lines: Line[] = [];
  layers = new FakeLayers();
  snapshotter!: OverlaySnapshotter;

  private constructor(readonly root: string) {}

  static async open(t: ExecutionContext, options: { remapIds?: boolean } = {}): Promise<RemoteScene> {
    const directory = await temporaryDirectory(t, 'remote');
    const scene = new RemoteScene(join(directory, 'root'));
    await scene.start(options);
    t.teardown(() => scene.snapshotter.close());
    return scene;
  }

  async start(options: { remapIds?: boolean } = {}): Promise<void> {
    const say = (fields: object, message: string) => {
      this.lines.push({ fields: fields as Record<string, unknown>, message });
    };
    const log = { info: say, warn: say };
    this.snapshotter = await OverlaySnapshotter.open({ root: this.root, remote: this.layers, log, ...options });
  }

  /** As containerd pulls a layer, which gives what is unpacked a name of its own in each namespace. */
  async pull(layer: string, chainId: string, parent: string, name = chainId): Promise<'served' | 'to unpack'> {
    const labels = { [label.ref]: chainId, layer };
    try {
      await this.snapshotter.prepare(`extract ${chainId}`, parent, { labels });
    } catch (error) {
      if ((error as LazylayerError).code !== 'ALREADY_EXISTS') throw error;
      const found = await all(this.snapshotter.walk([`labels."${label.ref}"==${chainId},parent=="${parent}"`]));
      if (found.length !== 1 || found[0].kind !== 'committed')
        throw new Error(`${chainId} exists, and is not to be found`, { cause: error });
      return 'served';
    }
    await this.snapshotter.commit(name, `extract ${chainId}`, { labels });
    return 'to unpack';
  }
}

/** All that is walked over. */
export async function all(infos: AsyncIterable<Info>): Promise<Info[]> {
  const found: Info[] = [];
  for await (const info of infos) found.push(info);
  return found;
}
