import type { ExecutionContext } from 'ava';
import { join } from 'node:path';
import { codeOf, type ErrorCode } from '../errors.js';
import type { Info, Labels, Snapshotter } from '../snapshot/snapshotter.js';
import { treeSuite } from './snapshotter-tree-suite.js';
import { temporaryDirectory } from './temporary.js';

export interface Subject {
  readonly snapshotter: Snapshotter;
  /** A directory for mounts, gone after the test. */
  readonly work: string;
}

/** Opens a snapshotter on an empty root; what has to end is registered with `t.teardown`. */
export type OpenSnapshotter = (t: ExecutionContext, root: string) => Promise<Snapshotter>;

/** A label that keeps containerd's garbage collector off. */
const rooted: Labels = { 'containerd.io/gc.root': 'suite' };

/** What every snapshotter must do, whatever it is made of. Real mounts, unless `trees` is false: needs root. */
export function snapshotterSuite(
  test: (title: string, work: (t: ExecutionContext) => Promise<void>) => void,
  name: string,
  open: OpenSnapshotter,
  options: { trees?: boolean } = {},
): void {
  const check = (title: string, work: (t: ExecutionContext, subject: Subject) => Promise<void>) =>
    test(`${name}: ${title}`, async (t) => {
      t.timeout(60_000);
      const directory = await temporaryDirectory(t, 'snapshots');
      await work(t, { snapshotter: await open(t, join(directory, 'root')), work: join(directory, 'work') });
    });
  metadataSuite(check);
  if (options.trees !== false) treeSuite(check);
}

export type Check = (title: string, work: (t: ExecutionContext, subject: Subject) => Promise<void>) => void;

function metadataSuite(check: Check): void {
  check('an active snapshot becomes a committed one, and its key is free', async (t, { snapshotter }) => {
    const before = Date.now();
    await snapshotter.prepare('key', '', { labels: { ...rooted, a: '1', empty: '' } });
    const active = await snapshotter.stat('key');
    t.like(active, { name: 'key', parent: '', kind: 'active', labels: { ...rooted, a: '1' } });
    t.deepEqual(Object.keys(active.labels).sort(), ['a', 'containerd.io/gc.root']);
    t.true(active.created >= before && active.created <= Date.now());
    t.is(active.updated, active.created);

    await snapshotter.commit('name', 'key', { labels: { ...rooted, b: '2' } });
    t.like(await snapshotter.stat('name'), { name: 'name', parent: '', kind: 'committed' });
    t.deepEqual((await snapshotter.stat('name')).labels, { ...rooted, b: '2' }, 'labels are replaced');
    await fails(t, 'NOT_FOUND', snapshotter.stat('key'));
    await snapshotter.prepare('key', 'name', { labels: rooted });
    t.like(await snapshotter.stat('key'), { parent: 'name', kind: 'active' });
    await snapshotter.view('view', 'name', { labels: rooted });
    t.like(await snapshotter.stat('view'), { parent: 'name', kind: 'view' });
  });

  check('what is not there is NOT_FOUND', async (t, { snapshotter }) => {
    await fails(t, 'NOT_FOUND', snapshotter.stat('none'));
    await fails(t, 'NOT_FOUND', snapshotter.mounts('none'));
    await fails(t, 'NOT_FOUND', snapshotter.usage('none'));
    await fails(t, 'NOT_FOUND', snapshotter.remove('none'));
    await fails(t, 'NOT_FOUND', snapshotter.update({ name: 'none', labels: {} }, []));
    await fails(t, 'NOT_FOUND', snapshotter.commit('name', 'none'));
    await fails(t, 'NOT_FOUND', snapshotter.prepare('key', 'none'));
    await fails(t, 'NOT_FOUND', snapshotter.view('key', 'none'));
    await fails(t, 'NOT_FOUND', snapshotter.stat('key'));
  });

  check('a key or name that is there is taken', async (t, { snapshotter }) => {
    await committed(snapshotter, 'base', '');
    await snapshotter.prepare('active', 'base', { labels: rooted });
    await snapshotter.view('view', 'base', { labels: rooted });
    for (const key of ['base', 'active', 'view']) {
      await fails(t, 'ALREADY_EXISTS', snapshotter.prepare(key, 'base'));
      await fails(t, 'ALREADY_EXISTS', snapshotter.view(key, 'base'));
      await fails(t, 'ALREADY_EXISTS', snapshotter.commit(key, 'active'));
    }
    t.like(await snapshotter.stat('active'), { kind: 'active', parent: 'base' });
  });

  check('of many that want one key at once, one gets it', async (t, { snapshotter }) => {
    const wanted = Array.from({ length: 12 }, (_, i) =>
      i % 2 === 0
        ? snapshotter.prepare('key', '', { labels: rooted })
        : snapshotter.view('key', '', { labels: rooted }),
    );
    const outcomes = await Promise.allSettled(wanted);
    t.is(outcomes.filter(({ status }) => status === 'fulfilled').length, 1);
    for (const outcome of outcomes) if (outcome.status === 'rejected') t.is(codeOf(outcome.reason), 'ALREADY_EXISTS');
    const others = Array.from({ length: 20 }, (_, i) => snapshotter.prepare(`other ${i}`, '', { labels: rooted }));
    const sources = (await Promise.all(others)).map(([{ source }]) => source);
    t.is(new Set(sources).size, 20);
  });

  check('only a committed snapshot is a parent, only an active one is committed', async (t, { snapshotter }) => {
    await committed(snapshotter, 'base', '');
    await snapshotter.prepare('active', 'base', { labels: rooted });
    await snapshotter.view('view', 'base', { labels: rooted });
    for (const parent of ['active', 'view']) {
      await fails(t, 'INVALID_ARGUMENT', snapshotter.prepare('key', parent));
      await fails(t, 'INVALID_ARGUMENT', snapshotter.view('key', parent));
    }
    await fails(t, 'FAILED_PRECONDITION', snapshotter.commit('name', 'view'));
    await fails(t, 'FAILED_PRECONDITION', snapshotter.commit('name', 'base'));
    await fails(t, 'NOT_FOUND', snapshotter.stat('name'));
  });

  check('mounts are those that prepare and view gave; a committed snapshot has none', async (t, { snapshotter }) => {
    await committed(snapshotter, 'base', '');
    await committed(snapshotter, 'top', 'base');
    for (const parent of ['', 'base', 'top']) {
      t.deepEqual(
        await snapshotter.prepare(`a ${parent}`, parent, { labels: rooted }),
        await snapshotter.mounts(`a ${parent}`),
      );
      t.deepEqual(
        await snapshotter.view(`v ${parent}`, parent, { labels: rooted }),
        await snapshotter.mounts(`v ${parent}`),
      );
    }
    await fails(t, 'FAILED_PRECONDITION', snapshotter.mounts('top'));
  });

  check('a snapshot with children stays; a removed key can be used again', async (t, { snapshotter }) => {
    await committed(snapshotter, 'base', '');
    await committed(snapshotter, 'middle', 'base');
    await snapshotter.prepare('key', 'middle', { labels: rooted });
    await fails(t, 'FAILED_PRECONDITION', snapshotter.remove('base'));
    await fails(t, 'FAILED_PRECONDITION', snapshotter.remove('middle'));
    await snapshotter.remove('key');
    await snapshotter.view('key', 'middle', { labels: rooted });
    await fails(t, 'FAILED_PRECONDITION', snapshotter.remove('middle'));
    await snapshotter.remove('key');
    await snapshotter.remove('middle');
    await snapshotter.prepare('key', '', { labels: rooted });
    await snapshotter.remove('base');
    await snapshotter.commit('base', 'key', { labels: rooted });
    await snapshotter.remove('base');
    await snapshotter.cleanup();
    t.deepEqual(await names(snapshotter.walk()), []);
  });

  check('update changes labels, by field path too, and nothing else', async (t, { snapshotter }) => {
    await committed(snapshotter, 'c', '');
    await snapshotter.prepare('a', 'c', { labels: rooted });
    await snapshotter.view('v', 'c', { labels: rooted });
    for (const name of ['c', 'a', 'v']) {
      const before = await snapshotter.stat(name);
      const all = { ...rooted, l1: 'v1', l2: 'v2', l3: 'v3' };
      const updated = await snapshotter.update({ name, labels: all }, []);
      t.deepEqual(updated, { ...before, labels: all, updated: updated.updated });
      t.true(updated.updated >= before.updated);
      const some = await snapshotter.update({ name, labels: { l1: 'new', l4: 'v4' } }, ['labels.l1', 'labels.l2']);
      t.deepEqual(some.labels, { ...rooted, l1: 'new', l3: 'v3' });
      const whole = await snapshotter.update({ name, labels: { ...rooted, 'a.b/c': 'x' } }, ['labels']);
      t.deepEqual(whole.labels, { ...rooted, 'a.b/c': 'x' });
      await snapshotter.update({ name, labels: { 'a.b/c': 'y' } }, ['labels.a.b/c']);
      for (const field of ['parent', 'name', 'kind', 'created', 'nonsense'])
        await fails(t, 'INVALID_ARGUMENT', snapshotter.update({ name, labels: {} }, ['labels', field]));
      t.deepEqual(
        (await snapshotter.stat(name)).labels,
        { ...rooted, 'a.b/c': 'y' },
        'a refused update changes nothing',
      );
    }
  });

  check('walk takes filters', async (t, { snapshotter }) => {
    await committed(snapshotter, 'p', '');
    await committed(snapshotter, 'p-l', '', { l: '1' });
    await snapshotter.prepare('a-np', '', { labels: rooted });
    await snapshotter.prepare('a', 'p', { labels: rooted });
    await snapshotter.view('v', 'p', { labels: rooted });
    await snapshotter.prepare('a-l', 'p-l', { labels: { ...rooted, l: '2', 'x.y/z': 'deep' } });
    await snapshotter.view('v-l', 'p-l', { labels: { ...rooted, l: '3' } });
    const all = ['a', 'a-l', 'a-np', 'p', 'p-l', 'v', 'v-l'];
    const cases: [filters: string[], expected: string[]][] = [
      [[], all],
      [[''], all],
      [['kind==active'], ['a', 'a-l', 'a-np']],
      [['kind==view'], ['v', 'v-l']],
      [['kind!=committed,labels.l'], ['a-l', 'v-l']],
      [['labels.l==1'], ['p-l']],
      [['labels.l!=1,labels.l'], ['a-l', 'v-l']],
      [['labels."x.y/z"==deep'], ['a-l']],
      [['labels."containerd.io/gc.root"==suite,parent==p'], ['a', 'v']],
      [['parent==""'], ['a-np', 'p', 'p-l']],
      [['name~=^a'], ['a', 'a-l', 'a-np']],
      [['name~=/^[av]-l$/'], ['a-l', 'v-l']],
      [
        ['name==a', 'name==v', 'name==none'],
        ['a', 'v'],
      ],
      [['name==none'], []],
      [['nonsense'], []],
    ];
    for (const [filters, expected] of cases)
      t.deepEqual(await names(snapshotter.walk(filters)), expected, JSON.stringify(filters));
    await t.throwsAsync(names(snapshotter.walk(['kind==active', 'name=='])), { message: /name==/ });
  });

  check('a walk may use the snapshotter, and change it', async (t, { snapshotter }) => {
    for (let i = 0; i < 5; i++) await snapshotter.prepare(`key ${i}`, '', { labels: rooted });
    let seen = 0;
    for await (const info of snapshotter.walk()) {
      seen++;
      t.deepEqual(await snapshotter.stat(info.name), info);
      await snapshotter.remove(info.name);
    }
    t.is(seen, 5);
    t.deepEqual(await names(snapshotter.walk()), []);
  });

  check('closing twice is closing once', async (t, { snapshotter }) => {
    await committed(snapshotter, 'base', '');
    await snapshotter.remove('base');
    await snapshotter.close();
    await snapshotter.close();
    t.pass();
  });
}

export async function committed(
  snapshotter: Snapshotter,
  name: string,
  parent: string,
  labels: Labels = {},
): Promise<void> {
  await snapshotter.prepare(`${name} is prepared`, parent, { labels: rooted });
  await snapshotter.commit(name, `${name} is prepared`, { labels: { ...rooted, ...labels } });
}

async function names(infos: AsyncIterable<Info>): Promise<string[]> {
  const found: string[] = [];
  for await (const { name } of infos) found.push(name);
  return found.sort();
}

export async function fails(t: ExecutionContext, code: ErrorCode, work: Promise<unknown>): Promise<void> {
  const error = await t.throwsAsync(work);
  t.is(codeOf(error), code, error.message);
}
