import { setImmediate as turn, setTimeout as sleep } from 'node:timers/promises';
import { codeOf, LazylayerError, VerificationError } from '../errors.js';
import { backoffMs } from '../util/backoff.js';
import type { ChunkFetcher } from './chunk-fetcher.js';
import type { ChunkSpan } from './read-ahead.js';
import { BACKGROUND, type Priority } from './scheduler.js';

export interface SweepOptions {
  readonly priority: Priority;
  /** Compressed bytes of one request; some that is soon out of a reader's way by default. */
  readonly rangeBytes?: number;
  readonly signal?: AbortSignal;
  /** Try again after failures of the network until the signal says stop, instead of a few times. */
  readonly patient?: boolean;
  /** False when the cache may not grow any more. */
  readonly hasRoom: () => Promise<boolean>;
}

/** Requests of one sweep in flight: one comes while another is inflated, and a third hides the delay of asking. */
const LANES = 3;
const TRIES = 4;
const BACKOFF = { attempts: TRIES, baseMs: 250, maxMs: 30_000 };

/**
 * Brings every missing chunk of [first, end) to the cache, in blob order, by ranges of moderate size whose leave to start is asked
 * for one by one, so that readers come first.
 * @throws VerificationError when chunks came wrong twice; RESOURCE_EXHAUSTED when disk or limit have no room; the last error of
 * the network when it is given up
 */
export async function sweep(fetcher: ChunkFetcher, span: ChunkSpan, options: SweepOptions): Promise<void> {
  const { presence } = fetcher.target;
  const { signal } = options;
  let tries = 0;
  for (let badPasses = 0; !presence.hasAll(span.first, span.end);) {
    signal?.throwIfAborted();
    const before = presence.count();
    const { failed, error } = await pass(fetcher, span, options);
    signal?.throwIfAborted();
    if (error !== undefined) {
      if (presence.count() > before) tries = 0;
      if (!worthAnotherTry.has(codeOf(error)) || (++tries >= TRIES && options.patient !== true)) throw error as Error;
      await sleep(backoffMs(Math.min(tries, 8), BACKOFF), undefined, { signal, ref: false });
    } else if (failed > 0 && ++badPasses > 1)
      throw new VerificationError(`layer ${fetcher.name}`, 'chunks as its TOC claims', `${failed} others, twice`);
    else await fetcher.ranges.idle(); // what is missing is coming for somebody else, or was given up by him
  }
}

const worthAnotherTry = new Set(['UNAVAILABLE', 'TIMEOUT', 'DATA_LOSS', 'INTERNAL', 'ABORTED', 'UNAUTHENTICATED']);

async function pass(
  fetcher: ChunkFetcher,
  { first, end }: ChunkSpan,
  options: SweepOptions,
): Promise<{ failed: number; error: unknown }> {
  const outcome: { failed: number; error: unknown } = { failed: 0, error: undefined };
  let cursor = first;
  const lane = async () => {
    const { scheduler } = fetcher;
    const size = () => options.rangeBytes ?? scheduler.bulkRange;
    while (outcome.error === undefined) {
      if (options.priority === BACKGROUND) await scheduler.politely(options.signal);
      if (!(await options.hasRoom()))
        throw new LazylayerError('RESOURCE_EXHAUSTED', 'chunk cache: its limit is reached by layers in use');
      const range = fetcher.ranges.next(cursor, end, size());
      if (range === 'more on disk') {
        await turn();
        continue;
      }
      if (range === undefined) {
        cursor = end; // nor is there anything for the other lanes
        return;
      }
      // Leave for what the range takes and no more: a reader would have to wait for memory that is held for nothing.
      const admission = await scheduler.admit(options.priority, () => range.weight, options.signal);
      if (range.first < cursor || !fetcher.ranges.isFree(range)) {
        admission.release(); // others have begun it meanwhile
        continue;
      }
      cursor = range.end;
      const unwritten = fetcher.stats.unwrittenChunks;
      const { failed, error } = await fetcher.ranges.fetch(range, options.priority, admission);
      outcome.failed += failed;
      outcome.error ??= error;
      if (fetcher.stats.unwrittenChunks > unwritten)
        throw new LazylayerError('RESOURCE_EXHAUSTED', 'chunk cache: the disk is full');
    }
  };
  const lanes = await Promise.allSettled(Array.from({ length: LANES }, lane));
  for (const result of lanes) if (result.status === 'rejected') outcome.error ??= result.reason;
  return outcome;
}
