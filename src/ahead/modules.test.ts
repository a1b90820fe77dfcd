import test from 'ava';
import { ModuleImage } from '../testing/module-image.js';
import { told } from '../testing/pyc.js';

test('a module and a package beside the one that imports them', (t) => {
  const image = new ModuleImage(['/app/main.py', '/app/one.py', '/app/two/__init__.py', '/app/two/inner.py']);
  t.deepEqual(image.imports('/app/main.py', 'import one, two, three'), ['/app/one.py', '/app/two/__init__.py']);
  t.deepEqual([...image.places.roots], ['/app']);
  t.is(image.places.tag, undefined);
});

test('a dotted name brings each package that it leads through, as far as it leads', (t) => {
  const image = new ModuleImage([
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
  const image = new ModuleImage([
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
  const image = new ModuleImage([
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
  const image = new ModuleImage(['/app/main.py', '/app/a.py', '/app/a/x.py', '/app/b.py', '/app/b/__init__.py']);
  t.deepEqual(image.imports('/app/main.py', 'import a.x, b'), ['/app/a.py', '/app/b/__init__.py']);
});

test('compiled by the version that runs before source; of another version not', (t) => {
  const image = new ModuleImage([
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
  const image = new ModuleImage([
    '/app/main.py',
    '/app/__pycache__/a.cpython-39.pyc',
    '/app/a.py',
    '/app/b.cpython-39-x.so',
  ]);
  t.deepEqual(image.imports('/app/main.py', 'import a, b'), [
    '/app/__pycache__/a.cpython-39.pyc',
    '/app/b.cpython-39-x.so',
  ]);
});

test('a package comes with its libraries, however it is named, unless they are a collection of large ones', (t) => {
  const paths = ['/app/main.py', '/app/pack/__init__.py', '/app/pack/_a.abi3.so', '/app/pack/_b.cpython-39-x.so'];
  const few = new ModuleImage([
    ...paths,
    '/app/pack/inner/__init__.py',
    '/app/pack/inner/_c.so',
    '/app/pack/inner/d.txt',
  ]);
  few.places.tag = 'cpython-39';
  t.deepEqual(few.imports('/app/main.py', 'import pack'), paths.slice(1));
  t.deepEqual(few.imports('/app/main.py', 'from pack import inner'), [
    ...paths.slice(1),
    '/app/pack/inner/__init__.py',
    '/app/pack/inner/_c.so',
  ]);
  const large = new ModuleImage([...paths, `/app/pack/_large.abi3.so = ${16 * 1024 * 1024}`]);
  large.places.tag = 'cpython-39';
  t.deepEqual(large.imports('/app/main.py', 'import pack'), paths.slice(1, 2));
});

test('libraries: of the version that runs, of a stable interface, of no version; before the source of the same name', (t) => {
  const tag = (version: number) => `cpython-${version}-x86_64-linux-gnu.so`;
  const image = new ModuleImage([
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
  const image = new ModuleImage(['/app/lib.so', '/app/one.py', '/app/pack/__init__.py', '/app/pack/two.py']);
  const library = Buffer.from('\x7fELF\0one\0no name\0pack.two\0printf\0one.attribute\0');
  t.deepEqual(image.imports('/app/lib.so', library), ['/app/one.py', '/app/pack/__init__.py', '/app/pack/two.py']);
});

test('modules of other layers, hidden by a whiteout, replaced, and behind symlinks', (t) => {
  const image = new ModuleImage(
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

test('names that lead nowhere give nothing', (t) => {
  const image = new ModuleImage([
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
  const image = new ModuleImage([
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
  const image = new ModuleImage(['/__init__~', '/__init__.py', '/x~', '/x.py', '/y~', '/y.py']);
  t.deepEqual(image.imports('/x~', [told(1, '', 'y')]), ['/y~']);
});

test('a directory of very many files is none of modules', (t) => {
  const files = Array.from({ length: 8200 }, (_, i) => `/data/f${i}.py`);
  const image = new ModuleImage(['/data/main.py', ...files]);
  t.deepEqual(image.imports('/data/main.py', 'import f1'), []);
  t.is(new ModuleImage(['/data/main.py', ...files.slice(0, 100)]).imports('/data/main.py', 'import f1').length, 1);
});

test('what is called a compiled module and is none, or of another kind, tells nothing', (t) => {
  const image = new ModuleImage(['/app/main~', '/app/main.py', '/app/one.py']);
  t.deepEqual(image.imports('/app/main~', 'import one'), []);
  image.imports('/app/__pycache__/main.cpython-311.pyc', []);
  t.is(image.places.tag, 'cpython-311');
});
