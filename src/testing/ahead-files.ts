import { elfFile } from './elf.js';
import type { FileSpec } from './image-files.js';
import { randomness } from './layer-fixture.js';

/** A file that may be run. */
export const program = (path: string, content: string | Uint8Array): FileSpec => ({ path, content, mode: 0o755 });
const random = randomness(9);
/** Random bytes, of which no two calls give the same. */
export const randomBytes = (size: number) => random.bytes(size);
/** Bytes that keep what lies on both sides of them from sharing a request. */
export const apart = (path: string): FileSpec => ({ path, content: randomBytes(600_000) });
export const library = (path: string, needed: readonly string[] = [], runpath?: string): FileSpec => ({
  path,
  content: elfFile({ needed, runpath, size: 5000 }),
});

export const LIB = 'usr/lib/x86_64-linux-gnu';
export const loader = '/lib64/ld-linux-x86-64.so.2';
/** A loader, a C library and a shell. */
export const base: FileSpec[] = [
  { path: 'lib64', target: 'usr/lib64' },
  { path: 'etc/passwd', content: 'root' },
  apart('a'),
  { path: `usr/lib64/ld-linux-x86-64.so.2`, target: `/${LIB}/ld-2.so` },
  library(`${LIB}/ld-2.so`),
  apart('b'),
  library(`${LIB}/libc.so.6`, ['ld-linux-x86-64.so.2']),
  apart('c'),
  library(`${LIB}/libz.so.1.2`, ['libc.so.6']),
  { path: `${LIB}/libz.so.1`, target: 'libz.so.1.2' },
  apart('d'),
  program('bin/sh', elfFile({ interpreter: loader, needed: ['libc.so.6'], size: 5000 })),
  apart('e'),
  library(`${LIB}/libgone.so.1`),
];
/** Programs over them, with libraries of their own. */
export const upper: FileSpec[] = [
  { path: 'etc/ld.so.cache', content: 'cache' },
  apart('f'),
  program(
    'usr/bin/tool',
    elfFile({ interpreter: loader, needed: ['libown.so', 'libgone.so.1'], runpath: '$ORIGIN/../own' }),
  ),
  apart('g'),
  library('usr/own/libown.so', ['libz.so.1', 'libnowhere.so']),
  apart('h'),
  program('usr/bin/script', '#!/usr/bin/env -S tool\nwhatever'),
  { path: `${LIB}/.wh.libgone.so.1`, content: '' },
];

/** What every program that is linked dynamically reads. */
export const dynamic = ['etc/ld.so.cache', 'etc/passwd', `${LIB}/ld-2.so`, `${LIB}/libc.so.6`];
