import { LazylayerError } from '../errors.js';
import { ReadRing } from '../fuse/read-ring.js';
import type { ServedLayers } from '../fuse/served.js';
import type { ReadSource } from '../layer/chunk-fetcher.js';
import type { Layer } from '../layer/layer.js';
import type { RequestRecord } from '../registry/exchange.js';
import { pathsOf } from '../toc/paths.js';
import { Ring } from '../util/ring.js';
import { wallClock } from '../util/wall-clock.js';
import type { ReadEvent, RequestEvent, Trace, TracedFile, TracedLayer } from './trace-events.js';

/** Reads that the cache answered, other reads, and requests, each: some 20 MB when all are there. */
const CAPACITY = 64 * 1024;

/** A read under way. */
export interface TracedRead {
  source: ReadSource;
  readonly end: (failed: boolean) => void;
}

interface Running {
  readonly begin: number;
  readonly answered: ReadRing;
  readonly reads: Ring<ReadEvent>;
  readonly requests: Ring<RequestEvent>;
}

/** Remembers, while somebody wants to know, what was read and what was asked of registries: the newest of it. */
export class Tracer {
  #running: Running | undefined;

  /** Hears of every request. */
  request({ url, blob, range, reason, status, bytes, ms, headMs }: RequestRecord): void {
    if (this.#running === undefined) return;
    const end = wallClock();
    const firstByte = headMs === undefined ? undefined : end - ms + headMs;
    this.#running.requests.put({ url, blob, range, reason, status, start: end - ms, firstByte, end, bytes });
  }

  /** Hears of every read that the FUSE worker did not answer; undefined where nobody wants to know. */
  read(slot: number, inode: number, offset: number, length: number): TracedRead | undefined {
    const running = this.#running;
    if (running === undefined) return undefined;
    const start = wallClock();
    const read: TracedRead = {
      source: 'cache',
      end: (failed) => {
        const event = { slot, inode, offset, length, start, end: wallClock(), source: read.source };
        running.reads.put(failed ? { ...event, failed } : event);
      },
    };
    return read;
  }

  /**
   * Traces until `until` resolves, and then gives what there was. `onBegin` is called once it is on.
   * @throws BUSY where a trace is under way; what `until` throws
   */
  async record(served: ServedLayers, until: Promise<unknown>, onBegin: (time: number) => void): Promise<Trace> {
    if (this.#running !== undefined)
      throw new LazylayerError('BUSY', 'this daemon is being traced already: wait until that has ended');
    const running: Running = {
      begin: wallClock(),
      answered: ReadRing.allocate(CAPACITY),
      reads: new Ring(CAPACITY),
      requests: new Ring(CAPACITY),
    };
    this.#running = running;
    try {
      await served.trace(running.answered);
      onBegin(running.begin);
      await until;
    } finally {
      this.#running = undefined;
      await served.trace(undefined);
    }
    const end = wallClock();
    const { answered, requests } = running;
    const reads = [...running.reads];
    for (const { size: length, ...read } of answered) reads.push({ ...read, length, source: 'cache' });
    reads.sort((a, b) => a.end - b.end);
    const dropped = answered.dropped + running.reads.dropped + requests.dropped;
    return { begin: running.begin, end, ...(await namesOf(served, reads)), reads, requests: [...requests], dropped };
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

/** Of the members that hold what was read, each once. */
function compressedBytes({ tree }: Layer, reads: readonly ReadEvent[]): number {
  const members = new Map<number, number>();
  for (const { inode, offset, length } of reads) {
    const { first, end } = tree.chunksOf(inode, offset, length);
    for (let chunk = first; chunk < end; chunk++)
      members.set(tree.chunkOffset[chunk], tree.chunkEnd(chunk) - tree.chunkOffset[chunk]);
  }
  return [...members.values()].reduce((sum, bytes) => sum + bytes, 0);
}
