import { setImmediate as turn } from 'node:timers/promises';
import type { Invocation } from '../ahead/arguments.js';
import { CommandLines, type CommandLine } from '../ahead/command-lines.js';
import { ProgramsAhead, type LayersBySlot } from '../ahead/programs.js';
import { MergedTree } from '../fs/merged.js';
import type { ImageConfig } from '../image/config.js';
import type { Layer } from '../layer/layer.js';
import type { Tree } from '../toc/tree.js';
import type { FileSpec } from './image-files.js';
import { estargzLayer, LayerBench, type FakeBlob } from './layer-fixture.js';

/** Command lines by process, as `/proc` would have them. */
class FakeCommandLines extends CommandLines {
  readonly of = new Map<number, CommandLine>();

  override async look(pid: number) {
    return this.of.get(pid);
  }
}

/** An image of lazy layers, with what is guessed of its programs. */
export class AheadImage implements AsyncDisposable {
  readonly programs: ProgramsAhead;
  readonly commandLines = new FakeCommandLines();
  /** What processes are about to run, by their pids. */
  readonly launched = new Map<number, Invocation>();
  readonly slots: number[];

  private constructor(
    readonly bench: LayerBench,
    readonly layers: Layer[],
    readonly blobs: FakeBlob[],
  ) {
    this.slots = layers.map(({ slot }) => slot);
    const using: LayersBySlot['using'] = (slot, work) => work(layers.find((layer) => layer.slot === slot)!);
    const launchers = { invocation: async (pid: number) => this.launched.get(pid) };
    this.programs = new ProgramsAhead({ using }, this.commandLines, launchers);
  }

  static async open(
    specs: readonly (readonly FileSpec[])[],
    options?: { landmarkAfter?: number },
  ): Promise<AheadImage> {
    const bench = await LayerBench.create();
    const made = await Promise.all(specs.map((files) => estargzLayer(files, options)));
    const layers = await Promise.all(made.map(({ source }) => bench.store.open(source)));
    for (const { blob } of made) blob.asked.length = 0;
    return new AheadImage(
      bench,
      layers,
      made.map(({ blob }) => blob),
    );
  }

  /** Paths of regular files that are there, those that keep others apart left out. */
  async present(): Promise<string[]> {
    const { scheduler } = this.bench.store;
    while (scheduler.memoryInUse > 0) await turn();
    const tree = new MergedTree(this.layers);
    const paths: string[] = [];
    for (const { path, node } of tree.walk()) {
      if (!tree.isRegular(node)) continue;
      const { view, tree: own } = this.layers[node.layer];
      const { first, end } = own.chunksOf(node.inode, 0, Infinity);
      if (end > first && view.presence.hasAll(first, end) && path.byteLength > 1) paths.push(path.toString());
    }
    return paths.sort();
  }

  /** A container of the image starts: its runtime reads who its user is. */
  async start(config: ImageConfig['config']): Promise<void> {
    await this.programs.expect(this.slots, () => config);
    await this.programs.starts(this.slots.at(-1)!);
  }

  /** A process with these arguments has waited for a file of the lowest layer. */
  async runs(words: readonly string[], directory = '/', pid = 1, isOutside = false): Promise<void> {
    this.commandLines.of.set(pid, { arguments: words, directory, isOutside });
    await this.programs.runs(this.slots[0], pid, Promise.resolve());
  }

  /** A process has read the beginning of a file. */
  async reads(path: string): Promise<void> {
    await this.programs.read(...this.place(path));
  }

  /** Whether a file's beginning is there. */
  has(path: string): boolean {
    const { layer, inode } = new MergedTree(this.layers).resolve(path);
    const { tree, view } = this.layers[layer];
    return view.presence.has(tree.first[inode]);
  }

  get requests(): number {
    return this.blobs.reduce((sum, { asked }) => sum + asked.length, 0);
  }

  place(path: string): [number, number] {
    const { layer, inode } = new MergedTree(this.layers).resolve(path);
    return [this.slots[layer], inode];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const layer of this.layers) await layer[Symbol.asyncDispose]();
    await this.bench[Symbol.asyncDispose]();
  }
}

/** Counts the names that are looked up in a layer from now on. */
export function lookups(tree: Tree): () => number {
  let looked = 0;
  const find = tree.findDirent.bind(tree);
  tree.findDirent = (...args) => (looked++, find(...args));
  return () => looked;
}

/** Those of the paths that are not there. */
export const missing = (present: readonly string[], paths: readonly string[]) =>
  paths.filter((path) => !present.includes(path)).join();
