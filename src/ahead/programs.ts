import { posix } from 'node:path';
import { LRUCache } from 'lru-cache';
import type { ImageConfig } from '../image/config.js';
import { codeOf } from '../errors.js';
import { MergedTree, type MergedNode } from '../fs/merged.js';
import { RUNTIME_FILES } from '../layer/landmark.js';
import type { Layer } from '../layer/layer.js';
import { PREFETCH } from '../layer/scheduler.js';
import { pathsOf } from '../toc/paths.js';
import { guessDynamic, readDynamic, type Dynamic, type ReadAt } from './elf.js';

/** The open layers, by their slots. */
export interface LayersBySlot {
  /** Does what needs the layer in a slot, which stays open meanwhile. */
  using<V>(slot: number, work: (layer: Layer) => Promise<V>): Promise<V>;
}

/** What an image's config says of how it is started. */
type StartConfig = ImageConfig['config'];

/** Images that are remembered, and files that need not be looked at again. */
const MAX_IMAGES = 256;
const MAX_SEEN = 4096;
/** Files that one program leads to at most. */
const MAX_FILES = 256;

/** Paths that one walk looks up at most, and directories of a search path: an image can name any number of them. */
const MAX_LOOKUPS = 4096;
const MAX_PATH = 64;

/**
 * Compressed bytes of a program after which it is looked at while it still comes: most have named their libraries by the first, those
 * with the most symbols by the last. Inflating all three takes some 5 ms.
 */
const GLIMPSES = [32 * 1024, 128 * 1024, 512 * 1024];

const ELF = Buffer.from('\x7fELF', 'latin1');
const SCRIPT = Buffer.from('#!');

const DEFAULT_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';
/** What the loader of a dynamically linked program reads before all else. */
const LOADER_CACHE = '/etc/ld.so.cache';
/** What the C library reads before a program's first line, and most programs soon after. */
const DYNAMIC_START = [
  '/etc/nsswitch.conf',
  '/etc/localtime',
  '/usr/lib/locale/C.utf8/LC_CTYPE',
  '$LIB/gconv/gconv-modules.cache',
];
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

interface Expected {
  readonly slots: readonly number[];
  readonly config: () => StartConfig | Promise<StartConfig>;
}

/**
 * Brings what a program that starts reads next, before it is asked for: of an image that is there, what its config names as the
 * command; of any program, library or script whose beginning somebody reads, the loader, libraries and interpreter that it names in turn.
 * These come one after the other otherwise, a round trip each. All of it is guessing: what cannot be found or fetched is left to
 * whoever reads it.
 */
export class ProgramsAhead {
  readonly #layers: LayersBySlot;
  /** The slots of an image's layers, the lowest first, by themselves. */
  readonly #images = new LRUCache<string, readonly number[]>({ max: MAX_IMAGES });
  /** Of these, those that no container was started from yet, and how to learn their configs. */
  readonly #expected = new LRUCache<string, Expected>({ max: MAX_IMAGES });
  /** Files whose needs were brought, by slot and inode. */
  readonly #seen = new LRUCache<string, true>({ max: MAX_SEEN });

  constructor(layers: LayersBySlot) {
    this.#layers = layers;
  }

  /** An image is there, with the layers in these slots, the lowest first: its programs may be read. */
  know(slots: readonly number[]): void {
    this.#images.set(slots.join(), slots);
  }

  /**
   * The same, and containers are likely to be started from it: brings what a container's runtime looks its user up in; and as nearly every
   * program of an image that has a loader is linked dynamically, the C library, before any program has named it. The loader and more is
   * brought by `starts`, since a pull alone shall cost few requests. Where a layer says itself what a start needs, nothing else is guessed.
   * Resolves when all is asked for; never rejects.
   */
  async expect(slots: readonly number[], config: () => StartConfig | Promise<StartConfig>): Promise<void> {
    this.know(slots);
    this.#expected.set(slots.join(), { slots, config });
    await this.#visit(slots, async (visit) => {
      visit.bring(RUNTIME_FILES, visit.marked ? [] : visit.start().first.slice(-1));
    });
  }

  /**
   * A container is about to be started from an image whose topmost layer is in this slot: of one that was expected, brings the command of its
   * config and what it leads to, and what the loader and the C library read before a program's first line. Resolves when all that it leads
   * to is asked for; never rejects.
   */
  async starts(slot: number): Promise<void> {
    await this.#startAll((slots) => slots.at(-1) === slot);
  }

  async #startAll(wanted: (slots: readonly number[]) => boolean): Promise<void> {
    for (const [key, { slots, config }] of [...this.#expected.entries()]) {
      if (!wanted(slots)) continue;
      this.#expected.delete(key);
      let marked = false;
      await this.#visit(slots, async (visit) => {
        marked = visit.marked;
        if (!marked) visit.bring(visit.start().later);
      });
      if (marked) continue;
      const follow = (nodes: (visit: Visit) => readonly MergedNode[]) =>
        this.#visit(slots, async (visit) => void (await Promise.all(nodes(visit).map((node) => visit.follow(node)))));
      // Not while the layers are kept awake: the registry may take its time.
      const start = (async () => (await config()) ?? {})().catch(() => ({}));
      await Promise.all([follow((visit) => visit.start().first), start.then((c) => follow((v) => v.command(c)))]);
    }
  }

  /** Somebody waits for the beginning of a file. Resolves when all that it leads to is asked for; never rejects. */
  async read(slot: number, inode: number): Promise<void> {
    // Whoever is not told of starts sees them by this.
    void this.#startAll((slots) => slots.includes(slot));
    // The image that was met last goes first: which of several that share a layer is read cannot be told.
    for (const [key, slots] of [...this.#images.entries()]) {
      if (!slots.includes(slot)) continue;
      if (!(await this.#names(slot, inode))) return;
      const node: MergedNode = { layer: slots.indexOf(slot), inode, parts: [] };
      if (await this.#visit(slots, (visit) => visit.follow(node))) return;
      this.#images.delete(key);
    }
  }

  /** Whether a file is of those that name others, as its first bytes tell: its own layer alone is needed for that. */
  async #names(slot: number, inode: number): Promise<boolean> {
    if (this.#seen.has(keyOf(slot, inode))) return false;
    try {
      const magic = await this.#layers.using(
        slot,
        async (layer) =>
          (await layer.glimpse(inode, GLIMPSES[0])) ?? (await layer.read(inode, 0, 4, { priority: PREFETCH })),
      );
      return ELF.equals(magic.subarray(0, ELF.byteLength)) || SCRIPT.equals(magic.subarray(0, SCRIPT.byteLength));
    } catch {
      return false;
    }
  }

  /** False where a layer is not there any more. What else fails is left to whoever reads it. */
  async #visit(slots: readonly number[], work: (visit: Visit) => Promise<void>): Promise<boolean> {
    const withAll = async (layers: readonly Layer[]): Promise<void> => {
      const slot = slots.at(layers.length);
      if (slot === undefined) return work(new Visit(layers, slots, this.#seen)).catch(() => {});
      return this.#layers.using(slot, (layer) => withAll([...layers, layer]));
    };
    try {
      await withAll([]);
      return true;
    } catch (error) {
      return codeOf(error) !== 'NOT_FOUND';
    }
  }
}

/** One walk from file to file through an image. */
class Visit {
  readonly #tree: MergedTree;
  #files = 0;
  #lookups = 0;

  constructor(
    readonly layers: readonly Layer[],
    private readonly slots: readonly number[],
    private readonly seen: LRUCache<string, true>,
  ) {
    this.#tree = new MergedTree(layers);
  }

  /** Whether a layer says itself what a start needs. */
  get marked(): boolean {
    return this.layers.some(({ tree }) => tree.isMarked);
  }

  /** The programs that a config names: the entrypoint, and a command that it may hand over to. */
  command(config: NonNullable<ImageConfig['config']>): MergedNode[] {
    const path = config.Env?.find((word) => word.startsWith('PATH='))?.slice('PATH='.length) ?? DEFAULT_PATH;
    const words = [config.Entrypoint?.[0], config.Cmd?.[0]];
    return words.flatMap((word) => {
      if (word === undefined || word === '') return [];
      return this.#program(word, path.split(':', MAX_PATH), config.WorkingDir ?? '/') ?? [];
    });
  }

  #program(word: string, path: readonly string[], from: string): MergedNode | undefined {
    const places = word.includes('/')
      ? [word.startsWith('/') ? word : `${from}/${word}`]
      : path.map((p) => `${p}/${word}`);
    return this.#first(places, (node) => (this.#tree.stat(node).mode & 0o111) !== 0);
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

  #bring(nodes: readonly MergedNode[]): void {
    for (const [index, layer] of this.layers.entries()) {
      const inodes = nodes.filter((node) => node.layer === index).map(({ inode }) => inode);
      if (inodes.length > 0) layer.bring(inodes);
    }
  }

  /** Brings a file and all that it names, and what those name. */
  async follow(node: MergedNode): Promise<void> {
    const key = keyOf(this.slots[node.layer], node.inode);
    if (this.seen.has(key) || ++this.#files > MAX_FILES) return;
    this.seen.set(key, true);
    this.#bring([node]);
    const layer = this.layers[node.layer];
    const read = (offset: number, length: number) => layer.read(node.inode, offset, length, { priority: PREFETCH });
    const guessed = this.marked ? undefined : this.#guess(node, read).catch(() => {});
    let needs: MergedNode[];
    try {
      needs = (await this.#script(read)) ?? (await this.#linked(node, read));
    } catch (error) {
      this.seen.delete(key); // it did not come: the next reader tries again
      throw error;
    }
    this.#bring(needs);
    await Promise.all([guessed, ...needs.map((need) => this.follow(need))]);
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

  /** What a script's first line names; undefined of what is none. */
  async #script(read: ReadAt): Promise<MergedNode[] | undefined> {
    const line = Buffer.from(await read(0, 256))
      .toString('latin1')
      .split('\n', 1)[0];
    if (!line.startsWith('#!')) return undefined;
    const [interpreter, ...words] = line.slice(2).trim().split(/\s+/);
    const named = words.find((word) => !word.startsWith('-') && !word.includes('='));
    const program = interpreter.endsWith('/env') && named !== undefined ? [named] : [];
    return [interpreter, ...program].flatMap((word) => this.#program(word, DEFAULT_PATH.split(':'), '/') ?? []);
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
    const origin = () => (own ??= this.#directoryOf(node));
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

  #directoryOf({ layer, inode }: MergedNode): string {
    return posix.dirname(pathsOf(this.layers[layer].tree, new Set([inode])).get(inode) ?? '/');
  }
}

function libraryDirectory({ machine }: Dynamic): string {
  const known = MACHINES[machine];
  return known === undefined ? '/usr/lib' : `/usr/lib/${known.triplet}`;
}

const searched = (libraries: string) => LIBRARY_DIRECTORIES.map((path) => path.replace('$LIB', libraries));
const dynamicStart = (libraries: string) => DYNAMIC_START.map((path) => path.replace('$LIB', libraries));

const keyOf = (slot: number, inode: number) => `${slot}:${inode}`;
