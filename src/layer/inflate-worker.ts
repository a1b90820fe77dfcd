import { parentPort } from 'node:worker_threads';
import { Presence } from '../cache/presence.js';
import { Tree } from '../toc/tree.js';
import { ThreadNice } from '../util/thread-nice.js';
import { ChunkWriter, type ChunkTarget } from './chunk-writer.js';
import type { FromWorker, ToWorker } from './inflater.js';

/** Output of one pwrite: the default chunk and room beside it. */
const SCRATCH_BYTES = 4 * 1024 * 1024 + 64 * 1024;

const port = parentPort!;
const writer = new ChunkWriter(SCRATCH_BYTES);
const targets = new Map<number, ChunkTarget>();

const nice = new ThreadNice();
/** Work that nobody waits for leaves the processor to whoever reads what is there. */
const BACKGROUND_NICE = 10;

port.on('message', (message: ToWorker) => {
  switch (message.type) {
    case 'attach': {
      const { id, tree, presence, fd, trusting } = message;
      targets.set(id, { tree: Tree.over(tree), presence: new Presence(presence), fd, trusting });
      return;
    }
    case 'detach':
      targets.delete(message.id);
      return;
    case 'batch': {
      const { job, first, end, base, length } = message;
      nice.set(message.background ? BACKGROUND_NICE : 0);
      const input = new Uint8Array(message.input, 0, length);
      const result = writer.write(targets.get(message.id)!, { first, end, base, input });
      const answer: FromWorker = { job, result };
      port.postMessage(
        answer,
        result.unwritten.map((u) => u.bytes.buffer),
      );
    }
  }
});
