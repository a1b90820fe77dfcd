import { posix } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { LRUCache } from 'lru-cache';
import type { MergedNode } from '../fs/merged.js';
import type { ImageConfig } from '../image/config.js';
import type { Layer } from '../layer/layer.js';
import { PREFETCH } from '../layer/scheduler.js';
import { nameOf, pathsOf } from '../toc/paths.js';
import { DEFAULT_PATH, type Invocation } from './arguments.js';
import { BoundedTree } from './bounded-tree.js';
import { guessDynamic, readDynamic, type Dynamic, type ReadAt } from './elf.js';
import { IncludeFinder, isCompiler, isSource } from './includes.js';
import { C_LIBRARY, dynamicStart, libraryDirectory, machines, searched } from './libraries.js';
import { ManyFiles, type Bringer, type Language, type SourceFile } from './many.js';
import { isInterpreter, isModule, ModuleFinder, runsModules, type ModulePlaces } from './modules.js';
import { isOpener, opens } from './opens.js';

/** Files that one program leads to at most; modules and headers are counted apart. */
const MAX_FILES = 256;
/** How often it is looked how much is still to come. */
const LOOK_MS = 10;

/**
 * Compressed bytes of a program after which it is looked at while it still comes: most have named their libraries by the first, those
 * with the most symbols by the last. Inflating all three takes some 5 ms.
 */
export const GLIMPSES = [32 * 1024, 128 * 1024, 512 * 1024];

/** What an image's config says of how it is started. */
export type StartConfig = ImageConfig['config'];

/** An image whose programs may be read. */
export interface KnownImage {
  /** Of its layers, the lowest first. */
  readonly slots: readonly number[];
  /** What a container of it runs is known, though it may not be what its config says. */
  isLaunched: boolean;
  /** Where it has its modules. */
  readonly places: ModulePlaces;
}

/** One walk from file to file through an image. */
export class Visit implements Bringer {
  readonly #tree: BoundedTree;
  readonly #modules: ModuleFinder;
  readonly #includes: IncludeFinder;
  readonly #many: ManyFiles;
  #files = 0;

  constructor(
    readonly layers: readonly Layer[],
    private readonly image: KnownImage,
    readonly seen: LRUCache<string, true>,
  ) {
    this.#tree = new BoundedTree(layers);
    this.#modules = new ModuleFinder(this.#tree, image.places);
    this.#includes = new IncludeFinder(this.#tree);
    this.#many = new ManyFiles(this);
  }

  /** Whether a layer says itself what a start needs. */
  get marked(): boolean {
    return this.layers.some(({ tree }) => tree.isMarked);
  }

  /** The programs that commands name, by what they begin with or by paths; and modules and sources that these are given. */
  command({ commands, path, directory }: Invocation): MergedNode[] {
    const programs = commands.flatMap(({ program }) => (program && this.#program(program, path, directory)) || []);
    const all = commands.flatMap(({ words }) => words);
    // Where modules are that are run by their names.
    if (all.includes('-m')) for (const program of programs) this.#modules.start(this.#pathOf(program));
    const others = all.flatMap((word, index) => {
      if (all[index - 1] === '-m') return this.#modules.named(word).map(({ node }) => node);
      if (isModule(word) || isSource(word)) return this.#tree.file(posix.resolve('/', directory, word)) ?? [];
      return word.includes('/') ? (this.#program(word, path, directory) ?? []) : [];
    });
    return [...programs, ...others];
  }

  #program(word: string, path: readonly string[], from: string): MergedNode | undefined {
    const places = word.includes('/')
      ? [word.startsWith('/') ? word : `${from}/${word}`]
      : path.map((p) => `${p}/${word}`);
    for (const place of places) {
      const found = this.#tree.file(place);
      if (found === undefined || (this.#tree.stat(found).mode & 0o111) === 0) continue;
      if (runsModules(posix.basename(place))) this.#modules.learnEnvironment(place);
      return found;
    }
    return undefined;
  }

  /** What every program that is linked dynamically needs, the C library last, and what most read soon after. */
  start(): { first: MergedNode[]; later: string[] } {
    for (const { library, loaders } of machines) {
      const loader = this.#first(loaders);
      if (loader === undefined) continue;
      const libc = this.#first(searched(library).map((place) => `${place}/${C_LIBRARY}`));
      return { first: [loader, libc].filter((one) => one !== undefined), later: dynamicStart(library) };
    }
    return { first: [], later: [] };
  }

  /** Asks for files, by their paths and others, side by side. */
  bring(paths: readonly string[], nodes: readonly MergedNode[] = []): void {
    this.#bring([...paths.flatMap((path) => this.#tree.file(path) ?? []), ...nodes]);
  }

  bringMany(files: readonly SourceFile[], around: number): void {
    const nodes = files.map(({ node }) => node);
    this.#bring(nodes, around);
  }

  #bring(nodes: readonly MergedNode[], around?: number): void {
    for (const [index, layer] of this.layers.entries()) {
      const inodes = nodes.filter((node) => node.layer === index).map(({ inode }) => inode);
      if (inodes.length === 0) continue;
      if (around === undefined) layer.bring(inodes);
      else layer.bringMany(inodes, around);
    }
  }

  /** Brings files, side by side, and what each leads to. */
  #lead(nodes: readonly MergedNode[]): Promise<void>[] {
    this.#bring(nodes);
    return nodes.map((node) => this.follow(node).catch(() => {}));
  }

  /** Brings a file and all that it names, and what those name. */
  async follow(node: MergedNode): Promise<void> {
    const layer = this.layers[node.layer];
    const key = this.keyOf(node);
    if (this.seen.has(key) || ++this.#files > MAX_FILES) return;
    this.seen.set(key, true);
    this.#bring([node]);
    const name = nameOf(layer.tree, node.inode);
    const read = (offset: number, length: number) => layer.read(node.inode, offset, length, { priority: PREFETCH });
    const guessed = (this.marked ? [] : [this.#startedBy(node, name), this.#guess(node, read)]).map((guess) =>
      guess.catch(() => {}),
    );
    try {
      const script = await this.#script(read);
      const needs = script?.programs ?? (await this.#linked(node, read));
      // The interpreter first: from then on it is known where the modules are.
      guessed.push(...this.#lead(needs));
      const language = script?.isModule === true ? this.#modules : this.#languageOf(name);
      if (language !== undefined && !this.marked) {
        const file = { path: this.#pathOf(node), node };
        await this.#many.follow(language, await this.#many.namedBy(language, file));
      }
    } catch (error) {
      this.seen.delete(key); // it did not come: the next reader tries again
      throw error;
    } finally {
      await Promise.all(guessed);
    }
  }

  #languageOf(name: string): Language | undefined {
    return isModule(name) ? this.#modules : isSource(name) ? this.#includes : undefined;
  }

  /** Brings what a program or library reads when it is started, as is known by its name. */
  async #startedBy(node: MergedNode, name: string): Promise<void> {
    if (isInterpreter(name)) {
      const modules = this.#modules.start(this.#pathOf(node));
      this.bringMany(modules, 0); // these alone: a short program reads little else
      await this.#many.follow(this.#modules, modules);
    }
    if (isCompiler(name)) await this.#many.follow(this.#includes, this.#includes.start(this.#pathOf(node)));
    const led: Promise<unknown>[] = [];
    const asked = [node];
    for (const { within, files } of opens(this.#tree, name, () => this.#pathOf(node))) {
      while (this.#secondsLeft(asked) > within) await sleep(LOOK_MS);
      const opened = files.flatMap((paths) => this.#first(paths) ?? []);
      led.push(...this.#lead(opened));
      asked.push(...opened);
    }
    await Promise.all(led);
  }

  /** How long what is on its way of files will take to come. */
  #secondsLeft(nodes: readonly MergedNode[]): number {
    return nodes.reduce((sum, { layer, inode }) => sum + this.layers[layer].secondsLeft(inode), 0);
  }

  /**
   * Follows a program while most of it is still coming, by what it seems to name. Its bytes are not verified yet: they tell which files of the
   * image, and which parts of itself, are asked for next, each of which is verified as ever, and lead to nothing else. What the program says
   * once it has come counts all the same.
   */
  async #guess(node: MergedNode, read: ReadAt): Promise<void> {
    const led: Promise<unknown>[] = [];
    for (const bytes of GLIMPSES) {
      const beginning = await this.layers[node.layer].glimpse(node.inode, bytes);
      const dynamic = beginning && (await guessDynamic(beginning));
      if (dynamic === undefined) break;
      if (led.length === 0) {
        this.layers[node.layer].loads(node.inode, dynamic.loaded);
        led.push(read(dynamic.place, 1).catch(() => {})); // what the loader reads next
      }
      led.push(...this.#lead(this.#needs(node, dynamic)));
      if (dynamic.needed.length > 0) break;
    }
    await Promise.all(led);
  }

  /** The programs that a script's first line names, and whether it is a module by that; undefined of what is no script. */
  async #script(read: ReadAt): Promise<{ programs: MergedNode[]; isModule: boolean } | undefined> {
    const line = Buffer.from(await read(0, 256))
      .toString('latin1')
      .split('\n', 1)[0];
    if (!line.startsWith('#!')) return undefined;
    const [interpreter, ...words] = line.slice(2).trim().split(/\s+/);
    const named = words.find((word) => !word.startsWith('-') && !word.includes('='));
    const program = interpreter.endsWith('/env') && named !== undefined ? [named] : [];
    return {
      programs: [interpreter, ...program].flatMap((word) => this.#program(word, DEFAULT_PATH, '/') ?? []),
      isModule: [interpreter, ...program].some((word) => runsModules(posix.basename(word))),
    };
  }

  async #linked(node: MergedNode, read: ReadAt): Promise<MergedNode[]> {
    const dynamic = await readDynamic(read);
    if (dynamic === undefined) return [];
    this.layers[node.layer].loads(node.inode, dynamic.loaded);
    if (dynamic.interpreter !== undefined && !this.marked) this.bring(dynamicStart(libraryDirectory(dynamic)));
    return this.#needs(node, dynamic);
  }

  /** The loader and the libraries that a program or library names. */
  #needs(node: MergedNode, dynamic: Dynamic): MergedNode[] {
    let own: string | undefined;
    const origin = () => (own ??= posix.dirname(this.#pathOf(node)));
    const places = [
      ...dynamic.runpath.map((path) => path.replace(/\$(ORIGIN|\{ORIGIN\})/, origin)),
      ...searched(libraryDirectory(dynamic)),
    ];
    const found = dynamic.needed.map((name) =>
      this.#first(name.includes('/') ? [name] : places.map((place) => `${place}/${name}`)),
    );
    const interpreter = dynamic.interpreter === undefined ? undefined : this.#tree.file(dynamic.interpreter);
    return [interpreter, ...found].filter((one) => one !== undefined);
  }

  #first(paths: readonly string[]): MergedNode | undefined {
    for (const path of paths) {
      const node = this.#tree.file(path);
      if (node !== undefined) return node;
    }
    return undefined;
  }

  #pathOf({ layer, inode }: MergedNode): string {
    return pathsOf(this.layers[layer].tree, new Set([inode])).get(inode) ?? '/';
  }

  keyOf({ layer, inode }: MergedNode): string {
    return keyOf(this.image.slots[layer], inode);
  }
}

/** Whether a file's name alone tells that it leads to others. */
export const isKnown = (name: string): boolean =>
  isModule(name) || isSource(name) || isInterpreter(name) || isCompiler(name) || isOpener(name);

/** Names a file of any layer. */
export const keyOf = (slot: number, inode: number) => `${slot}:${inode}`;
