import { Worker } from 'node:worker_threads';
import test, { type ExecutionContext } from 'ava';
import { digestOf } from '../digest/digester.js';
import { FormatError } from '../errors.js';
import { buildTree, openToc, readEstargzTree, type OpenedToc } from '../estargz/open.js';
import { treeFromToc } from '../estargz/toc.js';
import { buildLayer } from '../testing/image.js';
import { BufferReader } from '../io/readers.js';
import { annotationTocDigest } from '../estargz/annotations.js';
import { S_IFMT } from '../toc/tree.js';
import { sampleToc } from './toc-sample.js';
import { TocThreads } from './toc-threads.js';
import { until } from '../testing/until.js';

/** A TOC as it is opened, too large to be read at once. */
async function opened(seed: number): Promise<OpenedToc> {
  const files = Array.from({ length: 900 }, (_, i) => ({
    path: `d${i % 9}/${digestOf(`${seed} ${i}`)}`,
    content: 'x',
  }));
  const { bytes, descriptor } = await buildLayer({ files, writer: { level: 1 } });
  return openToc(new BufferReader(bytes), { tocDigest: annotationTocDigest(descriptor.annotations) });
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
  const [toc, after] = await Promise.all([opened(1), opened(1)]);
  killNext(t);
  const lost = t.throwsAsync(threads.tree(toc), { code: 'INTERNAL', message: /ended before its work was done/ });
  const next = threads.tree(after);
  await lost;
  t.is((await next).counts.inodes, 910);
});

test('a thread makes the same tree, of many at once each its own', async (t) => {
  await using threads = new TocThreads({ threads: 2 });
  const tocs = await Promise.all([1, 2, 3, 1].map(opened));
  const expected = tocs.map((toc) => Buffer.from(buildTree(toc).buffer));
  const trees = await Promise.all(tocs.map((toc) => threads.tree(toc)));
  for (const [i, tree] of trees.entries()) t.true(Buffer.from(tree.buffer).equals(expected[i]));
  t.is(tocs[0].json.byteLength, 0, 'the bytes are not copied');
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
  const good = await opened(1);
  const json = () => Uint8Array.from(good.json);
  for (const toc of [
    { ...good, json: json().subarray(0, -100) },
    { ...good, json: json(), contentEnd: 10 },
  ]) {
    const expected = t.throws(() => buildTree(toc), { instanceOf: FormatError });
    const error = await t.throwsAsync(threads.tree(toc), { instanceOf: FormatError, message: expected.message });
    t.is(error.offset, expected.offset);
    t.notRegex(error.stack!, /buildTree/, 'it is not read a second time, here');
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
  t.is((await threads.tree(await opened(1))).counts.inodes, 910);
  await until(() => threads.running === 0);
});

test('a thread that stands by is there from the start, and stays', async (t) => {
  await using threads = new TocThreads({ threads: 2, standby: 1, idleMs: 1 });
  t.is(threads.running, 1);
  threads.warm(2);
  t.is(threads.running, 2);
  await until(() => threads.running === 1);
  t.is((await threads.tree(await opened(1))).counts.inodes, 910);
  await new Promise((resolve) => setTimeout(resolve, 50));
  t.is(threads.running, 1);
});

test.serial('a thread that stood by and died of a TOC is replaced', async (t) => {
  await using threads = new TocThreads({ threads: 1, standby: 1 });
  const [toc, after] = await Promise.all([opened(1), opened(1)]);
  killNext(t);
  await t.throwsAsync(threads.tree(toc), { code: 'INTERNAL' });
  t.is(threads.running, 1);
  t.is((await threads.tree(after)).counts.inodes, 910);
});

test('who waits for a tree when the store is closed is told', async (t) => {
  const threads = new TocThreads({ threads: 1 });
  const [late, ...tocs] = await Promise.all([1, 1, 1].map(opened));
  const waiting = tocs.map((toc) => t.throwsAsync(threads.tree(toc), { code: 'ABORTED' }));
  await threads[Symbol.asyncDispose]();
  await Promise.all(waiting);
  await t.throwsAsync(threads.tree(late), { code: 'ABORTED' });
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
