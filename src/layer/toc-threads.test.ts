import { Worker } from 'node:worker_threads';
import test, { type ExecutionContext } from 'ava';
import { digestOf } from '../digest/digester.js';
import { FormatError, VerificationError } from '../errors.js';
import { buildTree, readEstargzTree, type FetchedToc } from '../estargz/open.js';
import { treeFromToc } from '../estargz/toc.js';
import { buildLayer } from '../testing/image.js';
import { BufferReader } from '../io/readers.js';
import { annotationTocDigest } from '../estargz/annotations.js';
import { S_IFMT } from '../toc/tree.js';
import { sampleToc } from './toc-sample.js';
import { TocThreads } from './toc-threads.js';

/** A TOC as it is fetched, too large to be read at once. */
async function fetched(seed: number): Promise<FetchedToc> {
  const files = Array.from({ length: 900 }, (_, i) => ({
    path: `d${i % 9}/${digestOf(`${seed} ${i}`)}`,
    content: 'x',
  }));
  const { bytes, descriptor } = await buildLayer({ files, writer: { level: 1 } });
  let found: FetchedToc | undefined;
  await readEstargzTree(new BufferReader(bytes), { tocDigest: annotationTocDigest(descriptor.annotations) }, (toc) =>
    buildTree((found = toc)),
  );
  return found!;
}

async function until(condition: () => boolean): Promise<void> {
  for (let i = 0; i < 2000; i++) {
    if (condition()) return;
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  throw new Error('it never came to pass');
}

/** The next thread that is sent anything dies of it. */
function killNext(t: ExecutionContext): void {
  const sound = Object.getOwnPropertyDescriptor(Worker.prototype, 'postMessage')!;
  const mend = () => void Object.defineProperty(Worker.prototype, 'postMessage', sound);
  t.teardown(mend);
  Worker.prototype.postMessage = function () {
    mend();
    void this.terminate();
  };
}

test.serial('a thread that dies takes only its own TOC with it', async (t) => {
  await using threads = new TocThreads({ threads: 1 });
  const toc = await fetched(1);
  killNext(t);
  const lost = t.throwsAsync(threads.tree(toc), { code: 'INTERNAL', message: /ended before its work was done/ });
  const next = threads.tree(toc);
  await lost;
  t.is((await next).counts.inodes, 910);
});

test('a thread makes the same tree, of many at once each its own, and leaves the bytes alone', async (t) => {
  await using threads = new TocThreads({ threads: 2 });
  const tocs = await Promise.all([1, 2, 3].map(fetched));
  const trees = await Promise.all([...tocs, tocs[0]].map((toc) => threads.tree(toc)));
  for (const [i, tree] of trees.entries())
    t.true(Buffer.from(tree.buffer).equals(Buffer.from(buildTree(tocs[i % 3]).buffer)));
  t.is(threads.running, 2);
});

test('a small TOC needs no thread', async (t) => {
  await using threads = new TocThreads();
  const { bytes, descriptor } = await buildLayer({ files: [{ path: 'a', content: 'A' }] });
  const options = { tocDigest: annotationTocDigest(descriptor.annotations) };
  const { tree } = await readEstargzTree(new BufferReader(bytes), options, (toc) => threads.tree(toc));
  t.is(tree.counts.inodes, 2);
  t.is(threads.running, 0);
});

test('what is wrong with a TOC is told as it is without threads', async (t) => {
  await using threads = new TocThreads({ threads: 1 });
  const good = await fetched(1);
  const compressed = Buffer.from(good.compressed);
  const cases: [FetchedToc, unknown][] = [
    [{ ...good, tocDigest: digestOf('other') }, VerificationError],
    [{ ...good, compressed: compressed.subarray(0, -100) }, FormatError],
    [{ ...good, contentEnd: 10 }, FormatError],
  ];
  for (const [toc, kind] of cases) {
    const expected = t.throws(() => buildTree(toc), { instanceOf: kind as typeof FormatError });
    await t.throwsAsync(threads.tree(toc), { instanceOf: kind as typeof FormatError, message: expected.message });
  }
  t.is((await threads.tree(good)).counts.inodes, 910);
});

test('threads are there when they are expected, and end when there was nothing to do for a while', async (t) => {
  await using threads = new TocThreads({ threads: 2, idleMs: 30 });
  threads.warm(1);
  t.is(threads.running, 1);
  threads.warm(9);
  t.is(threads.running, 2);
  await until(() => threads.running === 0);
  t.is((await threads.tree(await fetched(1))).counts.inodes, 910);
  await until(() => threads.running === 0);
});

test('a thread that stands by is there from the start, and stays', async (t) => {
  await using threads = new TocThreads({ threads: 2, standby: 1, idleMs: 1 });
  t.is(threads.running, 1);
  threads.warm(2);
  t.is(threads.running, 2);
  await until(() => threads.running === 1);
  t.is((await threads.tree(await fetched(1))).counts.inodes, 910);
  await new Promise((resolve) => setTimeout(resolve, 50));
  t.is(threads.running, 1);
});

test.serial('a thread that stood by and died of a TOC is replaced', async (t) => {
  await using threads = new TocThreads({ threads: 1, standby: 1 });
  const toc = await fetched(1);
  killNext(t);
  await t.throwsAsync(threads.tree(toc), { code: 'INTERNAL' });
  t.is(threads.running, 1);
  t.is((await threads.tree(toc)).counts.inodes, 910);
});

test('who waits for a tree when the store is closed is told', async (t) => {
  const threads = new TocThreads({ threads: 1 });
  const toc = await fetched(1);
  const waiting = [threads.tree(toc), threads.tree(toc)].map((tree) => t.throwsAsync(tree, { code: 'ABORTED' }));
  await threads[Symbol.asyncDispose]();
  await Promise.all(waiting);
  await t.throwsAsync(threads.tree(toc), { code: 'ABORTED' });
});

test('the sample is a TOC with every kind of entry', (t) => {
  const { json, facts } = sampleToc();
  const tree = treeFromToc(json, facts);
  const types = new Set(Array.from(tree.mode, (mode) => mode & S_IFMT));
  t.is(types.size, 4);
  t.true(tree.nlink.some((n, inode) => n > 1 && tree.isRegular(inode)));
  t.true(tree.xattr.some((word) => word > 0));
  t.true(tree.counts.chunks > 1024, 'its chunks outgrow what a builder begins with');
});
