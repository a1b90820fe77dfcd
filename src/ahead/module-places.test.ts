import test from 'ava';
import { ModuleImage } from '../testing/module-image.js';
import { isInterpreter, isModule, ModuleFinder, runsModules } from './modules.js';

const LIB = '/usr/lib/python3.11';
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
  const now = new ModuleImage([`/usr/bin/python3.11`, '/app/main.py', ...library(LIB)]);
  t.deepEqual(now.start('/usr/bin/python3.11'), paths(LIB, start));
  t.deepEqual(now.imports('/app/main.py', 'import os, abc, io, json, site, codecs\nimport importlib.util'), [
    `${LIB}/json/__init__.py`,
    `${LIB}/importlib/__init__.py`,
  ]);
  const then = '/usr/lib/python3.10';
  const before = new ModuleImage([`/usr/bin/python3.10`, ...library(then)]);
  const frozen = ['abc', 'codecs', 'io', 'os', 'site', 'stat', 'importlib/__init__', 'importlib/util'];
  t.deepEqual(before.start('/usr/bin/python3.10'), paths(then, [...frozen, ...start]));
});

test('an interpreter tells its version, and where its modules are', (t) => {
  const debian = new ModuleImage([
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
  const official = new ModuleImage([
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
    const image = new ModuleImage([path, ...library(LIB)]);
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
  const image = new ModuleImage([
    ...directories.flatMap((path) => [`${path}/main.py`, `${path}/m${path.slice(2)}.py`]),
  ]);
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

test('an environment by the name that a program is called by, though that is a link', (t) => {
  const image = new ModuleImage([
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
  const image = new ModuleImage([
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
  const image = new ModuleImage([
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
  const image = new ModuleImage([
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
