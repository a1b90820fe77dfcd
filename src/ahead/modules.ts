import { posix } from 'node:path';
import type { MergedNode, MergedTree } from '../fs/merged.js';
import { compiledImports, isCompiled, libraryImports, sourceImports, type Import } from './python.js';

/** A module's file as the interpreter reads it: compiled, as source, or a library. */
export interface Module {
  readonly path: string;
  readonly node: MergedNode;
}

/** What has been learnt of where an image has its modules. */
export interface ModulePlaces {
  /** Directories that modules were found in that belong to no package. */
  readonly roots: Set<string>;
  /** In the names of compiled modules: `cpython-311`. */
  tag?: string;
}

/** A module, a package, whose directory holds more of them, or a directory that is a package without saying so. */
interface Found {
  readonly module?: Module;
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
];
/** What every interpreter reads: the encoding of its terminal and files, and what a system adds to its start. */
const START = ['encodings', 'encodings.aliases', 'encodings.utf_8', 'sitecustomize'];
/** Where other modules are than those of the standard library, relative to these. */
const BESIDE = ['lib-dynload', 'site-packages', '../python3/dist-packages', '../../local/lib/$NAME/dist-packages'];
/** Directories that modules are looked for in, at most. */
const MAX_ROOTS = 32;
/** Entries of directories that are listed for one walk, at most, and for how many a directory counts: symlinks give it any number of paths. */
const MAX_LISTED = 256 * 1024;
const LISTING = 32;

const INTERPRETER = /^(.*)\/bin\/(python3\.(\d+))$/;
const COMPILED = /^(.*)\/__pycache__\/[^/]+?\.([^/.]+)(?:\.opt-[12])?\.pyc$/;

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

function importsOf(path: string, content: Uint8Array): Import[] {
  if (path.endsWith('.so')) return libraryImports(content);
  return isCompiled(content) ? compiledImports(content) : sourceImports(Buffer.from(content).toString());
}

/** Finds the files of Python's modules in an image as its import system would (The Python Language Reference, 5), without running anything. */
export class ModuleFinder {
  readonly #tree: MergedTree;
  readonly #places: ModulePlaces;
  readonly #listings = new Map<string, Listing>();
  readonly #found = new Map<string, Found | undefined>();
  #listed = 0;

  /** Adds to `places` what it learns. */
  constructor(tree: MergedTree, places: ModulePlaces) {
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

  /** What a module imports when it is imported itself. */
  imports({ path }: Module, content: Uint8Array): Module[] {
    const [, parent, tag] = COMPILED.exec(path) ?? [];
    const directory = parent ?? posix.dirname(path);
    if (tag !== undefined) this.#places.tag = tag;
    this.#learn(this.#rootOf(directory));
    return importsOf(path, content).flatMap((one) => (this.#mayBe(one) ? this.#import(one, directory) : []));
  }

  /** Whether anything has the name that an absolute import begins with: most strings of a library name nothing. */
  #mayBe({ level, name }: Import): boolean {
    const dot = name.indexOf('.');
    const top = dot < 0 ? name : name.slice(0, dot);
    for (const root of level === 0 ? this.#places.roots : []) if (this.#list(root).files.has(top)) return true;
    return level > 0;
  }

  #import({ level, name, from }: Import, directory: string): Module[] {
    const roots = level === 0 ? this.#places.roots : [posix.join(directory, ...Array<string>(level - 1).fill('..'))];
    for (const root of roots) {
      const { modules, end } = this.#chain(root, name, level === 0 ? FROZEN : []);
      if (end === undefined) continue;
      const below = end.directory === undefined ? [] : from.map((item) => this.#find(end.directory!, item)?.module);
      return [...modules, ...below.filter((one) => one !== undefined)];
    }
    return [];
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
        modules.push(found.module);
      end = index === parts.length - 1 ? found : {};
      at = found.directory;
    }
    return { modules, end };
  }

  /** What a directory has of a module's name. */
  #find(directory: string, name: string): Found | undefined {
    const key = `${directory}/${name}`;
    if (!this.#found.has(key)) this.#found.set(key, this.#look(directory, name));
    return this.#found.get(key);
  }

  #look(directory: string, name: string): Found | undefined {
    if (!this.#list(directory).files.has(name)) return undefined;
    const isPackage = this.#list(directory).entries.has(name) && this.#list(`${directory}/${name}`).entries.size > 0;
    const below = isPackage ? `${directory}/${name}` : undefined;
    const own = below === undefined ? undefined : this.#module(below, '__init__');
    if (own !== undefined) return { module: own, directory: below };
    const module = this.#module(directory, name);
    return module !== undefined ? { module } : below !== undefined ? { directory: below } : undefined;
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

  /** A name of a directory that begins and ends so, of the interpreter's own version if there is one. */
  #anyOf(directory: string, name: string, ending: string): string | undefined {
    const { tag } = this.#places;
    const files = (this.#list(directory).files.get(name) ?? []).filter((file) => file.endsWith(ending));
    const own = tag === undefined ? files[0] : files.find((file) => file.includes(`.${tag}-`));
    return own ?? files.find((file) => !file.includes('.cpython-'));
  }

  #entry(directory: string, name: string | undefined): Module | undefined {
    const found = name === undefined ? undefined : this.#list(directory).entries.get(name);
    if (found === undefined) return undefined;
    const path = `${directory}/${name}`;
    const node = this.#tree.isSymlink(found) ? this.#resolve(path) : found;
    return node !== undefined && this.#tree.isRegular(node) ? { path, node } : undefined;
  }

  /** Empty for what is no directory. */
  #list(directory: string): Listing {
    const known = this.#listings.get(directory);
    if (known !== undefined) return known;
    const listing = { entries: new Map<string, MergedNode>(), files: new Map<string, string[]>() };
    this.#listings.set(directory, listing);
    const found = (this.#listed += LISTING) > MAX_LISTED ? undefined : this.#resolve(directory);
    if (found === undefined || !this.#tree.isDirectory(found)) return listing;
    for (const { name: bytes, node } of this.#tree.readdir(found)) {
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

  #resolve(path: string): MergedNode | undefined {
    try {
      return this.#tree.resolve(path);
    } catch {
      return undefined; // not there, or not to be reached
    }
  }

  /** The directory that holds the package that a directory belongs to; itself where it belongs to none. */
  #rootOf(directory: string): string {
    let root = directory;
    while (root !== '/' && this.#module(root, '__init__') !== undefined) root = posix.dirname(root);
    return root;
  }

  #learn(root: string): void {
    const { roots } = this.#places;
    if (roots.has(root) || roots.size >= MAX_ROOTS || this.#list(root).entries.size === 0) return;
    roots.add(root);
    for (const place of BESIDE) this.#learn(posix.join(root, place.replace('$NAME', posix.basename(root))));
  }
}
