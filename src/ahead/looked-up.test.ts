import test, { type ExecutionContext } from 'ava';
import { FIXTURE_CHUNK, FixtureLayer, type FixtureEntry } from '../testing/fs-fixture.js';
import { LookedUp, type Wanted } from './looked-up.js';

const KIB = 1024;
const SLOT = 3;

/** A layer whose files are looked up; `pass` lets the time pass that readers have. */
function start(t: ExecutionContext, entries: readonly FixtureEntry[]) {
  const layer = new FixtureLayer(entries);
  t.teardown(() => layer[Symbol.dispose]());
  const brought: Wanted[] = [];
  const later: (() => void)[] = [];
  const looked = new LookedUp(
    (slot, wanted) => {
      t.is(slot, SLOT);
      brought.push(wanted);
    },
    (work) => void later.push(work),
  );
  looked.attach(layer.view(SLOT));
  const find = (...paths: string[]) => {
    for (const path of paths) {
      const [name, ...above] = path.split('/').reverse();
      const directory = above.length === 0 ? 0 : layer.find(above.reverse().join('/'));
      looked.found(SLOT, directory, layer.find(path), Buffer.from(`..${name}.`), 2, 2 + Buffer.byteLength(name));
    }
  };
  /** Names of what is asked for once the time has passed. */
  const pass = () => {
    t.true(later.length <= 1);
    later.pop()?.();
    return brought
      .splice(0)
      .flatMap(({ whole, beginnings }) => [
        ...whole.map((inode) => layer.nameOf(inode)),
        ...beginnings.map((inode) => `${layer.nameOf(inode)} begins`),
      ]);
  };
  const read = (path: string) => looked.read(SLOT, layer.find(path));
  return { layer, looked, later, find, pass, read };
}

const file = (name: string, size = 1000): FixtureEntry => ({ name, size });

test('what was looked up, and is still unread and missing after a while, is asked for at once', (t) => {
  const names = ['lib/crt1.o', 'lib/crti.o', 'lib/plugin.so.1', 'lib/read.o', 'lib/came.o'];
  const { layer, find, pass, read, later } = start(
    t,
    names.map((name) => file(name)),
  );
  find(...names, 'lib/crt1.o');
  t.is(later.length, 1);
  read('lib/read.o');
  layer.fill('lib/came.o');
  t.deepEqual(pass(), ['lib/crt1.o', 'lib/crti.o', 'lib/plugin.so.1']);
  find('lib/crt1.o', 'lib/came.o');
  t.deepEqual(pass(), [], 'once is enough');
});

test('nothing comes of directories, links, programs, modules in Python, empty files, and what is there', (t) => {
  const entries: FixtureEntry[] = [
    { name: 'dir', type: 'dir' },
    { name: 'link', type: 'symlink', link: 'data' },
    { ...file('tool'), mode: 0o755 },
    { ...file('lib.so'), mode: 0o755 },
    file('os.py'),
    file('empty', 0),
    { ...file('there'), cached: true },
    file('data'),
  ];
  const { find, pass } = start(t, entries);
  find(...entries.map(({ name }) => name));
  t.deepEqual(pass(), ['lib.so', 'data']);
});

test('of a larger file only the beginning comes, one at a time until it is read', (t) => {
  const { find, pass, read } = start(t, [file('modules', 40 * FIXTURE_CHUNK), file('more', 4 * FIXTURE_CHUNK)]);
  find('modules', 'more');
  t.deepEqual(pass(), ['modules begins']);
  find('more');
  t.deepEqual(pass(), []);
  read('modules');
  find('more');
  t.deepEqual(pass(), ['more begins']);
});

test('who lists a directory looks at its files and need not read them', (t) => {
  const names = Array.from({ length: 100 }, (_, i) => `many/${i}.x`);
  const { layer, looked, find, pass } = start(t, [...names.map((name) => file(name)), file('other/a.x')]);
  looked.listed(SLOT, layer.find('many'));
  find(names[7], 'other/a.x');
  t.deepEqual(pass(), ['other/a.x']);
});

test('so many at once are a walk', (t) => {
  const names = Array.from({ length: 33 }, (_, i) => `${i}.of-${i}`);
  const { find, pass } = start(
    t,
    names.map((name) => file(name)),
  );
  find(...names);
  t.deepEqual(pass(), []);
  find(...names.slice(0, 32));
  t.true(pass().length > 0, 'the next ones are none');
});

test('a slow walk over 2000 files costs little, and once; whoever reads has it back', (t) => {
  const names = Array.from({ length: 2000 }, (_, i) => `${i}.kind-${'abcdefgh'[i % 8]}`);
  const { looked, layer, find, pass, read, later } = start(
    t,
    names.map((name) => file(name, 20 * KIB)),
  );
  const brought: string[] = [];
  for (const name of names) {
    find(name);
    brought.push(...pass());
  }
  t.is(brought.length * 20 * KIB, 500 * KIB);
  for (const kind of 'abcdefgh') t.true(brought.filter((name) => name.endsWith(kind)).length <= 6);
  find(...names);
  t.is(later.length, 0, 'nothing is noted any more');
  looked.sleep(SLOT);
  looked.attach(layer.view(SLOT));
  find(names[1999]);
  t.is(later.length, 0, 'also after a sleep');

  for (const name of brought) read(name);
  find(names[1999], names[1998]);
  t.is(pass().length, 2);
  looked.detach(SLOT);
  looked.attach(layer.view(SLOT));
  for (const name of names.slice(0, 10)) find(name);
  t.is(pass().length, 10, 'a layer that is new begins anew');
});

test('a kind of which nothing is read leaves the others their credit', (t) => {
  const bad = Array.from({ length: 100 }, (_, i) => `${i}.bad`);
  const { find, pass } = start(
    t,
    [...bad, 'a.good'].map((name) => file(name)),
  );
  const brought = bad.flatMap((name) => (find(name), pass()));
  t.is(brought.length, 8, 'a small file counts more than its bytes: it is a request');
  find('a.good');
  t.deepEqual(pass(), ['a.good']);
});

test('however many are looked up at once, a layer has no more than its credit', (t) => {
  const names = Array.from({ length: 20 }, (_, i) => `a.of-${'abcdefghijklmnopqrst'[i]}`);
  const { find, pass } = start(
    t,
    names.map((name) => file(name, 100 * KIB)),
  );
  find(...names);
  t.is(pass().length, 5);
});

test('a layer that falls asleep is asked for nothing; one that is not known, or has a landmark, never', (t) => {
  const { layer, looked, find, pass, later } = start(t, [file('a')]);
  find('a');
  looked.sleep(SLOT);
  t.deepEqual(pass(), []);
  find('a');
  looked.listed(SLOT, 0);
  looked.found(SLOT + 1, 0, 1, Buffer.from('a'), 0, 1);
  looked.read(SLOT + 1, 1);
  looked.detach(SLOT + 1);
  t.is(later.length, 0);
  looked.detach(SLOT);
  const { tree, ...view } = layer.view(SLOT);
  looked.attach({
    ...view,
    tree: Object.create(tree, { facts: { value: { ...tree.facts, prefetchBytes: 10 } } }) as typeof tree,
  });
  find('a');
  t.is(later.length, 0);
});
