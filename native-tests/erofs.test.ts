import { ftruncateSync, fstatSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { hash } from 'node:crypto';
import test, { type ExecutionContext } from 'ava';
import fc from 'fast-check';
import { releaseWholeMounts, WholeMounts } from '../src/erofs/whole-mounts.js';
import { FixtureLayer, type FixtureEntry } from '../src/testing/fs-fixture.js';
import { writeProgram } from '../src/testing/program.js';
import { ROOT, S_IFMT, S_IFREG, type Tree } from '../src/toc/tree.js';
import { listMounts } from '../src/util/mountinfo.js';
import { lower } from './fs-layers.js';
import { startMount } from './fs-client.js';
import { compareFacts, compareTrees, describeTree, type Facts } from './support/compare.js';
import { requireErofs } from './support/tools.js';

test.before('a kernel that has EROFS over files', () => requireErofs());

const BLOCK = 4096;
const SLOT = 7;

async function temporary(t: ExecutionContext): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'lazylayer-erofs-'));
  t.teardown(async () => {
    await releaseWholeMounts(directory);
    await rm(directory, { recursive: true, force: true });
  });
  return directory;
}

/** The layer with all its content in its cache file, which ends at a block's end. */
function whole(t: ExecutionContext, entries: readonly FixtureEntry[], chunkSize?: number): FixtureLayer {
  const layer = new FixtureLayer(
    entries.map((entry) => ({ ...entry, cached: true })),
    chunkSize,
  );
  t.teardown(() => layer[Symbol.dispose]());
  ftruncateSync(layer.fd, Math.ceil(fstatSync(layer.fd).size / BLOCK) * BLOCK);
  return layer;
}

test.serial('a layer is by EROFS what it is by FUSE, whatever is in it', async (t) => {
  await using fuse = await startMount('kernel');
  const mounts = await WholeMounts.open(await temporary(t));
  const path = await mounts.mount(whole(t, lower).view(SLOT));
  t.deepEqual(await compareTrees(join(fuse.mountpoint, 'l/1'), path!), []);
});

/** What `describeTree` has to tell of a mount of the layer; of names and values in printable ASCII alone. */
function expected(layer: FixtureLayer): Map<string, Facts> {
  const { tree } = layer;
  const found = new Map<string, Facts>();
  const paths: [string, number][] = [];
  const walk = (path: string, inode: number) => {
    paths.push([path, inode]);
    if (tree.isDirectory(inode))
      for (let dirent = tree.first[inode]; dirent < tree.first[inode] + tree.count[inode]; dirent++)
        walk(`${path}/${tree.name(dirent).toString('latin1')}`, tree.direntInode[dirent]);
  };
  walk('.', ROOT);
  const firstNames = new Map<number, string>();
  for (const [path, inode] of paths.sort(([a], [b]) => (a < b ? -1 : 1))) {
    const facts: Record<string, string> = {
      type: typeOf(tree, inode),
      mode: (tree.mode[inode] & 0o7777).toString(8),
      owner: `${tree.uid[inode]}:${tree.gid[inode]}`,
      mtime: `${BigInt(tree.mtime[inode]) * 1_000_000_000n + BigInt(tree.mtimeNsec[inode])} ns`,
    };
    for (const { name, value } of tree.xattrsOf(inode))
      // Links have none in this namespace: xattr(7).
      if (!tree.isSymlink(inode) || !name.toString('latin1').startsWith('user.'))
        facts[`xattr ${name.toString('latin1')}`] = value.byteLength === 0 ? '0x' : `0x${value.toString('hex')}`;
    if (!tree.isDirectory(inode)) {
      if (!firstNames.has(inode)) firstNames.set(inode, path);
      facts['links'] = `${tree.nlink[inode]}`;
      facts['size'] = `${tree.size[inode]}`;
      facts['same file as'] = firstNames.get(inode)!;
    }
    if (tree.isSymlink(inode)) facts['target'] = tree.target(inode).toString('latin1');
    if (tree.isRegular(inode)) facts['content'] = hash('sha256', layer.content(inode, 0, tree.size[inode]), 'hex');
    found.set(path, facts);
  }
  return found;
}

function typeOf(tree: Tree, inode: number): string {
  if (tree.isDirectory(inode)) return 'directory';
  return (tree.mode[inode] & S_IFMT) === S_IFREG ? 'file' : 'symlink';
}

const name = fc.oneof(
  fc.stringMatching(/^[!-.0-[\]-~]{1,3}$/),
  fc.stringMatching(/^[a-c-]{1,255}$/),
  fc.nat({ max: 200 }).map((i) => `${'long'.repeat(60)}${i}`),
);
const isName = (text: string) =>
  text !== '.' && text !== '..' && !text.startsWith('.wh.') && text !== '.no.prefetch.landmark';
const xattrs = fc.dictionary(
  fc.stringMatching(/^(user|trusted|security)\.[a-z]{1,40}$/),
  fc.oneof(fc.stringMatching(/^[ -~]{0,40}$/), fc.stringMatching(/^[ -~]{3000,3900}$/)),
  { maxKeys: 3 },
);
const common = {
  directory: fc.integer({ min: 0, max: 3 }),
  name: name.filter(isName),
  xattrs: fc.option(xattrs, { nil: undefined, freq: 4 }),
  mtime: fc.integer({ min: -(2 ** 31), max: 2 ** 33 }),
  mtimeNsec: fc.nat({ max: 999_999_999 }),
  uid: fc.nat({ max: 2 ** 32 - 2 }),
  mode: fc.nat({ max: 0o7777 }),
};
const node = fc.oneof(
  fc.record({
    ...common,
    type: fc.constant('reg' as const),
    size: fc.oneof(fc.nat({ max: 3 * BLOCK }), fc.constantFrom(0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 17 * BLOCK, 2 ** 20)),
  }),
  fc.record({ ...common, type: fc.constant('dir' as const) }),
  fc.record({ ...common, type: fc.constant('symlink' as const), link: fc.stringMatching(/^[!-[\]-~]{1,4000}$/) }),
);

/** Entries of a few directories, no name twice; a directory for every name before a slash. */
const layers = fc
  .tuple(fc.uniqueArray(node, { selector: (n) => `${n.directory}/${n.name}`, maxLength: 150 }), fc.nat({ max: 400 }))
  .map(([nodes, many]): FixtureEntry[] => [
    ...nodes.map(({ directory, ...rest }) => ({ ...rest, name: `${'d/'.repeat(directory)}${rest.name}` })),
    ...Array.from({ length: many }, (_, i) => ({ name: `many/${'m'.repeat(i % 50)}-${i}`, size: i })),
  ]);

test.serial('any layer is by EROFS what its tree says', async (t) => {
  t.timeout(300_000);
  const directory = await temporary(t);
  await fc.assert(
    fc.asyncProperty(layers, async (entries) => {
      const isDirectory = new Set(['d', 'd/d', 'd/d/d', 'many']);
      const layer = whole(
        t,
        entries.filter((entry) => entry.type === 'dir' || !isDirectory.has(entry.name)),
        BLOCK * 4,
      );
      const mounts = await WholeMounts.open(directory);
      const path = await mounts.mount(layer.view(SLOT));
      try {
        t.deepEqual(compareFacts(expected(layer), await describeTree(path!)), []);
      } finally {
        await mounts.unmount(SLOT);
      }
    }),
    { numRuns: 40, endOnFailure: true },
  );
});

test.serial('mounts outlive the process, are taken over by the next, and leave nothing', async (t) => {
  const directory = await temporary(t);
  const layer = whole(t, [{ name: 'file', size: 5000 }]);
  const first = await WholeMounts.open(directory);
  const path = await first.mount(layer.view(1));
  t.is(await first.mount(layer.view(1)), path, 'once');
  await first.mount(layer.view(2));
  t.deepEqual((await readdir(directory)).sort(), ['1', '2'], 'no image is left');
  await mkdir(join(directory, '3'));

  const second = await WholeMounts.open(directory);
  t.is(second.path(1), path);
  t.is(second.path(3), undefined, 'a mount point alone is no mount');
  await second.retain((slot) => slot === 1);
  t.deepEqual(await readdir(directory), ['1']);
  t.is((await stat(join(path!, 'file'))).size, 5000);

  t.deepEqual(await releaseWholeMounts(directory), [join(directory, '1')], 'of a daemon that is gone');
  t.deepEqual(await readdir(directory), []);
  t.false((await listMounts()).some(({ target }) => target.startsWith(directory)));
});

test.serial(
  'a mount that is wanted again stays; one that goes is hidden first; none is made after the end',
  async (t) => {
    const directory = await temporary(t);
    const mounts = await WholeMounts.open(directory);
    const layer = whole(t, [{ name: 'file', size: 5000 }]);
    const path = await mounts.mount(layer.view(1));
    await mounts.unmount(1, { wanted: () => true });
    t.is(mounts.path(1), path);
    await mounts.unmount(1, {
      hidden: async () => {
        t.is(mounts.path(1), undefined);
        t.is((await stat(join(path!, 'file'))).size, 5000, 'whoever was told of it before still finds it');
      },
    });
    await t.throwsAsync(stat(path!), { code: 'ENOENT' }, 'not an empty directory');

    const making = mounts.mount(layer.view(2));
    await mounts[Symbol.asyncDispose]();
    t.is(await making, undefined);
    t.is(await mounts.mount(layer.view(3)), undefined);
    t.deepEqual(await readdir(directory), []);
  },
);

test.serial('a mount that cannot be taken away is told of again, and the others go all the same', async (t) => {
  const directory = await temporary(t);
  const mounts = await WholeMounts.open(directory);
  const layer = whole(t, [{ name: 'file', size: 5000 }]);
  const paths: (string | undefined)[] = [];
  for (const slot of [1, 2, 3]) paths.push(await mounts.mount(layer.view(slot)));
  const { PATH } = process.env;
  const programs = await mkdtemp(join(tmpdir(), 'lazylayer-umount-'));
  t.teardown(() => rm(programs, { recursive: true }));
  writeProgram(join(programs, 'umount'), `case $* in */2) exit 32;; esac; PATH=${PATH} exec umount "$@"`);
  process.env.PATH = programs;
  try {
    await t.throwsAsync(
      mounts.retain(() => false),
      { message: /umount ended with 32/ },
    );
  } finally {
    process.env.PATH = PATH;
  }
  t.deepEqual(
    [1, 2, 3].map((slot) => mounts.path(slot)),
    [undefined, paths[1], undefined],
  );
  t.is(await mounts.mount(layer.view(2)), paths[1], 'none above it');
  t.is((await stat(join(paths[1]!, 'file'))).size, 5000);
  await mounts.unmount(2);
  t.false((await listMounts()).some(({ target }) => target.startsWith(directory)));
});

test.serial('a layer that no image can show stays where it is, and so do its neighbours', async (t) => {
  const mounts = await WholeMounts.open(await temporary(t));
  const odd = whole(t, [{ name: 'file', xattrs: { 'other.namespace': 'x' } }]);
  t.is(await mounts.mount(odd.view(1)), undefined);
  t.is(mounts.path(1), undefined);
  t.not(await mounts.mount(whole(t, [{ name: 'file' }]).view(2)), undefined);
});

test.serial('a cache file that cannot be opened is an error of this layer alone', async (t) => {
  const directory = await temporary(t);
  const mounts = await WholeMounts.open(directory, (error) => t.fail(error.message));
  const layer = whole(t, [{ name: 'file', size: 5000 }]);
  await t.throwsAsync(mounts.mount({ ...layer.view(1), fd: 2 ** 20 }), { code: 'ENOENT' });
  t.deepEqual(await readdir(directory), []);
  t.not(await mounts.mount(layer.view(1)), undefined);
});
