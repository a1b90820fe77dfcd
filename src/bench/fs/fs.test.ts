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

test('two trees are measured part by part, the first time and again', async (t) => {
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
    results.map(({ directory, entries }) => ({ directory, entries })),
    directories.map((directory) => ({ directory, entries: 6 })),
  );
  for (const { figures } of results) {
    t.is(figures.length, 2 * 2 * Object.keys(fsParts).length);
    for (const { ms } of figures) t.true(ms >= 0);
    for (const figure of figures) t.is(figure.p50 !== undefined, ['small', 'random'].includes(figure.part));
  }
  t.true(told[0].startsWith(`1 ${directories[0]}`) && told[1].startsWith(`1 ${directories[1]}`), 'they take turns');
});
