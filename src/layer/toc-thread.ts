import { setImmediate as turn } from 'node:timers/promises';
import { parentPort } from 'node:worker_threads';
import { FormatError } from '../errors.js';
import { buildTree, type OpenedToc } from '../estargz/open.js';
import { treeFromToc } from '../estargz/toc.js';
import type { TocAnswer } from './toc-threads.js';
import { sampleToc } from './toc-sample.js';

/** Rounds over the sample after which V8 has compiled what reads a TOC. */
const ROUNDS = 16;

const port = parentPort!;
let asked = false;

port.on('message', (toc: OpenedToc) => {
  asked = true;
  try {
    port.postMessage({ tree: buildTree(toc).buffer } satisfies TocAnswer);
  } catch (error) {
    if (!(error instanceof FormatError)) throw error;
    const { what, problem } = error;
    port.postMessage({ what, problem } satisfies TocAnswer);
  }
});

// A TOC is read once, by code that was never run before, and that takes three times as long. So it is run now, while the network is
// waited for, on a TOC that is made up; the first real one ends that.
const { json, facts } = sampleToc();
for (let round = 0; round < ROUNDS && !asked; round++) {
  treeFromToc(json, facts);
  await turn();
}
