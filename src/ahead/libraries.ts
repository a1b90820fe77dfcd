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
/** Every machine's own directory of libraries, and the paths of its loaders. */
export const machines = Object.values(MACHINES).map(({ triplet, loaders }) => ({
  library: `/usr/lib/${triplet}`,
  loaders,
}));
/** The C library's name where the loader is not the same file, as in musl. */
export const C_LIBRARY = 'libc.so.6';

/** Where Debian has the libraries of the machine that a program is for. */
export function libraryDirectory({ machine }: Pick<Dynamic, 'machine'>): string {
  const known = MACHINES[machine];
  return known === undefined ? '/usr/lib' : `/usr/lib/${known.triplet}`;
}

/** Directories that libraries are looked for in, where `library` is the machine's own. */
export const searched = (library: string) => LIBRARY_DIRECTORIES.map((path) => path.replace('$LIB', library));

/** Paths that the loader and the C library read before a program's first line, and most programs soon after. */
export const dynamicStart = (library: string) => DYNAMIC_START.map((path) => path.replace('$LIB', library));
