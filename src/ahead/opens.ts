import { posix } from 'node:path';
import { DEFAULT_PATH } from './arguments.js';
import type { BoundedTree } from './bounded-tree.js';
import { directoriesOf, gccOfDriver, TARGET, type Gcc } from './compilers.js';
import { machines, searched } from './libraries.js';

/** Files that are opened at about the same time. What comes at the same time shares the network, so each step has its turn. */
export interface Step {
  /** They are asked for when what was asked for before takes no longer than this to come, in seconds. */
  readonly within: number;
  /** Of each the paths that it is looked for at, of which the first that is there counts. */
  readonly files: readonly (readonly string[])[];
}

/** A step by names, as the table below has them. */
interface Named {
  readonly within: number;
  readonly names: readonly string[];
}

/** At once: it is small, or nothing is needed before it. */
const now = (...names: string[]): Named => ({ within: Infinity, names });
/** About a round trip before what was asked for has come, so that the network does not pause. */
const next = (...names: string[]): Named => ({ within: 0.08, names });
/** Somewhat earlier: programs tell of their libraries only when they come themselves. */
const soon = (...names: string[]): Named => ({ within: 0.25, names });

const LINKED = [
  ...['collect2', 'liblto_plugin.so', 'libgcc.a', 'libgcc_s.so'].map((name) => `$GCC/${name}`),
  ...['crtbeginS.o', 'crtbegin.o', 'crtendS.o', 'crtend.o'].map((name) => `$GCC/${name}`),
  ...['Scrt1.o', 'crt1.o', 'crti.o', 'crtn.o'].map((name) => `$LIB/${name}`),
  ...['libc.so', 'libc_nonshared.a', 'libgcc_s.so.1'].map((name) => `$LIB/${name}`),
];
/** What a driver of GCC starts, and what the linker reads then; the compiler is the most of it. */
const driver = (compiler: string, ...libraries: string[]): Named[] => [
  now(`$GCC/${compiler}`),
  soon('as', 'ld'),
  next(...LINKED, ...libraries),
];
const C = driver('cc1');
const CXX = driver('cc1plus', '$GCC/libstdc++.so', '$LIB/libm.so');

/**
 * What programs and libraries open of themselves, by their names without target and version, in the order in which they need it. Relative
 * to their own directories, absolute, of the compiler's directories (`$GCC`), of those of libraries (`$LIB`); a mere name is a program's.
 */
const OPENED: Readonly<Record<string, readonly Named[]>> = {
  'libcrypto.so': [now('/usr/lib/ssl/openssl.cnf')],
  java: [now('../lib/jvm.cfg', '../lib/server/libjvm.so')],
  // Up to JDK 11, it lies in a directory of its own.
  'libjli.so': [now('./jvm.cfg', '../jvm.cfg', './server/libjvm.so', '../server/libjvm.so')],
  'libjvm.so': [
    next('../libjimage.so', '../libjava.so', '../modules'),
    next('./classes.jsa', '../libjsvml.so', '../libzip.so', '../libnio.so', '../libnet.so'),
  ],
  gcc: C,
  cc: C,
  'g++': CXX,
  'c++': CXX,
};

/** Whether it is known what a program or library of this name opens. */
export const isOpener = (name: string): boolean => Object.hasOwn(OPENED, plain(name));

/** A name without target and version: `gcc` of `x86_64-linux-gnu-gcc-12`, `libcrypto.so` of `libcrypto.so.3`. */
const plain = (name: string): string => name.replace(BY_TARGET, '').replace(/(?:[-.]\d+)+$/, '');
const BY_TARGET = new RegExp(`^${TARGET}-`);

/** What a program or library opens when it runs, by its name: step by step. `path` tells where it lies. */
export function opens(tree: BoundedTree, name: string, path: () => string): Step[] {
  if (!isOpener(name)) return [];
  const steps = OPENED[plain(name)];
  const own = path();
  const isDriver = steps === C || steps === CXX;
  const gcc = isDriver ? gccOfDriver(tree, own) : undefined;
  if (isDriver && gcc === undefined) return [];
  const { compiler, libraries, tools } = gcc === undefined ? NOWHERE : placesOf(gcc);
  const pathsOf = (file: string): string[] => {
    const [beginning] = file.split('/', 1);
    const below = file.slice(beginning.length + 1);
    if (beginning === '$GCC') return compiler.map((directory) => `${directory}/${below}`);
    if (beginning === '$LIB') return libraries.map((directory) => `${directory}/${below}`);
    if (file === beginning) return tools.map((directory) => `${directory}/${file}`);
    return [posix.resolve(posix.dirname(own), file)];
  };
  return steps.map(({ within, names }) => ({ within, files: names.map(pathsOf) }));
}

const NOWHERE = { compiler: [], libraries: [], tools: [] };

/** Where GCC looks for its own programs and objects, for libraries, and for other programs. */
function placesOf(gcc: Gcc): Readonly<Record<keyof typeof NOWHERE, readonly string[]>> {
  const { prefix, triplet } = gcc;
  return {
    compiler: directoriesOf(gcc),
    libraries: [`${prefix}/lib64`, ...searched(`/usr/lib/${triplet}`), ...machines.map(({ library }) => library)],
    tools: [`${prefix}/${triplet}/bin`, ...DEFAULT_PATH],
  };
}
