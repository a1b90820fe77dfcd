import test from 'ava';
import { apart, base, LIB, library, loader, program, randomBytes } from '../testing/ahead-files.js';
import { AheadImage, missing } from '../testing/ahead-image.js';
import { elfFile } from '../testing/elf.js';
import type { FileSpec } from '../testing/image-files.js';
import { gate } from '../testing/layer-fixture.js';
import { until } from '../testing/until.js';

test('a library that reads a configuration brings it', async (t) => {
  const ssl: FileSpec[] = [
    { path: 'usr/lib/ssl/openssl.cnf', target: '/etc/ssl/openssl.cnf' },
    { path: 'etc/ssl/openssl.cnf', content: 'openssl_conf = none' },
    apart('s'),
    library(`${LIB}/libcrypto.so.3`),
    apart('u'),
    library(`${LIB}/libcryptosetup.so.12`),
  ];
  await using image = await AheadImage.open([ssl]);
  image.programs.know(image.slots);
  await image.reads(`/${LIB}/libcryptosetup.so.12`);
  t.deepEqual(await image.present(), [`${LIB}/libcryptosetup.so.12`]);
  await image.reads(`/${LIB}/libcrypto.so.3`);
  t.is(missing(await image.present(), ['etc/ssl/openssl.cnf', `${LIB}/libcrypto.so.3`]), '');
});

const GCC = 'usr/lib/gcc/x86_64-linux-gnu/12';
const source = (path: string, ...names: string[]): FileSpec => ({
  path,
  content: `${names.map((name) => `#include ${name.startsWith('"') ? name : `<${name}>`}\n`).join('')}int x;\n`,
});
const compiler: FileSpec[] = [
  program('usr/bin/x86_64-linux-gnu-gcc-12', elfFile({ interpreter: loader, needed: ['libc.so.6'], size: 5000 })),
  { path: 'usr/bin/gcc', target: 'x86_64-linux-gnu-gcc-12' },
  apart('A'),
  program('usr/bin/as', elfFile({ interpreter: loader, needed: ['libz.so.1'], size: 5000 })),
  apart('B'),
  program(`${GCC}/cc1`, elfFile({ interpreter: loader, needed: ['libc.so.6'], code: randomBytes(12_000_000) })),
  apart('C'),
  program(`${GCC}/collect2`, elfFile({ interpreter: loader, size: 5000 })),
  { path: `${GCC}/libgcc.a`, content: randomBytes(5000) },
  source(`${GCC}/include/stddef.h`),
  apart('D'),
  source('usr/include/stdio.h', 'bits/first.h'),
  apart('E'),
  source('usr/include/x86_64-linux-gnu/bits/first.h', 'second.h'),
  apart('F'),
  source('usr/include/second.h', 'stddef.h'),
  apart('G'),
  source('usr/include/unused.h'),
  apart('H'),
  source('src/main.c', '"own.h"', 'gone.h'),
  apart('I'),
  source('src/own.h', 'second.h'),
  apart('J'),
];
const headers = ['stdio.h', 'x86_64-linux-gnu/bits/first.h', 'second.h'].map((name) => `usr/include/${name}`);
const linked = [`${GCC}/collect2`, `${GCC}/libgcc.a`];

test('a compiler brings what it starts, each when it is its turn, and headers as far as they lead', async (t) => {
  await using image = await AheadImage.open([base, compiler]);
  const { tree } = image.layers[1];
  const there = (path: string) => image.has(`/${path}`);
  const cc1 = image.place(`/${GCC}/cc1`)[1];
  const from = tree.chunkOffset[tree.first[cc1]];
  const end = tree.chunkEnd(tree.first[cc1] + tree.count[cc1] - 1);
  // The compiler comes no further.
  const open = gate(image.blobs[1], from + 100_000, end);
  image.programs.know(image.slots);
  const following = image.reads('/usr/bin/gcc');
  await until(() => headers.every(there));
  t.false(there(`${GCC}/cc1`) || there('usr/bin/as') || linked.some(there));
  open();
  await following;
  const present = await image.present();
  const all = [`${GCC}/cc1`, 'usr/bin/as', `${LIB}/libz.so.1.2`, `${GCC}/include/stddef.h`, ...linked, ...headers];
  t.is(missing(present, all), '');
  t.false(present.some((path) => path.includes('unused') || path.startsWith('src/')));
});

test('a source that is read, or named by a command, brings the headers that it leads to', async (t) => {
  const all = ['src/main.c', 'src/own.h', 'usr/include/second.h', `${GCC}/include/stddef.h`];
  const starts = [
    async (image: AheadImage) => {
      image.programs.know(image.slots);
      await image.reads('/src/main.c');
    },
    (image: AheadImage) => image.start({ Cmd: ['make', 'main.c'], WorkingDir: '/src' }),
  ];
  for (const start of starts) {
    await using image = await AheadImage.open([base, compiler]);
    await start(image);
    const present = await image.present();
    t.is(missing(present, all), '');
    t.false(present.some((path) => path.includes('unused') || path.includes('stdio') || path.includes('cc1')));
  }
});

test('where a layer says what a start needs, compilers and sources bring nothing more', async (t) => {
  await using image = await AheadImage.open([compiler], { landmarkAfter: 1 });
  image.programs.know(image.slots);
  for (const path of ['/usr/bin/gcc', '/src/main.c', `/${GCC}/cc1`]) await image.reads(path);
  const present = await image.present();
  t.false(present.some((path) => path.endsWith('.h') || path.endsWith('as') || linked.includes(path)));
});

test('a Java machine is brought by its launcher, and what it reads after it', async (t) => {
  const home = 'opt/java';
  const java: FileSpec[] = [
    program(`${home}/bin/java`, elfFile({ interpreter: loader, needed: ['libjli.so'], runpath: '$ORIGIN/../lib' })),
    apart('A'),
    library(`${home}/lib/libjli.so`),
    { path: `${home}/lib/jvm.cfg`, target: '/etc/jvm.cfg' },
    { path: 'etc/jvm.cfg', content: '-server KNOWN' },
    apart('B'),
    library(`${home}/lib/server/libjvm.so`, ['libz.so.1']),
    apart('C'),
    library(`${home}/lib/libjava.so`),
    apart('D'),
    { path: `${home}/lib/modules`, content: randomBytes(5000) },
    apart('E'),
    { path: `${home}/lib/server/classes.jsa`, content: randomBytes(5000) },
    apart('F'),
    library(`${home}/lib/libawt.so`),
  ];
  await using image = await AheadImage.open([base, java]);
  image.programs.know(image.slots);
  await image.reads(`/${home}/bin/java`);
  const present = await image.present();
  const lib = ['libjli.so', 'server/libjvm.so', 'libjava.so', 'modules', 'server/classes.jsa'];
  const all = [`${home}/bin/java`, ...lib.map((name) => `${home}/lib/${name}`), 'etc/jvm.cfg', `${LIB}/libz.so.1.2`];
  t.is(missing(present, all), '');
  t.false(present.includes(`${home}/lib/libawt.so`));
});
