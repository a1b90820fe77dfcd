import test from 'ava';
import { BoundedTree } from './bounded-tree.js';
import type { FileSpec } from '../testing/image-files.js';
import { treeOf } from '../testing/image-tree.js';
import { pycFile } from '../testing/pyc.js';
import { isInterpreter, isModule, ModuleFinder, newListings, runsModules, type ModulePlaces } from './modules.js';
import type { Import } from './python.js';

const LIB = '/usr/lib/python3.11';
const APP = '/app';
const told = (level: number, name: string, ...from: string[]): Import => ({ level, name, from });

/** Files of a byte, or of so many: `/path = bytes`; symlinks: `/from -> to`; a `~` at the end of a path stands for what a compiled module's name has there. */
function filesOf(paths: readonly string[]): FileSpec[] {
  return paths.map((line) => {
    const [word, target] = line.slice(1).split(' -> ');
    const [path, bytes = '1'] = word.split(' = ');
    const name = path.replace(/([^/]*)~$/, '__pycache__/$1.cpython-311.pyc');
    return target === undefined ? { path: name, content: Buffer.alloc(Number(bytes)) } : { path: name, target };
  });
}

class Image {
  readonly places: ModulePlaces = { roots: new Set(), listings: newListings(), image: 0 };
  readonly tree: BoundedTree;
  readonly finder: ModuleFinder;

  constructor(...layers: (readonly string[])[]) {
    this.tree = new BoundedTree(layers.map((paths) => ({ tree: treeOf(filesOf(paths)) })));
    this.finder = new ModuleFinder(this.tree, this.places);
  }

  /** The paths, each once, of what a module at a path leads to, source or compiled by 3.11. */
  imports(path: string, content: string | readonly Import[] | Uint8Array): string[] {
    const file = path.replace(/([^/]*)~$/, '__pycache__/$1.cpython-311.pyc');
    const bytes =
      typeof content === 'string'
        ? Buffer.from(content)
        : content instanceof Uint8Array
          ? content
          : pycFile('3.11', { imports: content });
    const found = this.finder.leadsTo({ path: file, node: this.tree.resolve(file) }, bytes);
    return this.#shown(found);
  }

  start(interpreter: string): string[] {
    return this.#shown(this.finder.start(interpreter));
  }

  #shown(found: ReturnType<ModuleFinder['start']>): string[] {
    const paths = found.map(({ path, node }) => {
      const { layer, inode } = this.tree.resolve(path);
      if (node.layer !== layer || node.inode !== inode) throw new Error(`${path} is another file`);
      return path.replace(/__pycache__\/([^/.]*)\.cpython-311\.pyc$/, '$1~');
    });
    return [...new Set(paths)];
  }
}

test('a module and a package beside the one that imports them', (t) => {
  const image = new Image([`${APP}/main.py`, `${APP}/one.py`, `${APP}/two/__init__.py`, `${APP}/two/inner.py`]);
  t.deepEqual(image.imports(`${APP}/main.py`, 'import one, two, three'), [`${APP}/one.py`, `${APP}/two/__init__.py`]);
  t.deepEqual([...image.places.roots], [APP]);
  t.is(image.places.tag, undefined);
});

test('a dotted name brings each package that it leads through, as far as it leads', (t) => {
  const image = new Image([
    '/app/main.py',
    '/app/a/__init__.py',
    '/app/a/b/__init__.py',
    '/app/a/b/c.py',
    '/app/a/b/d.py',
  ]);
  const parents = ['/app/a/__init__.py', '/app/a/b/__init__.py'];
  t.deepEqual(image.imports('/app/main.py', 'import a.b.c'), [...parents, '/app/a/b/c.py']);
  t.deepEqual(image.imports('/app/main.py', 'import a.b.gone.c'), parents);
  t.deepEqual(image.imports('/app/main.py', 'from a.b import c, d, VALUE'), [
    ...parents,
    '/app/a/b/c.py',
    '/app/a/b/d.py',
  ]);
  // What is no package holds nothing.
  t.deepEqual(image.imports('/app/main.py', 'from a.b.c import d'), [...parents, '/app/a/b/c.py']);
});

test('relative names count from the package, and from those above it', (t) => {
  const image = new Image([
    '/app/a/__init__.py',
    '/app/a/one.py',
    '/app/a/io.py',
    '/app/a/b/__init__.py',
    '/app/a/b/one.py',
    '/app/a/b/two.py',
    '/app/one.py',
  ]);
  const from = '/app/a/b/two.py';
  t.deepEqual(image.imports(from, 'from . import one, two'), ['/app/a/b/one.py', from]);
  t.deepEqual(image.imports(from, 'from .one import two'), ['/app/a/b/one.py']);
  t.deepEqual(image.imports(from, 'from .. import one'), ['/app/a/one.py']);
  t.deepEqual(image.imports(from, 'from ..b.one import x'), ['/app/a/b/__init__.py', '/app/a/b/one.py']);
  t.deepEqual(image.imports(from, 'from ...one import x'), ['/app/one.py']);
  t.deepEqual(image.imports(from, `from ${'.'.repeat(100)}one import x`), []);
  t.deepEqual(image.imports('/app/a/b/__init__.py', 'from .two import *'), [from]);
  // The root is what holds the topmost package.
  t.deepEqual([...image.places.roots], ['/app']);
  t.deepEqual(image.imports(from, 'import one'), ['/app/one.py']);
  // Its name is that of a frozen one, which it is not.
  t.deepEqual(image.imports(from, 'from ..io import x'), ['/app/a/io.py']);
});

test('packages without a beginning', (t) => {
  const image = new Image([
    '/app/main.py',
    '/app/space/part/__init__.py',
    '/app/space/part/x.py',
    '/app/space/lone.py',
    '/app/empty/',
  ]);
  t.deepEqual(image.imports('/app/main.py', 'import space.part.x'), [
    '/app/space/part/__init__.py',
    '/app/space/part/x.py',
  ]);
  t.deepEqual(image.imports('/app/main.py', 'from space import lone, part'), [
    '/app/space/lone.py',
    '/app/space/part/__init__.py',
  ]);
  t.deepEqual(image.imports('/app/main.py', 'import space, empty.x'), []);
});

test('a module before a directory of its name that is no package, a package before a module', (t) => {
  const image = new Image(['/app/main.py', '/app/a.py', '/app/a/x.py', '/app/b.py', '/app/b/__init__.py']);
  t.deepEqual(image.imports('/app/main.py', 'import a.x, b'), ['/app/a.py', '/app/b/__init__.py']);
});

test('compiled by the version that runs before source; of another version not', (t) => {
  const image = new Image([
    '/app/main~',
    '/app/main.py',
    '/app/a~',
    '/app/__pycache__/a.cpython-312.pyc',
    '/app/__pycache__/a.cpython-311.opt-1.pyc',
    '/app/a.py',
    '/app/__pycache__/b.cpython-312.pyc',
    '/app/b.py',
    '/app/c.py',
    '/app/__pycache__/d.cpython-312.pyc',
    '/app/d/__init__~',
    '/app/d/__init__.py',
    '/app/__pycache__/left.cpython-311.pyc',
  ]);
  const all = ['a', 'b', 'c', 'd', 'left'].map((name) => told(0, name));
  t.deepEqual(image.imports('/app/main~', all), ['/app/a~', '/app/b.py', '/app/c.py', '/app/d/__init__~']);
  t.is(image.places.tag, 'cpython-311');
  image.imports('/app/__pycache__/a.cpython-311.opt-1.pyc', []);
  t.is(image.places.tag, 'cpython-311');
});

test('while the version is not known, any will do', (t) => {
  const image = new Image(['/app/main.py', '/app/__pycache__/a.cpython-39.pyc', '/app/a.py', '/app/b.cpython-39-x.so']);
  t.deepEqual(image.imports('/app/main.py', 'import a, b'), [
    '/app/__pycache__/a.cpython-39.pyc',
    '/app/b.cpython-39-x.so',
  ]);
});

test('a package comes with its libraries, however it is named, unless they are a collection of large ones', (t) => {
  const paths = ['/app/main.py', '/app/pack/__init__.py', '/app/pack/_a.abi3.so', '/app/pack/_b.cpython-39-x.so'];
  const few = new Image([...paths, '/app/pack/inner/__init__.py', '/app/pack/inner/_c.so', '/app/pack/inner/d.txt']);
  few.places.tag = 'cpython-39';
  t.deepEqual(few.imports('/app/main.py', 'import pack'), paths.slice(1));
  t.deepEqual(few.imports('/app/main.py', 'from pack import inner'), [
    ...paths.slice(1),
    '/app/pack/inner/__init__.py',
    '/app/pack/inner/_c.so',
  ]);
  const large = new Image([...paths, `/app/pack/_large.abi3.so = ${16 * 1024 * 1024}`]);
  large.places.tag = 'cpython-39';
  t.deepEqual(large.imports('/app/main.py', 'import pack'), paths.slice(1, 2));
});

test('libraries: of the version that runs, of a stable interface, of no version; before the source of the same name', (t) => {
  const tag = (version: number) => `cpython-${version}-x86_64-linux-gnu.so`;
  const image = new Image([
    '/app/main~',
    `/app/_a.${tag(310)}`,
    `/app/_a.${tag(311)}`,
    `/app/_a.${tag(3110)}`,
    '/app/_a.abi3.so',
    `/app/_b.${tag(312)}`,
    '/app/_b.abi3.so',
    `/app/_c.${tag(310)}`,
    '/app/_d.so',
    `/app/_e.${tag(311)}`,
    '/app/_e.py',
    '/app/_e~',
    '/app/_f.so.1',
    `/app/p/__init__.${tag(311)}`,
    '/app/p/x.py',
    '/app/main.py',
  ]);
  const all = ['_a', '_b', '_c', '_d', '_e', '_f', 'p.x'].map((name) => told(0, name));
  t.deepEqual(image.imports('/app/main~', all), [
    `/app/_a.${tag(311)}`,
    '/app/_b.abi3.so',
    '/app/_d.so',
    `/app/_e.${tag(311)}`,
    `/app/p/__init__.${tag(311)}`,
    '/app/p/x.py',
  ]);
});

test('what a library names is found among the modules that are there', (t) => {
  const image = new Image(['/app/lib.so', '/app/one.py', '/app/pack/__init__.py', '/app/pack/two.py']);
  const library = Buffer.from('\x7fELF\0one\0no name\0pack.two\0printf\0one.attribute\0');
  t.deepEqual(image.imports('/app/lib.so', library), ['/app/one.py', '/app/pack/__init__.py', '/app/pack/two.py']);
});

test('modules of other layers, hidden by a whiteout, replaced, and behind symlinks', (t) => {
  const image = new Image(
    [
      '/app/low.py',
      '/app/gone.py',
      '/app/changed.py',
      '/app/pack/__init__.py',
      '/app/old/__init__.py',
      '/store/real.py',
    ],
    [
      '/app/main.py',
      '/app/.wh.gone.py',
      '/app/.wh.old',
      '/app/changed.py',
      '/app/pack/more.py',
      '/app/link.py -> ../store/real.py',
      '/app/far -> /app/pack',
      '/app/broken.py -> nowhere',
      '/app/dir.py -> pack',
    ],
  );
  t.deepEqual(image.imports('/app/main.py', 'import low, gone, old, changed, pack.more, link, far.more, broken, dir'), [
    '/app/low.py',
    '/app/changed.py',
    '/app/pack/__init__.py',
    '/app/pack/more.py',
    '/app/link.py',
    '/app/far/__init__.py',
    '/app/far/more.py',
  ]);
});

const library = (root: string) => [
  ...['os', 'abc', 'io', 'site', 'codecs', 'stat', 'json/__init__', 'encodings/__init__'].map(
    (name) => `${root}/${name}.py`,
  ),
  ...['encodings/aliases', 'encodings/utf_8', 'importlib/__init__', 'importlib/util'].map(
    (name) => `${root}/${name}.py`,
  ),
  `${root}/os~`,
];

test('frozen modules are read at the start by 3.10, and since 3.11 by nobody', (t) => {
  const start = ['encodings/__init__', 'encodings/aliases', 'encodings/utf_8'];
  const paths = (root: string, names: readonly string[]) => names.map((name) => `${root}/${name}.py`);
  const now = new Image([`/usr/bin/python3.11`, '/app/main.py', ...library(LIB)]);
  t.deepEqual(now.start('/usr/bin/python3.11'), paths(LIB, start));
  t.deepEqual(now.imports('/app/main.py', 'import os, abc, io, json, site, codecs\nimport importlib.util'), [
    `${LIB}/json/__init__.py`,
    `${LIB}/importlib/__init__.py`,
  ]);
  const then = '/usr/lib/python3.10';
  const before = new Image([`/usr/bin/python3.10`, ...library(then)]);
  const frozen = ['abc', 'codecs', 'io', 'os', 'site', 'stat', 'importlib/__init__', 'importlib/util'];
  t.deepEqual(before.start('/usr/bin/python3.10'), paths(then, [...frozen, ...start]));
});

test('an interpreter tells its version, and where its modules are', (t) => {
  const debian = new Image([
    '/usr/bin/python3.11',
    ...library(LIB),
    `${LIB}/lib-dynload/_json.cpython-311-x86_64-linux-gnu.so`,
    `${LIB}/sitecustomize.py -> /etc/python3.11/sitecustomize.py`,
    '/etc/python3.11/sitecustomize.py',
    '/usr/lib/python3/dist-packages/yaml/__init__.py',
    '/usr/local/lib/python3.11/dist-packages/own.py',
    '/app/main.py',
  ]);
  t.is(debian.start('/usr/bin/python3.11').at(-1), `${LIB}/sitecustomize.py`);
  t.is(debian.places.tag, 'cpython-311');
  const roots = [
    LIB,
    `${LIB}/lib-dynload`,
    '/usr/lib/python3/dist-packages',
    '/usr/local/lib/python3.11/dist-packages',
  ];
  t.deepEqual([...debian.places.roots], roots);
  t.deepEqual(debian.imports('/app/main.py', 'import _json, yaml, own'), [
    `${LIB}/lib-dynload/_json.cpython-311-x86_64-linux-gnu.so`,
    '/usr/lib/python3/dist-packages/yaml/__init__.py',
    '/usr/local/lib/python3.11/dist-packages/own.py',
  ]);

  const local = '/usr/local/lib/python3.12';
  const official = new Image([
    '/usr/local/bin/python3.12',
    `${local}/encodings/__init__.py`,
    `${local}/encodings/__pycache__/__init__.cpython-312.pyc`,
    `${local}/site-packages/flask/__init__.py`,
    ...library(LIB), // of another, which it does not read
  ]);
  t.deepEqual(official.start('/usr/local/bin/python3.12'), [`${local}/encodings/__pycache__/__init__.cpython-312.pyc`]);
  t.is(official.places.tag, 'cpython-312');
  t.deepEqual([...official.places.roots], [local, `${local}/site-packages`]);
});

test('of what is no interpreter nothing is learnt', (t) => {
  for (const path of [
    '/usr/bin/python3',
    '/usr/bin/python3.11-config',
    '/usr/bin/perl',
    '/python3.11',
    '/gone/bin/python3.11',
  ]) {
    const image = new Image([path, ...library(LIB)]);
    t.deepEqual(image.start(path), [], path);
    t.deepEqual([...image.places.roots], []);
  }
  for (const name of ['python3.11', 'python3.8']) t.true(isInterpreter(name) && runsModules(name));
  for (const name of ['python', 'python3']) t.true(!isInterpreter(name) && runsModules(name));
  for (const name of ['python2', 'python3.11-config', 'xpython3.11', 'sh', ''])
    t.false(isInterpreter(name) || runsModules(name));
  t.true(isModule('a.py') && isModule('a.pyc'));
  t.false(isModule('a.so') || isModule('py') || isModule('a.pyi'));
});

test('places are learnt, and remembered for the next walk; 32 of them', (t) => {
  const directories = Array.from({ length: 50 }, (_, i) => `/d${i}`);
  const image = new Image([...directories.flatMap((path) => [`${path}/main.py`, `${path}/m${path.slice(2)}.py`])]);
  for (const path of directories) image.imports(`${path}/main.py`, '');
  t.deepEqual([...image.places.roots], directories.slice(0, 32));
  const next = new ModuleFinder(image.tree, image.places);
  const main = { path: '/d0/main.py', node: image.tree.resolve('/d0/main.py') };
  const found = next.leadsTo(main, Buffer.from('import m5, m31, m32'));
  t.deepEqual(
    found.map(({ path }) => path),
    ['/d5/m5.py', '/d31/m31.py'],
  );
});

test('names that lead nowhere give nothing', (t) => {
  const image = new Image([
    '/app/main~',
    '/app/main.py',
    '/app/.hidden.py',
    '/app/a/b.py',
    '/app/x.py/y',
    '/etc/passwd',
    '/etc/x.py',
  ]);
  const names = [
    '',
    '.',
    '..',
    '...',
    'none',
    'a.none',
    '../etc/x',
    '/etc/x',
    '..etc.x',
    'x',
    'a/b',
    'main.',
    '.main',
    'a\0b',
    'passwd',
    '__proto__',
    'constructor',
  ];
  for (const level of [0, 1, 2, 100])
    for (const name of names) {
      const found = image.imports('/app/main~', [told(level, name, 'none', '..', '', 'a/b')]);
      t.deepEqual(found, name === 'main.' && level < 2 ? ['/app/main~'] : [], `${level} ${name}`);
    }
});

test('symlinks that lead in circles do no harm', (t) => {
  const image = new Image([
    '/app/main.py',
    '/app/self.py -> self.py',
    '/app/a.py -> b.py',
    '/app/b.py -> a.py',
    '/app/__pycache__ -> __pycache__',
    '/app/loop -> .',
    '/app/round -> .',
    '/app/pack/__init__.py',
    '/app/pack/pack -> .',
    '/circle -> /circle',
  ]);
  t.deepEqual(image.imports('/app/main.py', 'import self, a, b, loop.loop.main'), ['/app/loop/loop/main.py']);
  t.is(image.imports('/app/main.py', `import ${'pack.'.repeat(1000)}pack`).length, 41);
  // Any number of paths lead to one directory: each is listed, up to a bound.
  let listed = 0;
  const readdir = image.tree.readdir.bind(image.tree);
  image.tree.readdir = (...args) => (listed++, readdir(...args));
  const ways = Array.from({ length: 1000 }, (_, i) =>
    Array.from({ length: 30 }, (_, bit) => ((i >> (bit % 10)) & 1 ? 'loop' : 'round')).join('.'),
  );
  for (let i = 0; i < 3; i++)
    image.imports(
      '/app/main.py',
      ways.map((way) => `import ${i === 0 ? '' : i === 1 ? 'loop.' : 'round.round.'}${way}`).join('\n'),
    );
  t.true(listed > 100 && listed <= 8192, String(listed));
});

test('modules in the root itself lead no further up', (t) => {
  const image = new Image(['/__init__~', '/__init__.py', '/x~', '/x.py', '/y~', '/y.py']);
  t.deepEqual(image.imports('/x~', [told(1, '', 'y')]), ['/y~']);
});

test('an environment by the name that a program is called by, though that is a link', (t) => {
  const image = new Image([
    '/usr/local/bin/python3.12',
    '/usr/local/lib/python3.12/json.py',
    '/venv/bin/python -> /usr/local/bin/python3.12',
    '/venv/lib/python3.12/site-packages/flask/__init__.py',
    '/app/run.py',
  ]);
  image.start('/usr/local/bin/python3.12');
  t.deepEqual(image.imports('/app/run.py', 'import flask, json'), ['/usr/local/lib/python3.12/json.py']);
  image.finder.learnEnvironment('/venv/bin/python');
  t.deepEqual(image.imports('/app/run.py', 'import flask'), ['/venv/lib/python3.12/site-packages/flask/__init__.py']);
});

test('a module that is run by its name comes with what is run of a package', (t) => {
  const image = new Image([
    '/usr/bin/python3.11',
    ...['/json.py', '/site-packages/web/__init__.py', '/site-packages/web/__main__.py'].map((path) => LIB + path),
  ]);
  image.start('/usr/bin/python3.11');
  const named = (name: string) => image.finder.named(name).map(({ path }) => path);
  t.deepEqual(named('web'), [`${LIB}/site-packages/web/__init__.py`, `${LIB}/site-packages/web/__main__.py`]);
  t.deepEqual(named('json'), [`${LIB}/json.py`]);
  t.deepEqual(named('gone'), []);
});

test('a directory gives way to a package of its name in another place', (t) => {
  const image = new Image([
    '/app/docker/Dockerfile',
    '/app/run.py',
    '/usr/bin/python3.11',
    `${LIB}/json.py`,
    `${LIB}/site-packages/docker/__init__.py`,
  ]);
  t.deepEqual(image.imports('/app/run.py', 'import docker'), []);
  image.start('/usr/bin/python3.11');
  t.deepEqual(image.imports('/app/run.py', 'import docker'), [`${LIB}/site-packages/docker/__init__.py`]);
});

test('packages below a known place that do not say so take up no place of their own', (t) => {
  const site = `${LIB}/site-packages`;
  const parts = Array.from({ length: 40 }, (_, i) => `${site}/ns/p${i}`);
  const image = new Image([
    '/usr/bin/python3.11',
    `${LIB}/json.py`,
    ...parts.flatMap((path) => [`${path}/m.py`, `${path}/n.py`]),
    '/app/run.py',
    '/app/helper.py',
  ]);
  image.start('/usr/bin/python3.11');
  for (const path of parts) t.deepEqual(image.imports(`${path}/m.py`, 'import n'), [`${path}/n.py`]);
  t.deepEqual([...image.places.roots], [LIB, site]);
  t.deepEqual(image.imports('/app/run.py', 'import helper'), ['/app/helper.py']);
});

test('a directory of very many files is none of modules', (t) => {
  const files = Array.from({ length: 8200 }, (_, i) => `/data/f${i}.py`);
  const image = new Image(['/data/main.py', ...files]);
  t.deepEqual(image.imports('/data/main.py', 'import f1'), []);
  t.is(new Image(['/data/main.py', ...files.slice(0, 100)]).imports('/data/main.py', 'import f1').length, 1);
});

test('what is called a compiled module and is none, or of another kind, tells nothing', (t) => {
  const image = new Image(['/app/main~', '/app/main.py', '/app/one.py']);
  t.deepEqual(image.imports('/app/main~', 'import one'), []);
  image.imports('/app/__pycache__/main.cpython-311.pyc', []);
  t.is(image.places.tag, 'cpython-311');
});
