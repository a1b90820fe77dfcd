import type { Dynamic } from './elf.js';

/** What the loader of a dynamically linked program reads before all else; what the C library does then, and most programs soon after. */
const DYNAMIC_START = [
  '/etc/ld.so.cache',
  '/etc/nsswitch.conf',
  '/etc/localtime',
  '/usr/lib/locale/C.utf8/LC_CTYPE',
  '$LIB/gconv/gconv-modules.cache',
];
/** Directories that the loader looks in; `$LIB` is where Debian has the libraries of one architecture. */
const LIBRARY_DIRECTORIES = ['$LIB', '/lib64', '/usr/lib64', '/lib', '/usr/lib', '/usr/local/lib'];
/** Debian's directory of libraries, and the loaders of programs that are linked against glibc and musl, as their ABIs have it. */
const machine = (triplet: string, ...loaders: string[]) => ({ library: `/usr/lib/${triplet}`, loaders });
/** By `e_machine`. */
const MACHINES: Readonly<Record<number, ReturnType<typeof machine>>> = {
  21: machine('powerpc64le-linux-gnu', '/lib64/ld64.so.2', '/lib/ld-musl-powerpc64le.so.1'),
  62: machine('x86_64-linux-gnu', '/lib64/ld-linux-x86-64.so.2', '/lib/ld-musl-x86_64.so.1'),
  183: machine('aarch64-linux-gnu', '/lib/ld-linux-aarch64.so.1', '/lib/ld-musl-aarch64.so.1'),
  243: machine('riscv64-linux-gnu', '/lib/ld-linux-riscv64-lp64d.so.1', '/lib/ld-musl-riscv64.so.1'),
  258: machine('loongarch64-linux-gnu', '/lib64/ld-linux-loongarch-lp64d.so.1', '/lib/ld-musl-loongarch64.so.1'),
};
/** Every machine's own directory of libraries, and the paths of its loaders. */
export const machines = Object.values(MACHINES);
/** The C library's name where the loader is not the same file, as in musl. */
export const C_LIBRARY = 'libc.so.6';

/** Where Debian has the libraries of the machine that a program is for. */
export const libraryDirectory = ({ machine }: Pick<Dynamic, 'machine'>): string =>
  MACHINES[machine]?.library ?? '/usr/lib';

/** Directories that libraries are looked for in, where `library` is the machine's own. */
export const searched = (library: string) => LIBRARY_DIRECTORIES.map((path) => path.replace('$LIB', library));

/** Paths that the loader and the C library read before a program's first line, and most programs soon after. */
export const dynamicStart = (library: string) => DYNAMIC_START.map((path) => path.replace('$LIB', library));
