import { posix } from 'node:path';
import { setImmediate as turn, setTimeout as sleep } from 'node:timers/promises';
import type { LRUCache } from 'lru-cache';
import { MergedTree, type MergedNode } from '../fs/merged.js';
import type { ImageConfig } from '../image/config.js';
import type { Layer } from '../layer/layer.js';
import { PREFETCH } from '../layer/scheduler.js';
import { nameOf, pathsOf } from '../toc/paths.js';
import { DEFAULT_PATH, type Invocation } from './arguments.js';
import { guessDynamic, readDynamic, type Dynamic, type ReadAt } from './elf.js';
import { isInterpreter, isModule, ModuleFinder, runsModules, type Module, type ModulePlaces } from './modules.js';

/** Files that one program leads to at most; modules in Python are counted apart. */
const MAX_FILES = 256;
const MAX_MODULES = 2048;
/** Bytes of a module that is looked at; larger ones hold data, or are libraries. */
const MAX_MODULE_BYTES = 1024 * 1024;
/** The same of all modules that one program leads to. */
const MAX_MODULES_BYTES = 64 * 1024 * 1024;
/** How long it is waited for more modules whose imports are asked for at once: what one request brings comes within this. */
const GATHER_MS = 8;
/** Compressed bytes around a module that are brought along, for each that was followed before, and in all: the more, the denser they lie. */
const AROUND_BYTES = 32 * 1024;
const MAX_AROUND_BYTES = 1024 * 1024;

/** Paths that one walk looks up at most: an image can name any number of them. */
const MAX_LOOKUPS = 4096;

/**
 * Compressed bytes of a program after which it is looked at while it still comes: most have named their libraries by the first, those
 * with the most symbols by the last. Inflating all three takes some 5 ms.
 */
export const GLIMPSES = [32 * 1024, 128 * 1024, 512 * 1024];

/** What the loader of a dynamically linked program reads before all else. */
const LOADER_CACHE = '/etc/ld.so.cache';
/** What the C library reads before a program's first line, and most programs soon after. */
const DYNAMIC_START = [
  '/etc/nsswitch.conf',
  '/etc/localtime',
  '/usr/lib/locale/C.utf8/LC_CTYPE',
  '$LIB/gconv/gconv-modules.cache',
];
/** What a library reads when it is loaded, by its name up to the version. */
const READ_BY: Readonly<Record<string, string>> = { 'libcrypto.so': '/usr/lib/ssl/openssl.cnf' };
/** Directories that the loader looks in; `$LIB` is where Debian has the libraries of one architecture. */
const LIBRARY_DIRECTORIES = ['$LIB', '/lib64', '/usr/lib64', '/lib', '/usr/lib', '/usr/local/lib'];
/** By `e_machine`: Debian's name, and the loaders of programs that are linked against glibc and musl, as their ABIs have it. */
const MACHINES: Readonly<Record<number, { readonly triplet: string; readonly loaders: readonly string[] }>> = {
  21: { triplet: 'powerpc64le-linux-gnu', loaders: ['/lib64/ld64.so.2', '/lib/ld-musl-powerpc64le.so.1'] },
  62: { triplet: 'x86_64-linux-gnu', loaders: ['/lib64/ld-linux-x86-64.so.2', '/lib/ld-musl-x86_64.so.1'] },
  183: { triplet: 'aarch64-linux-gnu', loaders: ['/lib/ld-linux-aarch64.so.1', '/lib/ld-musl-aarch64.so.1'] },
  243: { triplet: 'riscv64-linux-gnu', loaders: ['/lib/ld-linux-riscv64-lp64d.so.1', '/lib/ld-musl-riscv64.so.1'] },
  258: {
    triplet: 'loongarch64-linux-gnu',
    loaders: ['/lib64/ld-linux-loongarch-lp64d.so.1', '/lib/ld-musl-loongarch64.so.1'],
  },
};
/** The C library's name where the loader is not the same file, as in musl. */
const C_LIBRARY = 'libc.so.6';

/** What an image's config says of how it is started. */
export type StartConfig = ImageConfig['config'];

/** An image whose programs may be read. */
export interface KnownImage {
  /** Of its layers, the lowest first. */
  readonly slots: readonly number[];
  /** Where it has its modules. */
  readonly places: ModulePlaces;
}

/** One walk from file to file through an image. */
export class Visit {
  readonly #tree: MergedTree;
  readonly #modules: ModuleFinder;
  #files = 0;
  #moduleFiles = 0;
  /** Bytes of modules that may still be looked at. */
  #moduleBytes = MAX_MODULES_BYTES;
  #parsing: Promise<unknown> = Promise.resolve();
  #lookups = 0;

  constructor(
    readonly layers: readonly Layer[],
    private readonly image: KnownImage,
    private readonly seen: LRUCache<string, true>,
  ) {
    this.#tree = new MergedTree(layers);
    this.#modules = new ModuleFinder(this.#tree, image.places);
  }

  /** Whether a layer says itself what a start needs. */
  get marked(): boolean {
    return this.layers.some(({ tree }) => tree.isMarked);
  }

  /** The programs that commands name, by what they begin with or by paths; and modules that these are given to run. */
  command({ commands, path, directory }: Invocation): MergedNode[] {
    const programs = commands.flatMap(({ program }) => (program && this.#program(program, path, directory)) || []);
    const all = commands.flatMap(({ words }) => words);
    // Where modules are that are run by their names.
    if (all.includes('-m')) for (const program of programs) this.#modules.start(this.#pathOf(program));
    const others = all.flatMap((word, index) => {
      if (all[index - 1] === '-m') return this.#modules.named(word).map(({ node }) => node);
      if (isModule(word)) return this.#first([posix.resolve('/', directory, word)]) ?? [];
      return word.includes('/') ? (this.#program(word, path, directory) ?? []) : [];
    });
    return [...programs, ...others];
  }

  #program(word: string, path: readonly string[], from: string): MergedNode | undefined {
    const places = word.includes('/')
      ? [word.startsWith('/') ? word : `${from}/${word}`]
      : path.map((p) => `${p}/${word}`);
    for (const place of places) {
      const found = this.#first([place], (node) => (this.#tree.stat(node).mode & 0o111) !== 0);
      if (found === undefined) continue;
      if (runsModules(posix.basename(place))) this.#modules.learnEnvironment(place);
      return found;
    }
    return undefined;
  }

  /** What every program that is linked dynamically needs, the C library last, and what most read soon after. */
  start(): { first: MergedNode[]; later: string[] } {
    for (const { triplet, loaders } of Object.values(MACHINES)) {
      const loader = this.#first(loaders);
      if (loader === undefined) continue;
      const library = `/usr/lib/${triplet}`;
      const libc = this.#first(searched(library).map((place) => `${place}/${C_LIBRARY}`));
      const later = [LOADER_CACHE, ...dynamicStart(library)];
      return { first: [loader, libc].filter((one) => one !== undefined), later };
    }
    return { first: [], later: [] };
  }

  /** Asks for files, by their paths and others, side by side. */
  bring(paths: readonly string[], nodes: readonly MergedNode[] = []): void {
    this.#bring([...paths.flatMap((path) => this.#first([path]) ?? []), ...nodes]);
  }

  #bring(nodes: readonly MergedNode[], around?: number): void {
    for (const [index, layer] of this.layers.entries()) {
      const inodes = nodes.filter((node) => node.layer === index).map(({ inode }) => inode);
      if (inodes.length === 0) continue;
      if (around === undefined) layer.bring(inodes);
      else layer.bringMany(inodes, around);
    }
  }

  /** Brings a file and all that it names, and what those name. */
  async follow(node: MergedNode): Promise<void> {
    const layer = this.layers[node.layer];
    const key = this.#keyOf(node);
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
      this.#bring(needs);
      // The interpreter first: from then on it is known where the modules are.
      guessed.push(...needs.map((need) => this.follow(need).catch(() => {})));
      if (isModule(name) || script?.isModule === true) await this.#followModules(await this.#imports(node));
    } catch (error) {
      this.seen.delete(key); // it did not come: the next reader tries again
      throw error;
    } finally {
      await Promise.all(guessed);
    }
  }

  /** Brings what a program or library reads when it is started, as is known by its name. */
  async #startedBy(node: MergedNode, name: string): Promise<void> {
    const configuration = READ_BY[name.replace(/[.\d]*$/, '')];
    if (configuration !== undefined) this.bring([configuration]);
    if (!isInterpreter(name)) return;
    const modules = this.#modules.start(this.#pathOf(node));
    this.#bringModules(modules, 0); // these alone: a short program reads little else
    await this.#followModules(modules);
  }

  /** Brings modules, all that they import, and what those import: what is found at about the same time by few requests. */
  async #followModules(modules: readonly Module[]): Promise<void> {
    const led = new Set<Promise<unknown>>();
    let found = [...modules];
    const lead = (work: Promise<unknown>) => {
      const done: Promise<unknown> = work.catch(() => {}).then(() => led.delete(done));
      led.add(done);
    };
    while (found.length > 0 || led.size > 0) {
      // What comes by one request comes about at once, and what it leads to is asked for together.
      if (found.length === 0) await Promise.race(led);
      await sleep(GATHER_MS);
      const wanted = new Map(found.map((module) => [this.#keyOf(module.node), module]));
      found = [];
      for (const key of wanted.keys()) if (this.seen.has(key) || ++this.#moduleFiles > MAX_MODULES) wanted.delete(key);
      this.#bringModules([...wanted.values()], Math.min(MAX_AROUND_BYTES, AROUND_BYTES * this.#moduleFiles));
      for (const [key, { node, path }] of wanted) {
        if (!isModule(path)) lead(this.follow(node));
        this.seen.set(key, true);
        lead(
          this.#imports(node, path).then(
            (imports) => (found = found.concat(imports)), // any number: too many for arguments
            () => this.seen.delete(key), // it did not come: the next reader tries again
          ),
        );
      }
    }
  }

  #bringModules(modules: readonly Module[], around: number): void {
    this.#bring(
      modules.map(({ node }) => node),
      around,
    );
  }

  /** What a module leads to; nothing where it is too large to look at. */
  async #imports(node: MergedNode, path = this.#pathOf(node)): Promise<Module[]> {
    const layer = this.layers[node.layer];
    const size = layer.tree.size[node.inode];
    if (this.marked || size > Math.min(MAX_MODULE_BYTES, this.#moduleBytes)) return [];
    this.#moduleBytes -= size;
    const content = await layer.read(node.inode, 0, size, { priority: PREFETCH });
    // One after the other, so that whoever waits for anything else is served between them.
    const parsed = this.#parsing.then(async () => {
      await turn();
      return this.#modules.imports({ path, node }, content);
    });
    this.#parsing = parsed.catch(() => {});
    return parsed;
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
      const needs = this.#needs(node, dynamic);
      this.#bring(needs);
      led.push(...needs.map((need) => this.follow(need).catch(() => {})));
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
    if (dynamic.interpreter !== undefined && !this.marked)
      this.bring([LOADER_CACHE, ...dynamicStart(libraryDirectory(dynamic))]);
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
    const interpreter = dynamic.interpreter === undefined ? undefined : this.#first([dynamic.interpreter]);
    return [interpreter, ...found].filter((one) => one !== undefined);
  }

  #first(paths: readonly string[], fits: (node: MergedNode) => boolean = () => true): MergedNode | undefined {
    for (const path of paths) {
      if (++this.#lookups > MAX_LOOKUPS) return undefined;
      let node: MergedNode;
      try {
        node = this.#tree.resolve(path);
      } catch {
        continue; // not there, or not to be reached
      }
      if (this.#tree.isRegular(node) && fits(node)) return node;
    }
    return undefined;
  }

  #pathOf({ layer, inode }: MergedNode): string {
    return pathsOf(this.layers[layer].tree, new Set([inode])).get(inode) ?? '/';
  }

  #keyOf({ layer, inode }: MergedNode): string {
    return keyOf(this.image.slots[layer], inode);
  }
}

function libraryDirectory({ machine }: Dynamic): string {
  const known = MACHINES[machine];
  return known === undefined ? '/usr/lib' : `/usr/lib/${known.triplet}`;
}

const searched = (libraries: string) => LIBRARY_DIRECTORIES.map((path) => path.replace('$LIB', libraries));
const dynamicStart = (libraries: string) => DYNAMIC_START.map((path) => path.replace('$LIB', libraries));

/** Names a file of any layer. */
export const keyOf = (slot: number, inode: number) => `${slot}:${inode}`;
