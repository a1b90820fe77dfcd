import test from 'ava';
import { setImmediate as turn } from 'node:timers/promises';
import { LazylayerError } from '../errors.js';
import { MergedTree } from '../fs/merged.js';
import type { ImageConfig } from '../image/config.js';
import type { Layer } from '../layer/layer.js';
import { elfFile } from '../testing/elf.js';
import type { FileSpec } from '../testing/image-files.js';
import { estargzLayer, LayerBench, randomness, type FakeBlob } from '../testing/layer-fixture.js';
import { CommandLines, type CommandLine } from './command-lines.js';
import { invocationOf, type Invocation } from './arguments.js';
import { ProgramsAhead, type LayersBySlot } from './programs.js';
import { pycFile } from '../testing/pyc.js';
import { until } from '../testing/until.js';

const program = (path: string, content: string | Uint8Array): FileSpec => ({ path, content, mode: 0o755 });
const random = randomness(9);
/** Bytes that keep what lies on both sides of them from sharing a request. */
const apart = (path: string): FileSpec => ({ path, content: random.bytes(600_000) });
const library = (path: string, needed: readonly string[] = [], runpath?: string): FileSpec => ({
  path,
  content: elfFile({ needed, runpath, size: 5000 }),
});

const LIB = 'usr/lib/x86_64-linux-gnu';
const loader = '/lib64/ld-linux-x86-64.so.2';
const base: FileSpec[] = [
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
const upper: FileSpec[] = [
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

/** Command lines by process, as `/proc` would have them. */
class FakeCommandLines extends CommandLines {
  readonly of = new Map<number, CommandLine>();

  override async look(pid: number) {
    return this.of.get(pid);
  }
}

class Image implements AsyncDisposable {
  readonly programs: ProgramsAhead;
  readonly commandLines = new FakeCommandLines();
  /** What processes are about to run, by their pids. */
  readonly launched = new Map<number, Invocation>();
  readonly slots: number[];

  private constructor(
    readonly bench: LayerBench,
    readonly layers: Layer[],
    readonly blobs: FakeBlob[],
  ) {
    this.slots = layers.map(({ slot }) => slot);
    const using: LayersBySlot['using'] = (slot, work) => work(layers.find((layer) => layer.slot === slot)!);
    const launchers = { invocation: async (pid: number) => this.launched.get(pid) };
    this.programs = new ProgramsAhead({ using }, this.commandLines, launchers);
  }

  static async open(specs: readonly (readonly FileSpec[])[], options?: { landmarkAfter?: number }): Promise<Image> {
    const bench = await LayerBench.create();
    const made = await Promise.all(specs.map((files) => estargzLayer(files, options)));
    const layers = await Promise.all(made.map(({ source }) => bench.store.open(source)));
    for (const { blob } of made) blob.asked.length = 0;
    return new Image(
      bench,
      layers,
      made.map(({ blob }) => blob),
    );
  }

  /** Paths of regular files that are there, those that keep others apart left out. */
  async present(): Promise<string[]> {
    const { scheduler } = this.bench.store;
    while (scheduler.memoryInUse > 0) await turn();
    const tree = new MergedTree(this.layers);
    const paths: string[] = [];
    for (const { path, node } of tree.walk()) {
      if (!tree.isRegular(node)) continue;
      const { view, tree: own } = this.layers[node.layer];
      const { first, end } = own.chunksOf(node.inode, 0, Infinity);
      if (end > first && view.presence.hasAll(first, end) && path.byteLength > 1) paths.push(path.toString());
    }
    return paths.sort();
  }

  /** A container of the image starts: its runtime reads who its user is. */
  async start(config: ImageConfig['config']): Promise<void> {
    await this.programs.expect(this.slots, () => config);
    await this.programs.starts(this.slots.at(-1)!);
  }

  /** A process with these arguments has waited for a file of the lowest layer. */
  async runs(words: readonly string[], directory = '/', pid = 1, isOutside = false): Promise<void> {
    this.commandLines.of.set(pid, { arguments: words, directory, isOutside });
    await this.programs.runs(this.slots[0], pid, Promise.resolve());
  }

  get requests(): number {
    return this.blobs.reduce((sum, { asked }) => sum + asked.length, 0);
  }

  place(path: string): [number, number] {
    const { layer, inode } = new MergedTree(this.layers).resolve(path);
    return [this.slots[layer], inode];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const layer of this.layers) await layer[Symbol.asyncDispose]();
    await this.bench[Symbol.asyncDispose]();
  }
}

const dynamic = ['etc/ld.so.cache', 'etc/passwd', `${LIB}/ld-2.so`, `${LIB}/libc.so.6`];

test('an image that starts: its command, the loader, the libraries, and what every start reads', async (t) => {
  await using image = await Image.open([base, upper]);
  await image.start({ Cmd: ['sh', '-c', 'true'] });
  t.deepEqual(await image.present(), ['bin/sh', ...dynamic].sort());
  // Each lies apart: passwd, sh, loader, libc; ld.so.cache.
  t.is(image.requests, 5);
});

test('entrypoint and command, through a script, symlinks, $ORIGIN and layers; what a whiteout hides is not brought', async (t) => {
  await using image = await Image.open([base, upper]);
  await image.start({
    Entrypoint: ['/usr/bin/script'],
    Cmd: ['sh'],
    Env: ['PATH=/nowhere:/bin'],
  });
  t.deepEqual(
    await image.present(),
    ['bin/sh', 'usr/bin/script', 'usr/bin/tool', 'usr/own/libown.so', `${LIB}/libz.so.1.2`, ...dynamic].sort(),
  );
});

test('a program whose beginning is read brings what it names, once', async (t) => {
  await using image = await Image.open([base, upper]);
  const [slot, inode] = image.place('/usr/bin/tool');
  await image.programs.read(slot, inode);
  t.is(image.requests, 0); // of no image that is known
  image.programs.know(image.slots);
  await image.programs.read(slot, inode);
  const brought = [
    'usr/bin/tool',
    'usr/own/libown.so',
    'etc/ld.so.cache',
    `${LIB}/ld-2.so`,
    `${LIB}/libc.so.6`,
    `${LIB}/libz.so.1.2`,
  ];
  t.deepEqual(await image.present(), brought.sort());
  const { requests } = image;
  await image.programs.read(slot, inode);
  t.is(image.requests, requests);
});

test('where a layer says what a start needs, nothing is guessed but what the runtime reads', async (t) => {
  await using image = await Image.open([base], { landmarkAfter: 3 });
  await image.start({ Cmd: ['sh'] });
  t.deepEqual(await image.present(), ['etc/passwd']);
  t.is(image.requests, 1);
});

test('an image that is only known brings nothing of its command, and one that started brings it once', async (t) => {
  await using image = await Image.open([base, upper]);
  image.programs.know(image.slots);
  await image.programs.read(...image.place('/etc/passwd'));
  t.is(image.requests, 1);
  await image.start({ Cmd: ['sh'] });
  await image.present();
  const { requests } = image;
  t.is(requests, 5);
  await image.start({ Cmd: ['sh'] });
  await image.programs.read(...image.place('/bin/sh'));
  t.is(image.requests, requests);
});

test('a layer that is gone, and a registry that gives nothing, are nobody else’s trouble', async (t) => {
  await using image = await Image.open([base, upper]);
  for (const blob of image.blobs)
    blob.beforePiece = () => {
      throw new Error('nothing');
    };
  await image.start({ Cmd: ['sh'] });
  const gone = new ProgramsAhead({ using: () => Promise.reject(new Error('not served')) });
  await gone.expect(image.slots, () => ({ Cmd: ['sh'] }));
  await gone.starts(image.slots.at(-1)!);
  await gone.read(...image.place('/bin/sh'));
  t.deepEqual(await image.present(), []);
});

test('no command, none that is there, and programs that need each other come to an end', async (t) => {
  const circle = [
    apart('a'),
    program('bin/a', elfFile({ needed: ['libb.so'] })),
    library('usr/lib/libb.so', ['libc.so', 'libb.so']),
    library('usr/lib/libc.so', ['libb.so']),
  ];
  await using image = await Image.open([circle]);
  for (const config of [undefined, {}, { Cmd: [''] }, { Entrypoint: ['/none'], Cmd: ['bin'] }])
    await image.start(config);
  t.deepEqual(await image.present(), []);
  await image.start({ Cmd: ['a'] });
  t.deepEqual(await image.present(), ['bin/a', 'usr/lib/libb.so', 'usr/lib/libc.so']);
});

test('an image whose layers are gone makes room for another that shares one', async (t) => {
  await using image = await Image.open([base, upper]);
  const gone = 1_000_000;
  const programs = new ProgramsAhead({
    using: async (slot, work) => {
      const layer = image.layers.find((one) => one.slot === slot);
      if (layer === undefined) throw new LazylayerError('NOT_FOUND', `slot ${slot}`);
      return work(layer);
    },
  });
  programs.know(image.slots);
  await programs.expect([image.slots[0], gone], () => ({ Cmd: ['sh'] }));
  await programs.read(...image.place('/bin/sh'));
  t.true((await image.present()).includes(`${LIB}/libc.so.6`));
});

test('a file that names nothing needs no other layer than its own', async (t) => {
  await using image = await Image.open([base, upper]);
  const used = new Set<number>();
  const programs = new ProgramsAhead({
    using: async (slot, work) => {
      used.add(slot);
      return work(image.layers.find((one) => one.slot === slot)!);
    },
  });
  programs.know(image.slots);
  await programs.read(...image.place('/etc/passwd'));
  t.deepEqual([...used], [image.slots[0]]);
  await programs.read(...image.place('/bin/sh'));
  t.is(used.size, 2);
});

test('a file that names more than a walk may look up holds nobody up', async (t) => {
  const many = Array.from({ length: 3000 }, (_, i) => `lib${i}.so`);
  const runpath = Array.from({ length: 400 }, () => '$ORIGIN/x').join(':');
  const hostile = elfFile({ interpreter: loader, needed: many, runpath });
  await using image = await Image.open([[apart('a'), program('bin/hostile', hostile)]]);
  const { tree } = image.layers[0];
  let looked = 0;
  const find = tree.findDirent.bind(tree);
  tree.findDirent = (...args) => (looked++, find(...args));
  image.programs.know(image.slots);
  await image.programs.read(...image.place('/bin/hostile'));
  // Without the bound it would be 18,000.
  t.true(looked > 1000 && looked < 16_500, String(looked));
});

const large = (needed: readonly string[], interpreter?: string, runpath?: string) =>
  elfFile({ interpreter, needed, runpath, code: random.bytes(3_000_000) });

/** Lets of a layer nothing out from `stop` on until it is opened. */
function holdAt(blob: FakeBlob, stop: number): () => void {
  let open!: () => void;
  const opened = new Promise<void>((resolve) => (open = resolve));
  blob.beforePiece = (offset) => (offset < stop ? undefined : opened);
  return open;
}

test('the libraries of a large program are asked for before the program has come', async (t) => {
  const program0 = [apart('a'), program('bin/big', large(['libz.so.1', 'libown.so'], loader, '$ORIGIN/../own'))];
  const own = [library('own/libown.so', ['libc.so.6'])];
  await using image = await Image.open([base, program0, own]);
  const [slot, inode] = image.place('/bin/big');
  const { tree } = image.layers[1];
  const open = holdAt(image.blobs[1], tree.chunkOffset[tree.first[inode]] + 200 * 1024);
  image.programs.know(image.slots);
  const reading = image.layers[1].read(inode, 0, 4);
  const following = image.programs.read(slot, inode);
  const there = (path: string) => {
    const [at, file] = image.place(path);
    const layer = image.layers.find((one) => one.slot === at)!;
    return layer.view.presence.has(layer.tree.first[file]);
  };
  const libraries = [loader, `/${LIB}/libz.so.1`, '/own/libown.so', `/${LIB}/libc.so.6`];
  await until(() => libraries.every(there));
  t.false(there('/bin/big'));
  t.is(image.blobs[1].asked.length, 1);
  open();
  t.is((await reading).byteLength, 4);
  await following;
  const { requests } = image;
  await image.programs.read(slot, inode);
  await image.present();
  t.is(image.requests, requests);
});

test('a large program that is not what it should be: what it seemed to name is brought, nothing of it is served', async (t) => {
  await using image = await Image.open([base, [apart('a'), program('bin/big', large(['libz.so.1'], loader))]]);
  const [slot, inode] = image.place('/bin/big');
  const { tree } = image.layers[1];
  // The beginning is sound, and further on it is not.
  const from = tree.chunkOffset[tree.first[inode]] + 600 * 1024;
  image.blobs[1].bytes.fill(0, from, from + 1000);
  image.programs.know(image.slots);
  const reading = image.layers[1].read(inode, 0, 4);
  const following = image.programs.read(slot, inode);
  await t.throwsAsync(reading, { code: 'DATA_LOSS' });
  await following;
  const present = await image.present();
  t.true(present.includes(`${LIB}/libz.so.1.2`));
  t.false(present.includes('bin/big'));
  // A beginning that is no gzip names nothing.
  const start = tree.chunkOffset[tree.first[inode]];
  image.blobs[1].bytes.fill(0xff, start, start + 1000);
  await image.programs.read(slot, inode);
  t.false((await image.present()).includes('bin/big'));
});

test('the loader and the C library come with the first requests, before any program has named them', async (t) => {
  await using image = await Image.open([base, upper]);
  const open = image.blobs.map((blob) => holdAt(blob, 0));
  const starting = image.start({ Cmd: ['sh'] });
  await until(() => image.requests === 5);
  open.forEach((one) => one());
  await starting;
  t.is(image.requests, 5);
  t.deepEqual(await image.present(), ['bin/sh', ...dynamic].sort());
});

test('an image without a loader, or of which nothing is known, brings no C library', async (t) => {
  const without = base.filter(({ path }) => !path.includes('ld-linux'));
  for (const [specs, brought] of [
    [[without], ['etc/passwd']],
    [[base, upper], dynamic],
  ] as const) {
    await using image = await Image.open(specs);
    await image.start({});
    t.deepEqual(await image.present(), [...brought].sort());
  }
});

test('a pull alone asks for what every container needs, by three requests; all else comes with a container', async (t) => {
  await using image = await Image.open([base, upper]);
  let asked = 0;
  await image.programs.expect(image.slots, () => (asked++, { Cmd: ['sh'] }));
  t.deepEqual(await image.present(), ['etc/passwd', `${LIB}/libc.so.6`]);
  t.is(image.requests, 2);
  // Of another image that shares the lower layer.
  await image.programs.starts(image.slots[0]);
  t.is(image.requests, 2);
  t.is(asked, 0);
  await image.programs.starts(image.slots[1]);
  t.deepEqual(await image.present(), ['bin/sh', ...dynamic].sort());
  t.is(image.requests, 5);
  await image.programs.starts(image.slots[1]);
  t.is(image.requests, 5);
  t.is(asked, 1);
});

const PYTHON = 'usr/lib/python3.11';
const compiled = (path: string, ...names: string[]): FileSpec => ({
  path: path.replace(/([^/]*)$/, '__pycache__/$1.cpython-311.pyc'),
  content: pycFile('3.11', { imports: names.map((name) => ({ level: 0, name, from: [] })) }),
});
/** A module in source, and what it is compiled to, which are of one name. */
const both = (path: string, ...names: string[]): FileSpec[] => [
  { path: `${path}.py`, content: names.map((name) => `import ${name}\n`).join('') },
  compiled(path, ...names),
];
const readBy = (paths: readonly string[]) =>
  paths.map((path) => path.replace(/([^/]*)$/, '__pycache__/$1.cpython-311.pyc'));

const MANY = Array.from({ length: 60 }, (_, i) => `m${i}`);
/** What `first` leads to, each by the one before it or by the first of its ten. */
const leads = (i: number) => (i % 10 === 0 ? MANY.slice(i + 1, i + 11) : []);
const python: FileSpec[] = [
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
const started = readBy(['__init__', 'aliases', 'utf_8'].map((name) => `${PYTHON}/encodings/${name}`));
const many = readBy(MANY.map((name) => `${PYTHON}/${name}`));

/** Whether all of these are there. */
const holds = (present: readonly string[], paths: readonly string[]) =>
  paths.filter((path) => !present.includes(path)).join();

test('a module that is read brings all that it leads to, by far fewer requests than files', async (t) => {
  await using image = await Image.open([base, python]);
  image.programs.know(image.slots);
  await image.programs.read(...image.place(`/${many[0]}`));
  const present = await image.present();
  t.is(holds(present, many), '');
  t.true(image.requests <= MANY.length / 5, String(image.requests));
  t.false(present.some((path) => path.includes('unused') || path.includes('app')));
  const { requests } = image;
  for (const path of many) await image.programs.read(...image.place(`/${path}`));
  await image.present();
  t.is(image.requests, requests);
});

test('where a layer says what a start needs, a module brings nothing more', async (t) => {
  await using image = await Image.open([python], { landmarkAfter: 1 });
  image.programs.know(image.slots);
  for (const path of ['app/app.py', 'usr/bin/manage', 'usr/bin/python3.11', many[0]]) {
    await image.programs.read(...image.place(`/${path}`));
    const present = await image.present();
    t.is(holds(present, [path]), '');
    t.is(holds(many.slice(1), present), present.join()); // none of them
  }
});

test('a command that is given a module brings what that imports, and the interpreter what it starts with', async (t) => {
  await using image = await Image.open([base, python]);
  await image.start({ Cmd: ['python3', 'app.py'], WorkingDir: '/app' });
  const present = await image.present();
  const zlib = [`${PYTHON}/lib-dynload/_z.cpython-311-x86_64-linux-gnu.so`, `${LIB}/libz.so.1.2`];
  const app = ['usr/bin/python3.11', 'app/app.py', 'app/helper.py'];
  t.is(holds(present, [...app, ...zlib, ...started, ...many.slice(0, 11)]), '');
  t.false(present.some((path) => path.includes('unused') || path.includes('manage')));
});

test('a script whose first line names an interpreter of modules is one; another is not', async (t) => {
  await using image = await Image.open([base, python]);
  image.programs.know(image.slots);
  await image.programs.read(...image.place('/usr/bin/other'));
  const present = await image.present();
  t.true(present.includes('usr/bin/other') && present.includes('bin/sh'));
  t.false(present.some((path) => path.includes('python')));
  await image.programs.read(...image.place('/usr/bin/manage'));
  t.is(holds(await image.present(), ['usr/bin/manage', 'usr/bin/python3.11', ...started, ...many.slice(50)]), '');
});

test('a module that is not what it should be hurts nobody, and is tried again', async (t) => {
  await using image = await Image.open([base, python]);
  image.programs.know(image.slots);
  const sound = Buffer.from(image.blobs[1].bytes);
  const [, inode] = image.place('/app/helper.py');
  const { tree } = image.layers[1];
  const from = tree.chunkOffset[tree.first[inode]];
  image.blobs[1].bytes.fill(0, from, from + 20);
  await image.programs.read(...image.place('/usr/bin/python3'));
  const helper = () => image.programs.read(...image.place('/app/helper.py'));
  await image.programs.read(...image.place('/app/app.py'));
  const present = await image.present();
  t.is(holds(present, ['app/app.py', ...many.slice(0, 11)]), '');
  t.false(present.includes('app/helper.py'));
  await helper();
  t.false((await image.present()).includes('app/helper.py'));
  image.blobs[1].bytes = sound;
  await helper();
  t.is(holds(await image.present(), ['app/helper.py', `${LIB}/libz.so.1.2`]), '');
});

test('a library that reads a configuration brings it', async (t) => {
  const ssl: FileSpec[] = [
    { path: 'usr/lib/ssl/openssl.cnf', target: '/etc/ssl/openssl.cnf' },
    { path: 'etc/ssl/openssl.cnf', content: 'openssl_conf = none' },
    apart('s'),
    library(`${LIB}/libcrypto.so.3`),
    apart('u'),
    library(`${LIB}/libcryptosetup.so.12`),
  ];
  await using image = await Image.open([ssl]);
  image.programs.know(image.slots);
  await image.programs.read(...image.place(`/${LIB}/libcryptosetup.so.12`));
  t.deepEqual(await image.present(), [`${LIB}/libcryptosetup.so.12`]);
  await image.programs.read(...image.place(`/${LIB}/libcrypto.so.3`));
  t.is(holds(await image.present(), ['etc/ssl/openssl.cnf', `${LIB}/libcrypto.so.3`]), '');
});

test('a module that names another any number of times, and itself, brings each once', async (t) => {
  const specs: FileSpec[] = [
    apart('a'),
    { path: 'app/many.py', content: `import ${`${'p.'.repeat(40)}p,`.repeat(5_000)}many\n` },
    apart('b'),
    { path: 'app/start.py', content: 'import many' },
    apart('c'),
    { path: 'app/p/__init__.py', content: 'import many' },
    { path: 'app/p/p', target: '.' },
  ];
  await using image = await Image.open([specs]);
  image.programs.know(image.slots);
  await image.programs.read(...image.place('/app/start.py'));
  t.deepEqual(await image.present(), ['app/many.py', 'app/p/__init__.py', 'app/start.py']);
  t.true(image.requests <= 3, String(image.requests));
});

test('a process that waits for anything brings what its command line names, once', async (t) => {
  await using image = await Image.open([base, python]);
  await image.runs(['python3', 'app.py'], '/app');
  t.is(image.requests, 0, 'of no image that is known');
  image.programs.know(image.slots);
  await image.runs(['python3', 'app.py'], '/app', 3, true);
  t.is(image.requests, 0, 'of whoever runs outside');
  await image.runs(['python3', 'app.py'], '/app', 2);
  const present = await image.present();
  t.is(holds(present, ['usr/bin/python3.11', 'app/app.py', 'app/helper.py', ...started, ...many.slice(0, 11)]), '');
  t.false(present.some((path) => path.includes('unused') || path.includes('manage')));
  const { requests } = image;
  await image.runs(['python3', 'app.py'], '/app', 2);
  t.is(image.requests, requests);
});

test('what a container is going to run is brought while it is made, and then nothing for what its config says', async (t) => {
  await using image = await Image.open([base, python, upper]);
  let answer!: (config: ImageConfig['config']) => void;
  const config = new Promise<ImageConfig['config']>((resolve) => (answer = resolve));
  await image.programs.expect(image.slots, () => config);
  const starting = image.programs.starts(image.slots[0]);
  const started = image.programs.starts(image.slots[2]);
  image.launched.set(7, invocationOf([['python3', 'app.py']], ['PATH=/usr/bin'], '/app'));
  for (const pid of [6, 7]) await image.programs.looks(image.slots[1], pid);
  answer({ Cmd: ['/usr/bin/tool'] });
  await Promise.all([starting, started]);
  const present = await image.present();
  t.is(holds(present, ['usr/bin/python3.11', 'app/app.py', 'app/helper.py', ...dynamic]), '');
  t.false(present.includes('usr/bin/tool'));
  // Of a later container it counts again.
  await image.start({ Cmd: ['/usr/bin/tool'] });
  t.true((await image.present()).includes('usr/bin/tool'));
});

test('programs and modules in the text of a shell; a module by its name; a program by a relative path', async (t) => {
  await using image = await Image.open([base, python, upper]);
  image.programs.know(image.slots);
  await image.runs(['sh', '-c', 'tool && exec nothing.py'], '/app');
  t.is(holds(await image.present(), ['bin/sh', 'usr/bin/tool', 'usr/own/libown.so']), '');
  t.false((await image.present()).some((path) => path.includes('python')));
  await image.runs(['env', 'A=b', 'python3', '-m', 'm50'], '/');
  t.is(holds(await image.present(), ['usr/bin/python3.11', ...many.slice(50)]), '');
  t.false((await image.present()).includes('usr/bin/manage'));
  await image.runs(['python3', '../bin/manage', 'app'], '/usr/lib');
  t.is(holds(await image.present(), ['usr/bin/manage']), '');
});

test('a command line is tried again by another process, and where its image is met later', async (t) => {
  await using image = await Image.open([base, upper]);
  image.programs.know(image.slots);
  for (const blob of image.blobs)
    blob.beforePiece = () => {
      throw new Error('nothing');
    };
  await image.runs(['sh']);
  t.deepEqual(await image.present(), []);
  for (const blob of image.blobs) blob.beforePiece = () => {};
  await image.runs(['sh']);
  t.deepEqual(await image.present(), []);
  await image.runs(['sh'], '/', 2);
  t.true((await image.present()).includes('bin/sh'));
});

test('of images that share a layer, a command line is of one that has what it names, the one that started last first', async (t) => {
  const app = (name: string, content: string): FileSpec[] => [
    apart('z'),
    program('usr/bin/app', content),
    apart('y'),
    program(`usr/bin/${name}`, name),
  ];
  await using image = await Image.open([base, app('one', 'first'), app('two', 'second')]);
  const [shared, one, two] = image.slots;
  image.programs.know([shared, one]);
  image.programs.know([shared, two]);
  const has = (index: number, path: string) => {
    const { tree, view } = image.layers[index];
    const { inode } = new MergedTree([image.layers[index]]).resolve(path);
    return view.presence.has(tree.first[inode]);
  };
  await image.runs(['one']);
  t.true(has(1, '/usr/bin/one'));
  await image.programs.starts(one);
  await image.runs(['app']);
  await image.present();
  t.deepEqual([has(1, '/usr/bin/app'), has(2, '/usr/bin/app')], [true, false]);
});

test('where a layer says what a start needs, a command line brings nothing', async (t) => {
  await using image = await Image.open([base], { landmarkAfter: 3 });
  image.programs.know(image.slots);
  await image.runs(['sh']);
  t.is(image.requests, 0);
});

test('a command line that names more than may be looked up holds nobody up', async (t) => {
  await using image = await Image.open([base]);
  image.programs.know(image.slots);
  const { tree } = image.layers[0];
  let looked = 0;
  const find = tree.findDirent.bind(tree);
  tree.findDirent = (...args) => (looked++, find(...args));
  await image.runs(['sh', '-c', 'a;/b;c.py '.repeat(400)]);
  t.true(looked > 10 && looked < 2000, String(looked));
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
  program(`${GCC}/cc1`, elfFile({ interpreter: loader, needed: ['libc.so.6'], code: random.bytes(12_000_000) })),
  apart('C'),
  program(`${GCC}/collect2`, elfFile({ interpreter: loader, size: 5000 })),
  { path: `${GCC}/libgcc.a`, content: random.bytes(5000) },
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
  await using image = await Image.open([base, compiler]);
  const [slot, inode] = image.place('/usr/bin/gcc');
  const { tree, view } = image.layers[1];
  const there = (path: string) => view.presence.has(tree.first[image.place(`/${path}`)[1]]);
  const cc1 = image.place(`/${GCC}/cc1`)[1];
  const from = tree.chunkOffset[tree.first[cc1]];
  const end = tree.chunkEnd(tree.first[cc1] + tree.count[cc1] - 1);
  let open!: () => void;
  const opened = new Promise<void>((resolve) => (open = resolve));
  // The compiler comes no further.
  image.blobs[1].beforePiece = (offset) => (offset < from + 100_000 || offset >= end ? undefined : opened);
  image.programs.know(image.slots);
  const following = image.programs.read(slot, inode);
  await until(() => headers.every(there));
  t.false(there(`${GCC}/cc1`) || there('usr/bin/as') || linked.some(there));
  open();
  await following;
  const present = await image.present();
  const all = [`${GCC}/cc1`, 'usr/bin/as', `${LIB}/libz.so.1.2`, `${GCC}/include/stddef.h`, ...linked, ...headers];
  t.is(holds(present, all), '');
  t.false(present.some((path) => path.includes('unused') || path.startsWith('src/')));
});

test('a source that is read, or named by a command, brings the headers that it leads to', async (t) => {
  const all = ['src/main.c', 'src/own.h', 'usr/include/second.h', `${GCC}/include/stddef.h`];
  const starts = [
    async (image: Image) => {
      image.programs.know(image.slots);
      await image.programs.read(...image.place('/src/main.c'));
    },
    (image: Image) => image.start({ Cmd: ['make', 'main.c'], WorkingDir: '/src' }),
  ];
  for (const start of starts) {
    await using image = await Image.open([base, compiler]);
    await start(image);
    const present = await image.present();
    t.is(holds(present, all), '');
    t.false(present.some((path) => path.includes('unused') || path.includes('stdio') || path.includes('cc1')));
  }
});

test('where a layer says what a start needs, compilers and sources bring nothing more', async (t) => {
  await using image = await Image.open([compiler], { landmarkAfter: 1 });
  image.programs.know(image.slots);
  for (const path of ['/usr/bin/gcc', '/src/main.c', `/${GCC}/cc1`]) await image.programs.read(...image.place(path));
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
    { path: `${home}/lib/modules`, content: random.bytes(5000) },
    apart('E'),
    { path: `${home}/lib/server/classes.jsa`, content: random.bytes(5000) },
    apart('F'),
    library(`${home}/lib/libawt.so`),
  ];
  await using image = await Image.open([base, java]);
  image.programs.know(image.slots);
  await image.programs.read(...image.place(`/${home}/bin/java`));
  const present = await image.present();
  const lib = ['libjli.so', 'server/libjvm.so', 'libjava.so', 'modules', 'server/classes.jsa'];
  const all = [`${home}/bin/java`, ...lib.map((name) => `${home}/lib/${name}`), 'etc/jvm.cfg', `${LIB}/libz.so.1.2`];
  t.is(holds(present, all), '');
  t.false(present.includes(`${home}/lib/libawt.so`));
});
