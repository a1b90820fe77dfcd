import { rmSync } from 'node:fs';
import { mkdir, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { temporaryDirectory } from '../../testing/temporary.js';
import { benchFs, fsParts } from './fs.js';
import { places, sampleTree } from './sample.js';

async function tree(t: ExecutionContext): Promise<string> {
  const directory = await temporaryDirectory(t, 'bench-fs');
  await mkdir(join(directory, 'b'));
  await writeFile(join(directory, 'b', 'small'), 'x');
  await writeFile(join(directory, 'a'), Buffer.alloc(100_000));
  await writeFile(join(directory, 'empty'), '');
  await symlink('a', join(directory, 'link'));
  return directory;
}

test('a sample has the small files and the large ones', async (t) => {
  const root = await tree(t);
  t.deepEqual(sampleTree(root), {
    entries: 6,
    leftOut: [],
    any: [root, ...['a', 'b', 'b/small', 'empty', 'link'].map((name) => join(root, name))],
    small: [{ path: join(root, 'b/small'), size: 1 }],
    large: [
      { path: join(root, 'a'), size: 100_000 },
      { path: join(root, 'b/small'), size: 1 },
    ],
  });
});

test('places are the same each time, in every file, and start where something is', (t) => {
  const files = [
    { path: 'one', size: 1 },
    { path: 'many', size: 40_960_001 },
  ];
  const found = places(files, 20_000, 4096);
  t.deepEqual(places(files, 20_000, 4096), found);
  for (const { path, offset } of found) t.true(offset % 4096 === 0 && offset < (path === 'one' ? 1 : 40_960_001));
  t.true(found.some(({ path }) => path === 'one'));
  t.true(new Set(found.map(({ offset }) => offset)).size > 5000, 'they spread');
  t.deepEqual(places([], 5, 4096), []);
});

test('without empty caches, what is warm alone is measured, tree beside tree', async (t) => {
  const directories = [await tree(t), await tree(t)];
  const told: string[] = [];
  const results = await benchFs({
    directories,
    runs: 2,
    dropCaches: false,
    signal: new AbortController().signal,
    onRun: (run, what) => told.push(`${run} ${what}`),
  });
  t.deepEqual(
    results.map(({ directory, entries, leftOut }) => ({ directory, entries, leftOut })),
    directories.map((directory) => ({ directory, entries: 6, leftOut: 0 })),
  );
  for (const { figures } of results) {
    t.is(figures.length, 2 * Object.keys(fsParts).length);
    for (const { state, ms } of figures) t.true(state === 'warm' && ms >= 0);
    for (const { part, p50, p99 } of figures) {
      t.is(p50 !== undefined, ['lstat', 'small', 'sequential', 'random'].includes(part), part);
      t.is(p99 !== undefined, p50 !== undefined);
      if (p50 !== undefined) t.true(p50 > 0 && p50 <= p99!);
    }
  }
  t.true(told[0].startsWith(`1 ${directories[0]}`) && told[1].startsWith(`1 ${directories[1]}`), 'they take turns');
});

test('a symbolic link to a tree is that tree', async (t) => {
  const directory = await tree(t);
  const link = join(directory, 'b', 'back');
  await symlink(directory, link);
  const signal = new AbortController().signal;
  const [{ entries, figures }] = await benchFs({ directories: [link], runs: 1, dropCaches: false, signal });
  t.is(entries, 7);
  t.is(figures.length, Object.keys(fsParts).length);
});

test('what is no directory is refused before anything is measured', async (t) => {
  const directory = await tree(t);
  const told: string[] = [];
  const refused = (bad: string, message: RegExp) =>
    t.throwsAsync(
      benchFs({
        directories: [directory, bad],
        runs: 1,
        dropCaches: false,
        signal: new AbortController().signal,
        onRun: (_, what) => told.push(what),
      }),
      { code: 'INVALID_ARGUMENT', message },
    );
  await refused(join(directory, 'none'), /none: expected a directory, found nothing/);
  await refused(join(directory, 'a'), /a: expected a directory, found another type of file/);
  await refused(join(directory, 'a', 'below'), /below: expected a directory, found nothing/);
  t.deepEqual(told, []);
});

test('where a tree is gone meanwhile, there is no figure', async (t) => {
  const directory = await tree(t);
  const signal = new AbortController().signal;
  const vanish = (_: number, what: string) => {
    if (what.endsWith(fsParts.whole)) rmSync(directory, { recursive: true });
  };
  await t.throwsAsync(benchFs({ directories: [directory], runs: 1, dropCaches: false, signal, onRun: vanish }), {
    code: 'INTERNAL',
    message: /Cannot open: No such file/,
  });
});
