import { fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import test, { type ExecutionContext } from 'ava';
import { codeOf } from '../errors.js';
import { temporaryDirectory } from '../testing/temporary.js';
import { runCommand } from '../util/command.js';
import { Metastore } from './metastore.js';

const temporary = async (t: ExecutionContext): Promise<string> => {
  const directory = await temporaryDirectory(t, 'metastore');
  return join(directory, 'metadata');
};

const usage = { size: 1, inodes: 1 };

test('what resolved is there after closing and opening, ids go on', async (t) => {
  const path = await temporary(t);
  const store = new Metastore(path);
  await store.create({ id: store.takeId(), name: 'a', kind: 'active', parent: '', labels: { x: 'ü', __proto: 'y' } });
  await store.commit('a', 'c', { labels: { z: '1' }, usage, parent: '' });
  const remote = { record: { any: ['json', null] }, root: { mode: 0o755, uid: 0, gid: 0 } };
  await store.create({ id: store.takeId(), name: 'r', kind: 'committed', parent: 'c', labels: {}, usage, remote });
  await store.create({ id: store.takeId(), name: 'gone', kind: 'view', parent: 'r', labels: {} });
  await store.remove('gone');
  const before = store.all();
  await store[Symbol.asyncDispose]();
  await store[Symbol.asyncDispose]();

  const again = new Metastore(path);
  t.teardown(() => again[Symbol.asyncDispose]());
  t.deepEqual(
    again.all().sort((a, b) => a.id - b.id),
    before.sort((a, b) => a.id - b.id),
  );
  t.is(again.takeId(), 4);
  t.true(again.hasChildren('c'));
  t.false(again.hasChildren('r'));
  t.deepEqual(
    again.chain('r').map(({ name }) => name),
    ['r', 'c'],
  );
});

test('a snapshot whose child had its labels changed can be removed once the child is', async (t) => {
  const store = new Metastore(await temporary(t));
  t.teardown(() => store[Symbol.asyncDispose]());
  await store.create({ id: 1, name: 'parent', kind: 'committed', parent: '', labels: {}, usage });
  await store.create({ id: 2, name: 'child', kind: 'active', parent: 'parent', labels: {} });
  await store.setLabels('child', { a: 'b' });
  await store.remove('child');
  await store.remove('parent');
  t.is(store.size, 0);
});

test('a key too long for the store is refused', async (t) => {
  const store = new Metastore(await temporary(t));
  t.teardown(() => store[Symbol.asyncDispose]());
  for (const name of ['', 'x'.repeat(1901), 'é'.repeat(1000)]) {
    const error = t.throws(() => store.checkNew(name, ''));
    t.is(codeOf(error), 'INVALID_ARGUMENT');
  }
  await store.create({ id: store.takeId(), name: 'x'.repeat(1900), kind: 'active', parent: '', labels: {} });
  t.is(store.size, 1);
  const label = { long: 'x'.repeat(4093) };
  const error = await t.throwsAsync(store.create({ id: 9, name: 'l', kind: 'active', parent: '', labels: label }));
  t.is(codeOf(error), 'INVALID_ARGUMENT');
});

test('a label with any key stays a label', async (t) => {
  const path = await temporary(t);
  const store = new Metastore(path);
  const labels = Object.fromEntries([
    ['__proto__', 'p'],
    ['constructor', 'c'],
    ['empty', ''],
  ]);
  await store.create({ id: 1, name: '\0__proto__\ud83d\ude00', kind: 'active', parent: '', labels });
  await store[Symbol.asyncDispose]();
  const again = new Metastore(path);
  t.teardown(() => again[Symbol.asyncDispose]());
  const found = again.get('\0__proto__\ud83d\ude00').labels;
  t.deepEqual(Object.entries(found), [
    ['__proto__', 'p'],
    ['constructor', 'c'],
  ]);
});

/** The rules in a few lines, to compare with. */
class Model {
  readonly snapshots = new Map<string, { kind: string; parent: string }>();

  children = (name: string) => [...this.snapshots.values()].some(({ parent }) => parent === name);
  fresh = (name: string, parent: string) =>
    !this.snapshots.has(name) && (parent === '' || this.snapshots.get(parent)?.kind === 'committed');
}

const name = fc.constantFrom('a', 'b', 'c', 'd');
const parent = fc.constantFrom('', 'a', 'b', 'c', 'd');
const step = fc.oneof(
  fc.record({
    op: fc.constant('create' as const),
    name,
    parent,
    kind: fc.constantFrom('active' as const, 'view' as const),
  }),
  fc.record({ op: fc.constant('commit' as const), key: name, name, parent }),
  fc.record({ op: fc.constant('remove' as const), name }),
  fc.record({ op: fc.constant('reopen' as const) }),
);

/** What seldom comes by chance: a parent with a child. */
const beginning = [
  { op: 'create', name: 'a', parent: '', kind: 'active' },
  { op: 'commit', key: 'a', name: 'b', parent: '' },
  { op: 'create', name: 'c', parent: 'b', kind: 'view' },
] as const;

test('any order of changes, at once or one by one, follows the rules', async (t) => {
  t.timeout(60_000);
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 40, size: 'max' }), fc.boolean(), async (steps, atOnce) => {
      const path = await mkdtemp(join(tmpdir(), 'lazylayer-metastore-'));
      let store = new Metastore(path);
      const model = new Model();
      let running: Promise<unknown>[] = [];
      const settle = async () => {
        await Promise.all(running);
        running = [];
      };
      const expect = (work: () => Promise<unknown>, possible: boolean) =>
        running.push(
          work().then(
            () => t.true(possible),
            (error: unknown) => t.false(possible, String(error)),
          ),
        );
      for (const one of [...beginning, ...steps]) {
        if (one.op === 'create') {
          const possible = model.fresh(one.name, one.parent);
          expect(() => store.create({ ...one, id: store.takeId(), labels: {} }), possible);
          if (possible) model.snapshots.set(one.name, one);
        } else if (one.op === 'commit') {
          const active = model.snapshots.get(one.key);
          const free = one.parent === '' || active?.parent === '' || active?.parent === one.parent;
          const possible = model.fresh(one.name, one.parent) && active?.kind === 'active' && free;
          expect(() => store.commit(one.key, one.name, { labels: {}, usage, parent: one.parent }), possible);
          if (possible) {
            model.snapshots.delete(one.key);
            model.snapshots.set(one.name, { kind: 'committed', parent: active.parent || one.parent });
          }
        } else if (one.op === 'remove') {
          const possible = model.snapshots.has(one.name) && !model.children(one.name);
          expect(() => store.remove(one.name), possible);
          if (possible) model.snapshots.delete(one.name);
        } else {
          await settle();
          await store[Symbol.asyncDispose]();
          store = new Metastore(path);
        }
        if (!atOnce) await settle();
        const found = store.all().map(({ name, kind, parent }) => `${name} ${kind} ${parent}`);
        const wanted = [...model.snapshots].map(([name, { kind, parent }]) => `${name} ${kind} ${parent}`);
        t.deepEqual(found.sort(), wanted.sort());
      }
      await settle();
      await store[Symbol.asyncDispose]();
      await rm(path, { recursive: true });
    }),
    { numRuns: 80 },
  );
});

test('killed at any point, the store has everything that resolved', async (t) => {
  t.timeout(30_000);
  const path = await temporary(t);
  for (let round = 0; round < 6; round++) {
    const child = fork(join(import.meta.dirname, '..', 'testing', 'metastore-writer.js'), [path, `${round}`]);
    const told: string[] = [];
    child.on('message', (name) => {
      told.push(name as string);
      // Whatever it is doing: the next write is under way by now.
      if (told.length === 20 + round * 7) child.kill('SIGKILL');
    });
    await once(child, 'exit');
    t.true(told.length >= 20);
    const store = new Metastore(path);
    for (const name of told) t.is(store.find(name)?.kind, 'committed', name);
    const ids = store.all().map(({ id }) => id);
    t.is(new Set(ids).size, ids.length);
    t.true(store.takeId() > Math.max(...ids));
    await store[Symbol.asyncDispose]();
  }
});

test('a full disk fails the change, and memory keeps to what is written', async (t) => {
  const path = await temporary(t);
  await mkdir(path);
  await runCommand('mount', ['-t', 'tmpfs', '-o', 'size=1400k', 'tmpfs', path]);
  t.teardown(async () => void (await runCommand('umount', ['-l', path])));
  const store = new Metastore(join(path, 'store'));
  const labels = { much: 'x'.repeat(2000) };
  const create = (name: string) => store.create({ id: store.takeId(), name, kind: 'active', parent: '', labels });
  let written = 0;
  const error = await t.throwsAsync(async () => {
    for (; ; written++) await create(`n${written}`);
  });
  t.is(codeOf(error), 'RESOURCE_EXHAUSTED');
  t.true(written > 10 && written < 400);
  t.is(store.size, written);
  t.is(store.find(`n${written}`), undefined);
  // Changes at once that were checked against each other fail together.
  const outcomes = await Promise.allSettled([
    create('a'),
    create('b'),
    store.commit('a', 'c', { labels, usage, parent: '' }),
  ]);
  t.true(outcomes.every(({ status }) => status === 'rejected'));
  t.is(store.size, written);
  await store.remove('n0');
  await store.remove('n1');
  t.is(store.size, written - 2);
  await runCommand('mount', ['-o', 'remount,size=4m', path]);
  await create('again');
  const before = store.all().map(({ name }) => name);
  await store[Symbol.asyncDispose]();
  const again = new Metastore(join(path, 'store'));
  t.deepEqual(
    again
      .all()
      .map(({ name }) => name)
      .sort(),
    before.sort(),
  );
  await again[Symbol.asyncDispose]();
});
