import { posix } from 'node:path';
import type { MergedNode } from '../fs/merged.js';
import { bufferOf } from '../util/bytes.js';
import type { BoundedTree } from './bounded-tree.js';
import { directoriesOf, gccOfFile, installed, type Gcc } from './compilers.js';
import type { Language, SourceFile } from './many.js';

/** One include directive of a C or C++ source (C11, 6.10.2). */
export interface Include {
  readonly name: string;
  /** In quotes: looked for beside the source first. */
  readonly quoted: boolean;
  /** GCC's `#include_next`: looked for behind the directory that the source was found in. */
  readonly next: boolean;
}

/** Directives of one source, at most. */
const MAX_INCLUDES = 1024;
const MAX_NAME = 255;
/** Paths that one walk looks up, at most. */
const MAX_LOOKUPS = 16_384;

const [NEWLINE, BLANK, QUOTE, HASH, TICK, STAR, SLASH, LESS, GREATER, BACKSLASH] = Buffer.from('\n "#\'*/<>\\');

/** What every compilation reads, and what most sources include. */
const C_START = ['stdc-predef.h', 'stdio.h', 'stdlib.h', 'string.h'];
const CXX_START = ['stdc-predef.h', 'string', 'vector'];

const CXX_SOURCE = /\.(?:cc|hh|cpp|hpp|cxx|hxx|c\+\+|h\+\+|C|H|tcc)$/;
const IS_CXX: Readonly<Record<string, boolean>> = { cc1: false, cc1plus: true };

/** Whether a file of this name is a source or header in C or C++. */
export const isSource = (name: string): boolean => /\.[ch]$/.test(name) || CXX_SOURCE.test(name);

/** Whether a program of this name compiles C or C++. */
export const isCompiler = (name: string): boolean => Object.hasOwn(IS_CXX, name);

/**
 * The include directives of a source. Conditions are not looked at, as what is not there is not found; nor are names that macros give.
 * Nothing is refused: this is for guessing what comes next.
 */
export function includesOf(source: Uint8Array): Include[] {
  const found: Include[] = [];
  const bytes = bufferOf(source);
  let at = 0;
  /** Blanks and comments, which end lines only inside of themselves. */
  const skipBlanks = () => {
    for (;;) {
      while (at < bytes.length && bytes[at] <= BLANK && bytes[at] !== NEWLINE) at++;
      if (bytes[at] === BACKSLASH && bytes[at + 1] === NEWLINE) at += 2;
      else if (bytes[at] === SLASH && bytes[at + 1] === STAR) skipComment();
      else return;
    }
  };
  const skipComment = () => {
    const end = bytes.indexOf('*/', at + 2);
    at = end < 0 ? bytes.length : end + 2;
  };
  /** To the beginning of the next line that is a line to the language. */
  const skipLine = () => {
    let quote = 0;
    for (; at < bytes.length; at++) {
      const byte = bytes[at];
      if (byte === NEWLINE) break;
      if (byte === BACKSLASH) at++;
      else if (quote !== 0) quote = byte === quote ? 0 : quote;
      else if (byte === QUOTE || byte === TICK) quote = byte;
      else if (byte === SLASH && bytes[at + 1] === STAR) {
        skipComment();
        at--;
      } else if (byte === SLASH && bytes[at + 1] === SLASH) {
        while (at < bytes.length && (bytes[at] !== NEWLINE || bytes[at - 1] === BACKSLASH)) at++;
        break;
      }
    }
    at++;
  };
  while (at < bytes.length && found.length < MAX_INCLUDES) {
    skipBlanks();
    if (bytes[at] === HASH) {
      at++;
      skipBlanks();
      const word = wordAt(bytes, at);
      if (word === 'include' || word === 'include_next' || word === 'import') {
        at += word.length;
        skipBlanks();
        const name = nameAt(bytes, at);
        if (name !== undefined) {
          found.push({ name: name.toString(), quoted: bytes[at] === QUOTE, next: word === 'include_next' });
          at += name.length + 2;
        }
      }
    }
    skipLine();
  }
  return found;
}

function wordAt(bytes: Buffer, at: number): string {
  let end = at;
  while (end - at < 16 && (((bytes[end] | 0x20) - 0x61) >>> 0 < 26 || bytes[end] === 0x5f)) end++;
  return bytes.toString('latin1', at, end);
}

/** What stands in `<>` or quotes. */
function nameAt(bytes: Buffer, at: number): Buffer | undefined {
  const close = bytes[at] === LESS ? GREATER : bytes[at] === QUOTE ? QUOTE : undefined;
  if (close === undefined) return undefined;
  const rest = bytes.subarray(at + 1, at + 2 + MAX_NAME);
  const name = rest.subarray(0, Math.max(0, rest.indexOf(close)));
  return name.length === 0 || name.includes(0) || name.includes(NEWLINE) ? undefined : name;
}

/** Finds the headers that C and C++ sources include as GCC looks for them (The C Preprocessor, 2.3), without running anything. */
export class IncludeFinder implements Language {
  readonly around = 4 * 1024;
  readonly #tree: BoundedTree;
  readonly #directories = new Map<string, MergedNode | undefined>();
  /** Paths of sources in C++, and of headers that they include. */
  readonly #cxx = new Set<string>();
  #gcc: Gcc | undefined;
  /** Where headers are looked for, for C and for C++. */
  #places: { readonly c: readonly string[]; readonly cxx: readonly string[] } | undefined;
  #lookups = 0;

  constructor(tree: BoundedTree) {
    this.#tree = tree;
  }

  /** What a compiler with this path, `cc1` or `cc1plus`, is likely to read first. */
  start(compiler: string): SourceFile[] {
    const cxx = IS_CXX[posix.basename(compiler)];
    this.#gcc = gccOfFile(compiler);
    this.#places = undefined;
    return (cxx ? CXX_START : C_START).flatMap((name) => this.#find(name, this.#searched(cxx), cxx) ?? []);
  }

  isProgram(): boolean {
    return false;
  }

  leadsTo({ path }: SourceFile, content: Uint8Array): SourceFile[] {
    const cxx = this.#cxx.has(path) || CXX_SOURCE.test(path);
    const searched = this.#searched(cxx);
    return includesOf(content).flatMap(({ name, quoted, next }) => {
      const before = next ? searched.findIndex((directory) => posix.join(directory, name) === path) : -1;
      const places = [...(quoted ? [posix.dirname(path)] : []), ...searched.slice(before + 1)];
      return this.#find(name, name.startsWith('/') ? [''] : places, cxx) ?? [];
    });
  }

  #find(name: string, places: readonly string[], cxx: boolean): SourceFile | undefined {
    for (const place of places) {
      const path = posix.join(place, name);
      const node = this.#file(path);
      if (node === undefined) continue;
      if (cxx) this.#cxx.add(path);
      return { path, node };
    }
    return undefined;
  }

  #file(path: string): MergedNode | undefined {
    const directory = this.#directory(posix.dirname(path));
    if (directory === undefined || ++this.#lookups > MAX_LOOKUPS) return undefined;
    return this.#tree.fileOf(this.#tree.child(directory, Buffer.from(posix.basename(path))), path);
  }

  #directory(path: string): MergedNode | undefined {
    if (!this.#directories.has(path) && ++this.#lookups <= MAX_LOOKUPS) {
      const found = this.#tree.find(path);
      this.#directories.set(path, found !== undefined && this.#tree.isDirectory(found) ? found : undefined);
    }
    return this.#directories.get(path);
  }

  #searched(cxx: boolean): readonly string[] {
    this.#places ??= searchedBy(this.#gcc ?? installed(this.#tree)[0]);
    return cxx ? this.#places.cxx : this.#places.c;
  }
}

function searchedBy(gcc: Gcc | undefined): { c: string[]; cxx: string[] } {
  if (gcc === undefined) {
    const system = ['/usr/local/include', '/usr/include'];
    return { c: system, cxx: system };
  }
  const { prefix, triplet, version } = gcc;
  const own = directoriesOf(gcc);
  const c = [
    ...own.map((directory) => `${directory}/include`),
    '/usr/local/include',
    ...own.map((directory) => `${directory}/include-fixed`),
    `/usr/include/${triplet}`,
    '/usr/include',
  ];
  const library = `${prefix}/include/c++/${version}`;
  const cxx = [
    library,
    `${library}/${triplet}`,
    `${prefix}/include/${triplet}/c++/${version}`,
    `${library}/backward`,
    ...c,
  ];
  return { c, cxx };
}
