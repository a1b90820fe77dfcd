import { LazylayerError } from '../errors.js';
import { ReadRing } from '../fuse/read-ring.js';
import type { ServedLayers } from '../fuse/served.js';
import type { Layer } from '../layer/layer.js';
import type { RequestProgress, RequestRecord } from '../registry/exchange.js';
import { pathsOf } from '../toc/paths.js';
import { wallClock } from '../util/wall-clock.js';
import type { ReadEvent, Trace, TracedFile, TracedLayer } from './trace-events.js';
import { readsAt, TracedReads, type TracedRead } from './traced-reads.js';
import { TracedRequests } from './traced-requests.js';

/** Reads that the cache answered, other reads, requests, and pieces of answers, each: some 25 MB when all are there. */
const CAPACITY = 64 * 1024;

interface Running {
  readonly begin: number;
  readonly answered: ReadRing;
  readonly reads: TracedReads;
  readonly requests: TracedRequests;
}

/** Remembers, while somebody wants to know, what was read and what was asked of registries: the newest of it. */
export class Tracer {
  #running: Running | undefined;

  /** Hears of every request when it begins, and of each piece of its body. */
  progress(request: RequestProgress, bytes: number): void {
    this.#running?.requests.progress(request, bytes);
  }

  /** Hears of every request that has ended. */
  request(request: RequestRecord): void {
    this.#running?.requests.end(request);
  }

  /** Hears of every read that the FUSE worker did not answer; undefined where nobody wants to know. */
  read(slot: number, inode: number, offset: number, length: number): TracedRead | undefined {
    return this.#running?.reads.begin({ slot, inode, offset, length });
  }

  /**
   * Traces until `ended` resolves, and then gives what there was up to the moment that it resolved to, or up to now. `onBegin` is called
   * once it is on.
   * @throws BUSY where a trace is under way; what `ended` throws
   */
  async record(
    served: ServedLayers,
    ended: Promise<number | undefined>,
    onBegin: (time: number) => void,
  ): Promise<Trace> {
    if (this.#running !== undefined)
      throw new LazylayerError('BUSY', 'this daemon is being traced already: wait until that has ended');
    const running: Running = {
      begin: wallClock(),
      answered: ReadRing.allocate(CAPACITY),
      reads: new TracedReads(CAPACITY),
      requests: new TracedRequests(CAPACITY),
    };
    this.#running = running;
    let end: number;
    let requests: Trace['requests'];
    let seen: ReadEvent[];
    try {
      await served.trace(running.answered);
      onBegin(running.begin);
      end = (await ended) ?? wallClock();
      // Before another turn of the event loop, after which what is under way has gone on.
      requests = running.requests.at(end);
      seen = running.reads.all();
    } finally {
      // In this order, lest another trace that has begun lose its ring.
      await served.trace(undefined).finally(() => (this.#running = undefined));
    }
    const { begin, answered } = running;
    for (const { size: length, ...read } of answered) seen.push({ ...read, length, source: 'cache' });
    const reads = readsAt(end, seen).sort((a, b) => a.end - b.end);
    const dropped = answered.dropped + running.reads.dropped + running.requests.dropped;
    return { begin, end, ...(await namesOf(served, reads)), reads, requests, dropped };
  }
}

/** What was read, by name. Layers that are not served any more are left out. */
async function namesOf(served: ServedLayers, reads: readonly ReadEvent[]): Promise<Pick<Trace, 'layers' | 'files'>> {
  const bySlot = new Map<number, ReadEvent[]>();
  for (const read of reads) {
    const others = bySlot.get(read.slot);
    if (others === undefined) bySlot.set(read.slot, [read]);
    else others.push(read);
  }
  const layers: TracedLayer[] = [];
  const files: TracedFile[] = [];
  for (const [slot, ofSlot] of bySlot) {
    const work = async (layer: Layer) => {
      layers.push({ slot, digest: layer.digest, bytes: layer.size, readBytes: compressedBytes(layer, ofSlot) });
      for (const [inode, path] of pathsOf(layer.tree, new Set(ofSlot.map((read) => read.inode))))
        files.push({ slot, inode, path, bytes: layer.tree.size[inode] });
    };
    await served.using(slot, work).catch(() => {});
  }
  return { layers, files };
}

/** Of the members that hold what was read or was to be read, each once. */
function compressedBytes({ tree }: Layer, reads: readonly ReadEvent[]): number {
  const members = new Map<number, number>();
  for (const { inode, offset, length, failed } of reads) {
    if (failed) continue;
    const { first, end } = tree.chunksOf(inode, offset, length);
    for (let chunk = first; chunk < end; chunk++)
      members.set(tree.chunkOffset[chunk], tree.chunkEnd(chunk) - tree.chunkOffset[chunk]);
  }
  return [...members.values()].reduce((sum, bytes) => sum + bytes, 0);
}
