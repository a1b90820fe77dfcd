import test from 'ava';
import { boundedTreeOf } from '../testing/bounded-tree.js';
import type { BoundedTree } from './bounded-tree.js';
import fc from 'fast-check';
import { gccOfDriver, gccOfFile, installed } from './compilers.js';
import { isOpener, opens } from './opens.js';

const treeWith = (...paths: string[]) => boundedTreeOf(paths);

/** What is there of what a program opens, step by step. */
function opened(tree: BoundedTree, path: string): string[][] {
  const there = (one: string) => {
    try {
      return tree.isRegular(tree.resolve(one));
    } catch {
      return false;
    }
  };
  const steps = opens(tree, path.slice(path.lastIndexOf('/') + 1), () => path);
  return steps.map(({ files }) => files.flatMap((paths) => paths.find(there) ?? []));
}

const DEBIAN = '/usr/lib/gcc/x86_64-linux-gnu/12';
const OFFICIAL = '/usr/local/libexec/gcc/x86_64-linux-gnu/13.2.0';
const OWN = '/usr/local/lib/gcc/x86_64-linux-gnu/13.2.0';
const LIB = '/usr/lib/x86_64-linux-gnu';

test('a driver of GCC: the compiler, then the assembler and linker, then what is linked', (t) => {
  const tree = treeWith(
    ...['cc1', 'cc1plus', 'collect2', 'libgcc.a', 'crtbeginS.o', 'libstdc++.so'].map((name) => `${DEBIAN}/${name}`),
    ...['crti.o', 'libc.so'].map((name) => `${LIB}/${name}`),
    '/usr/bin/as',
    '/usr/bin/ld',
  );
  const linked = [
    ...['collect2', 'libgcc.a', 'crtbeginS.o'].map((name) => `${DEBIAN}/${name}`),
    ...['crti.o', 'libc.so'].map((name) => `${LIB}/${name}`),
  ];
  const c = [[`${DEBIAN}/cc1`], ['/usr/bin/as', '/usr/bin/ld'], linked];
  for (const name of ['gcc', 'cc', 'gcc-12', 'x86_64-linux-gnu-gcc-12', 'gcc-12.2.0'])
    t.deepEqual(opened(tree, `/usr/bin/${name}`), c, name);
  const cxx = [[`${DEBIAN}/cc1plus`], c[1], [...linked, `${DEBIAN}/libstdc++.so`]];
  for (const name of ['g++', 'c++', 'g++-12', 'x86_64-linux-gnu-g++-12'])
    t.deepEqual(opened(tree, `/usr/bin/${name}`), cxx, name);
  // Of another version or target, and what only sounds like it.
  for (const name of ['gcc-11', 'aarch64-linux-gnu-gcc-12']) t.deepEqual(opened(tree, `/usr/bin/${name}`), [], name);
  for (const name of ['gcc-ar', 'gcc-ar-12', 'c++filt', 'cc1', 'ld', 'constructor', ''])
    t.deepEqual(opened(tree, `/usr/bin/${name}`), [], name);
});

test('an installation with its programs apart, beside another', (t) => {
  const tree = treeWith(
    `${DEBIAN}/cc1`,
    `${OFFICIAL}/cc1`,
    `${OFFICIAL}/collect2`,
    `${OWN}/libgcc.a`,
    '/usr/local/lib64/libgcc_s.so.1',
    `${LIB}/libgcc_s.so.1`,
    '/usr/bin/as',
  );
  t.deepEqual(opened(tree, '/usr/local/bin/gcc'), [
    [`${OFFICIAL}/cc1`],
    ['/usr/bin/as'],
    [`${OFFICIAL}/collect2`, `${OWN}/libgcc.a`, '/usr/local/lib64/libgcc_s.so.1'],
  ]);
  t.deepEqual(opened(tree, '/usr/bin/gcc')[0], [`${DEBIAN}/cc1`]);
});

test('the newest of several, by numbers', (t) => {
  const versions = ['9', '12', '12.2', '10.1.0'];
  const tree = treeWith(...versions.map((version) => `/usr/lib/gcc/x86_64-linux-gnu/${version}/cc1`));
  t.deepEqual(
    installed(tree).map(({ version }) => version),
    ['12.2', '12', '10.1.0', '9'],
  );
  t.is(gccOfDriver(tree, '/usr/bin/gcc-10')?.version, '10.1.0');
  t.is(gccOfDriver(tree, '/usr/bin/gcc-1'), undefined);
  t.deepEqual(gccOfFile(`${OFFICIAL}/cc1`), { prefix: '/usr/local', triplet: 'x86_64-linux-gnu', version: '13.2.0' });
  t.is(gccOfFile('/usr/bin/cc1'), undefined);
});

test('directories of many entries are not looked through', (t) => {
  const many = Array.from({ length: 17 }, (_, version) => `/usr/lib/gcc/x86_16-linux-gnu/${version}/cc1`);
  t.deepEqual(installed(treeWith(...many)), []);
  t.is(installed(treeWith(...many.slice(1))).length, 16);
});

test('a Java machine, of any layout', (t) => {
  for (const [home, launcher] of [
    ['/usr/lib/jvm/java-17', '/usr/lib/jvm/java-17/lib/libjli.so'],
    ['/opt/java/openjdk', '/opt/java/openjdk/lib/libjli.so'],
    ['/opt/jdk-11', '/opt/jdk-11/lib/jli/libjli.so'],
  ]) {
    const lib = `${home}/lib`;
    const tree = treeWith(
      ...[
        'jvm.cfg',
        'server/libjvm.so',
        'server/classes.jsa',
        'libjava.so',
        'libjimage.so',
        'libzip.so',
        'modules',
      ].map((name) => `${lib}/${name}`),
    );
    const machine = [[`${lib}/jvm.cfg`, `${lib}/server/libjvm.so`]];
    t.deepEqual(opened(tree, `${home}/bin/java`), machine);
    t.deepEqual(opened(tree, launcher), machine);
    t.deepEqual(opened(tree, `${lib}/server/libjvm.so`), [
      [`${lib}/libjimage.so`, `${lib}/libjava.so`, `${lib}/modules`],
      [`${lib}/server/classes.jsa`, `${lib}/libzip.so`],
    ]);
  }
});

test('no name makes it fail, or look where it lies in vain', (t) => {
  const tree = treeWith(`${DEBIAN}/cc1`);
  const part = fc.constantFrom(
    'gcc',
    'x86_16',
    'linux',
    'gnu',
    '-',
    '.',
    '12',
    '9'.repeat(200),
    'java',
    'libjvm.so',
    '+',
  );
  fc.assert(
    fc.property(fc.array(part, { maxLength: 12 }), (parts) => {
      const name = parts.join('');
      let asked = 0;
      const steps = opens(tree, name, () => (asked++, `/${name}`));
      t.is(asked, isOpener(name) ? 1 : 0);
      t.true(isOpener(name) || steps.length === 0);
    }),
    { numRuns: 2000 },
  );
});
