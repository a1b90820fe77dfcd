import { apart, library, loader, program } from './ahead-files.js';
import { elfFile } from './elf.js';
import type { FileSpec } from './image-files.js';
import { pycFile, pycPath, told } from './pyc.js';

export const PYTHON = 'usr/lib/python3.11';
const compiled = (path: string, ...names: string[]): FileSpec => ({
  path: pycPath(path),
  content: pycFile('3.11', { imports: names.map((name) => told(0, name)) }),
});
/** A module in source, and what it is compiled to, which are of one name. */
const both = (path: string, ...names: string[]): FileSpec[] => [
  { path: `${path}.py`, content: names.map((name) => `import ${name}\n`).join('') },
  compiled(path, ...names),
];

const MANY = Array.from({ length: 60 }, (_, i) => `m${i}`);
/** What `first` leads to, each by the one before it or by the first of its ten. */
const leads = (i: number) => (i % 10 === 0 ? MANY.slice(i + 1, i + 11) : []);
/** An interpreter, its modules, and programs that import them. */
export const python: FileSpec[] = [
  program('usr/bin/python3.11', elfFile({ interpreter: loader, needed: ['libc.so.6'], size: 5000 })),
  { path: 'usr/bin/python3', target: 'python3.11' },
  apart('k'),
  ...both(`${PYTHON}/encodings/__init__`),
  ...both(`${PYTHON}/encodings/aliases`),
  ...both(`${PYTHON}/encodings/utf_8`),
  ...both(`${PYTHON}/os`),
  apart('l'),
  ...MANY.flatMap((name, i) => both(`${PYTHON}/${name}`, 'os', ...leads(i))),
  apart('m'),
  ...both(`${PYTHON}/unused`),
  apart('n'),
  library(`${PYTHON}/lib-dynload/_z.cpython-311-x86_64-linux-gnu.so`, ['libz.so.1']),
  apart('o'),
  { path: 'app/app.py', content: 'import m0\nimport helper\ndef later():\n    import unused\n' },
  apart('p'),
  { path: 'app/helper.py', content: 'import _z\n' },
  apart('q'),
  program('usr/bin/manage', '#!/usr/bin/env python3\nfrom m50 import x\n'),
  apart('r'),
  program('usr/bin/other', '#!/bin/sh\nimport m50\n'),
];
/** What the interpreter starts with. */
export const startModules = ['__init__', 'aliases', 'utf_8'].map((name) => pycPath(`${PYTHON}/encodings/${name}`));
/** Sixty modules that the first of them leads to. */
export const manyModules = MANY.map((name) => pycPath(`${PYTHON}/${name}`));
