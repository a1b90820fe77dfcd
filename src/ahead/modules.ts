import { posix } from 'node:path';
import { LRUCache } from 'lru-cache';
import type { MergedNode } from '../fs/merged.js';
import type { BoundedTree } from './bounded-tree.js';
import type { Language, SourceFile } from './many.js';
import { compiledImports, libraryImports, sourceImports, type Import } from './python.js';

/** A module's file as the interpreter reads it: compiled, as source, or a library. */
export type Module = SourceFile;

/** What has been learnt of where an image has its modules. */
export interface ModulePlaces {
  /** Directories that modules were found in that belong to no package. */
  readonly roots: Set<string>;
  /** In the names of compiled modules: `cpython-311`. */
  tag?: string;
  readonly listings: Listings;
  /** What the image is among those that share the listings. */
  readonly image: number;
}

/** Directories of any number of images, as they were read last. */
export type Listings = LRUCache<string, Listing>;

export const newListings = (): Listings =>
  new LRUCache({ maxSize: 65_536, sizeCalculation: ({ entries }) => entries.size + LISTING });

/** A module, a package, whose directory holds more of them, or a directory that is a package without saying so. */
interface Found {
  readonly module?: Module;
  /** Of a package: its modules that were written in other languages, which it has to be used. */
  readonly libraries?: readonly Module[];
  readonly directory?: string;
}

/**
 * Modules that an interpreter reads before a program's first line, up to Python 3.10; since then it has them in itself, and reads them not
 * even where they are imported.
 */
const FROZEN_SINCE = 11;
const FROZEN = [
  'abc',
  'codecs',
  'io',
  'os',
  'site',
  'stat',
  'posixpath',
  'genericpath',
  '_collections_abc',
  '_sitebuiltins',
  'importlib.util',
  'importlib.machinery',
  'runpy',
];
/** What every interpreter reads: the encoding of its terminal and files, and what a system adds to its start. */
const START = ['encodings', 'encodings.aliases', 'encodings.utf_8', 'sitecustomize'];
/** Where other modules are than those of the standard library, relative to these. */
const BESIDE = ['lib-dynload', 'site-packages', '../python3/dist-packages', '../../local/lib/$NAME/dist-packages'];
/** Source that is looked at, at most. */
const MAX_SOURCE_BYTES = 512 * 1024;
/** Directories that modules are looked for in, at most. */
const MAX_ROOTS = 32;
/** Entries of directories that are listed for one walk, at most, and for how many a directory counts: symlinks give it any number of paths. */
const MAX_LISTED = 256 * 1024;
/** Entries of one directory, at most; larger ones hold data. */
const MAX_ENTRIES = 8192;
const LISTING = 32;
/** Bytes up to which a package's libraries come with it; one with larger ones is a collection, of which a program uses some. */
const MAX_LIBRARIES_BYTES = 16 * 1024 * 1024;

const INTERPRETER = /^(.*)\/bin\/(python3\.(\d+))$/;
const COMPILED = /^(.*)\/__pycache__\/[^/]+?\.(cpython-\d+)[^/]*\.pyc$/;

/** Whether a file of this name is a module, and its content tells of others. */
export const isModule = (name: string): boolean => name.endsWith('.py') || name.endsWith('.pyc');

/** Whether a program's file has an interpreter's name. */
export const isInterpreter = (name: string): boolean => INTERPRETER.test(`/bin/${name}`);

/** Whether a script whose first line has this name is a module: `python`, `python3`, `python3.11`. */
export const runsModules = (name: string): boolean => /^python(?:3(?:\.\d+)?)?$/.test(name);

interface Listing {
  readonly entries: ReadonlyMap<string, MergedNode>;
  /** Names up to a dot, as modules have them, and the entries that begin so. */
  readonly files: ReadonlyMap<string, readonly string[]>;
}

const NO_LISTING: Listing = { entries: new Map(), files: new Map() };

function filesOf(found: Found | undefined): Module[] {
  return found?.module === undefined ? [] : [found.module, ...(found.libraries ?? [])];
}

function importsOf(path: string, content: Uint8Array): Import[] {
  if (path.endsWith('.so')) return libraryImports(content);
  if (path.endsWith('.pyc')) return compiledImports(content);
  return content.byteLength > MAX_SOURCE_BYTES ? [] : sourceImports(Buffer.from(content).toString());
}

/** Finds the files of Python's modules in an image as its import system would (The Python Language Reference, 5), without running anything. */
export class ModuleFinder implements Language {
  /** The more were followed, the denser they lie. */
  readonly around = 32 * 1024;
  readonly #tree: BoundedTree;
  readonly #places: ModulePlaces;
  readonly #found = new Map<string, Found | undefined>();
  #listed = 0;

  /** Adds to `places` what it learns. */
  constructor(tree: BoundedTree, places: ModulePlaces) {
    this.#tree = tree;
    this.#places = places;
  }

  /** What an interpreter with this path reads when it starts. */
  start(interpreter: string): Module[] {
    const [, prefix, name, minor] = INTERPRETER.exec(interpreter) ?? [];
    if (name === undefined) return [];
    const library = `${prefix}/lib/${name}`;
    this.#places.tag = `cpython-3${minor}`;
    this.#learn(library);
    const names = Number(minor) < FROZEN_SINCE ? [...FROZEN, ...START] : START;
    return names.flatMap((module) => this.#chain(library, module, []).modules);
  }

  /** A program that is called so, if only by a link, has the modules of the environment that it lies in. */
  learnEnvironment(program: string): void {
    const libraries = posix.join(program, '../../lib');
    for (const name of this.#list(libraries).entries.keys())
      if (isInterpreter(name)) this.#learn(`${libraries}/${name}/site-packages`);
  }

  /** The module that an interpreter is told to run by its name, `python -m name`. */
  named(name: string): Module[] {
    return this.#import({ level: 0, name, from: ['__main__'] }, '/', [...this.#places.roots]);
  }

  /** What a module imports when it is imported itself. */
  leadsTo({ path }: Module, content: Uint8Array): Module[] {
    const [, parent, tag] = COMPILED.exec(path) ?? [];
    const directory = (parent ?? posix.dirname(path)) || '/';
    this.#places.tag ??= tag;
    const { roots } = this.#places;
    const own = this.#rootOf(directory);
    // Below a root that is known lie packages that do not say so, and programs: no other module looks there.
    if (![...roots].some((root) => own.startsWith(`${root}/`))) this.#learn(own);
    const all = roots.has(own) ? [...roots] : [own, ...roots];
    const found = new Map<string, Module>();
    for (const one of importsOf(path, content))
      for (const module of this.#import(one, directory, all)) found.set(module.path, module);
    return [...found.values()];
  }

  isProgram(path: string): boolean {
    return !isModule(path);
  }

  #import({ level, name, from }: Import, directory: string, roots: readonly string[]): Module[] {
    const [top] = name.split('.', 1);
    const within = level === 0 ? roots : [posix.join(directory, ...Array<string>(level - 1).fill('..'))];
    let weak: Module[] = [];
    for (const root of within) {
      // Most strings of a library name nothing.
      if (level === 0 && !this.#list(root).files.has(top)) continue;
      const { modules, end } = this.#chain(root, name, level === 0 ? FROZEN : []);
      if (end === undefined) continue;
      const below =
        end.directory === undefined ? [] : from.flatMap((item) => filesOf(this.#find(end.directory!, item)));
      const found = [...modules, ...below];
      if (level > 0 || this.#find(root, top)?.module !== undefined) return found;
      // A directory that is a package without saying so gives way to one that says so, wherever that is.
      if (weak.length === 0) weak = found;
    }
    return weak;
  }

  /** The modules that a dotted name leads through; `end` is what the last one is, if its beginning is there at all. */
  #chain(root: string, name: string, frozen: readonly string[]): { modules: Module[]; end?: Found } {
    const modules: Module[] = [];
    let end: Found | undefined = name === '' ? { directory: root } : undefined;
    let at: string | undefined = root;
    const parts = name === '' ? [] : name.split('.');
    for (const [index, part] of parts.entries()) {
      const found: Found | undefined = at === undefined ? undefined : this.#find(at, part);
      if (found === undefined) break;
      if (found.module !== undefined && !frozen.includes(parts.slice(0, index + 1).join('.')))
        modules.push(...filesOf(found));
      end = index === parts.length - 1 ? found : {};
      at = found.directory;
    }
    return { modules, end };
  }

  /** What a directory has of a module's name. */
  #find(directory: string, name: string): Found | undefined {
    if (!this.#list(directory).files.has(name)) return undefined;
    const key = `${directory}/${name}`;
    if (!this.#found.has(key)) this.#found.set(key, this.#look(directory, name));
    return this.#found.get(key);
  }

  #look(directory: string, name: string): Found | undefined {
    const below = `${directory}/${name}`;
    const isPackage = this.#list(directory).entries.has(name) && this.#list(below).entries.size > 0;
    const own = isPackage ? this.#module(below, '__init__') : undefined;
    if (own !== undefined) return { module: own, directory: below, libraries: this.#librariesOf(below) };
    const module = this.#module(directory, name);
    if (module !== undefined) return { module };
    return isPackage ? { directory: below } : undefined;
  }

  /** A library goes before the source that it was made of, as for the interpreter. */
  #module(directory: string, name: string): Module | undefined {
    return this.#library(directory, name) ?? this.#file(directory, name);
  }

  #file(directory: string, name: string): Module | undefined {
    const compiled = `${directory}/__pycache__`;
    const tag = this.#places.tag;
    return (
      this.#entry(compiled, tag === undefined ? this.#anyOf(compiled, name, '.pyc') : `${name}.${tag}.pyc`) ??
      this.#entry(directory, `${name}.py`)
    );
  }

  /** A module that was written in another language: `name.cpython-311-x86_64-linux-gnu.so`, `name.abi3.so`. */
  #library(directory: string, name: string): Module | undefined {
    return this.#entry(directory, this.#anyOf(directory, name, '.so'));
  }

  #librariesOf(directory: string): Module[] {
    const names = [...this.#list(directory).files.keys()];
    const libraries = names.flatMap((name) => this.#library(directory, name) ?? []);
    const bytes = libraries.reduce((sum, { node }) => sum + this.#tree.stat(node).size, 0);
    return bytes <= MAX_LIBRARIES_BYTES ? libraries : [];
  }

  /** A name of a directory that begins and ends so, of the interpreter's own version if there is one. */
  #anyOf(directory: string, name: string, ending: string): string | undefined {
    const { tag } = this.#places;
    const files = (this.#list(directory).files.get(name) ?? []).filter((file) => file.endsWith(ending));
    const own = tag === undefined ? files[0] : files.find((file) => file.includes(`.${tag}-`));
    return own ?? files.find((file) => !file.includes('.cpython-'));
  }

  #entry(directory: string, name: string | undefined): Module | undefined {
    if (name === undefined) return undefined;
    const path = posix.join(directory, name);
    const node = this.#tree.fileOf(this.#list(directory).entries.get(name), path);
    return node === undefined ? undefined : { path, node };
  }

  /** Empty for what is no directory. */
  #list(directory: string): Listing {
    const { listings, image } = this.#places;
    const key = `${image}:${directory}`;
    const known = listings.get(key);
    if (known !== undefined) return known;
    if ((this.#listed += LISTING) > MAX_LISTED) return NO_LISTING; // another walk may see it
    const listing = this.#read(directory);
    listings.set(key, listing);
    return listing;
  }

  #read(directory: string): Listing {
    const listing = { entries: new Map<string, MergedNode>(), files: new Map<string, string[]>() };
    for (const { name: bytes, node } of this.#tree.list(directory, MAX_ENTRIES)) {
      const name = bytes.toString();
      const [module] = name.split('.', 1);
      listing.entries.set(name, node);
      this.#listed++;
      const files = listing.files.get(module);
      if (files === undefined) listing.files.set(module, [name]);
      else files.push(name);
    }
    return listing;
  }

  /** The directory that holds the package that a directory belongs to; itself where it belongs to none. */
  #rootOf(directory: string): string {
    let root = directory;
    while (posix.dirname(root) !== root && this.#module(root, '__init__') !== undefined) root = posix.dirname(root);
    return root;
  }

  #learn(root: string): void {
    const { roots } = this.#places;
    if (roots.has(root) || roots.size >= MAX_ROOTS || this.#list(root).entries.size === 0) return;
    roots.add(root);
    for (const place of BESIDE) this.#learn(posix.join(root, place.replace('$NAME', posix.basename(root))));
  }
}
