import type { RequestEvent, Trace } from '../../daemon/trace-events.js';
import type { ReadReason } from '../../io/reader.js';
import type { ReadSource } from '../../layer/chunk-fetcher.js';
import type { Machine } from '../report.js';
import type { Moments, Phase } from '../start/engine.js';
import { phasesOf } from '../start/start.js';

/** Times are milliseconds since the start began. */
export interface Span {
  readonly startMs: number;
  readonly endMs: number;
}

/** What was read or asked for. What was still under way when the start was ready ends there. */
export interface ReportedEvent extends Span {
  readonly underWay?: true;
}

export interface ReportedRead extends ReportedEvent {
  /** Index in `files`. */
  readonly file: number;
  readonly offset: number;
  readonly length: number;
  readonly source: ReadSource;
  readonly failed?: true;
}

export interface ReportedRequest
  extends ReportedEvent, Omit<RequestEvent, 'start' | 'firstByte' | 'end' | 'underWay' | 'reason'> {
  readonly firstByteMs: number | undefined;
  /** `other`: for manifest, config or login. */
  readonly reason: ReadReason | 'other';
}

export interface ReportedFile {
  /** In its layer; by numbers where the layer was gone before it could be asked. */
  readonly path: string;
  /** Index in `layers`. */
  readonly layer: number;
  /** Of the whole file. */
  readonly bytes: number | undefined;
  readonly reads: number;
  /** Without reads that failed. */
  readonly readBytes: number;
  /** How long a read of it was under way. */
  readonly waitedMs: number;
  readonly stalls: number;
}

export interface ReportedLayer {
  readonly digest: string;
  /** Of the blob. */
  readonly bytes: number | undefined;
}

/** All of them up to when the start was ready: of answers that were under way the bytes that had come, of reads all that they were for. */
export interface TraceTotals {
  readonly requests: number;
  /** Of the requests, those whose answers had not ended. */
  readonly requestsUnderWay: number;
  readonly fetchedBytes: number;
  readonly reads: number;
  /** Without reads that failed; likewise in `bySource`. */
  readonly readBytes: number;
  /** What had to be fetched of layers at least for what `readBytes` counts: the compressed bytes of its chunks. */
  readonly neededBytes: number;
  /** Fetched by needed bytes; undefined where nothing was read. */
  readonly ratio: number | undefined;
  /** How long a read was under way that the cache had not all of. */
  readonly waitedMs: number;
  readonly bySource: Readonly<Record<ReadSource, { readonly reads: number; readonly bytes: number }>>;
  readonly byReason: Readonly<Record<ReportedRequest['reason'], { readonly requests: number; readonly bytes: number }>>;
}

/** What one cold start read and asked for, up to when it was ready. */
export interface TraceReport {
  readonly image: string;
  readonly command: readonly string[];
  /** As `formatNetwork` writes it; undefined for the network as it is. */
  readonly network: string | undefined;
  readonly engine: string;
  /** ISO 8601. */
  readonly date: string;
  readonly machine: Machine;
  readonly notes: readonly string[];
  readonly phases: Readonly<Record<Phase, number>>;
  readonly totalMs: number;
  /** Reads that took this long or longer are stalls. */
  readonly stallMs: number;
  readonly totals: TraceTotals;
  /** Longest first; as in `reads`. */
  readonly stalls: readonly ReportedRead[];
  readonly layers: readonly ReportedLayer[];
  /** The one that was waited for longest first. */
  readonly files: readonly ReportedFile[];
  /** In the order in which they began. */
  readonly reads: readonly ReportedRead[];
  readonly requests: readonly ReportedRequest[];
  /** Reads and requests, the oldest, that there was no room for. */
  readonly dropped: number;
}

export type TraceFacts = Pick<TraceReport, 'image' | 'command' | 'network' | 'engine' | 'date' | 'machine' | 'notes'>;

export const sources = ['network', 'shared', 'prefetch', 'cache'] as const satisfies readonly ReadSource[];
export const reasons = ['toc', 'demand', 'prefetch', 'background', 'whole', 'other'] as const;

/** Puts together what a start was like from what its daemon remembered until it was ready. */
export function traceReport(trace: Trace, moments: Moments, stallMs: number, facts: TraceFacts): TraceReport {
  const { begin, ready } = moments;
  const spanOf = ({ start, end, underWay }: Pick<RequestEvent, 'start' | 'end' | 'underWay'>): ReportedEvent => ({
    startMs: start - begin,
    endMs: end - begin,
    ...(underWay && { underWay }),
  });
  const seen = [...trace.reads].sort((a, b) => a.start - b.start);
  const layers = new Map<number, ReportedLayer>();
  const files = new Map<string, { file: Pick<ReportedFile, 'path' | 'bytes'>; slot: number; reads: number[] }>();
  const named = new Map(trace.files.map((file) => [`${file.slot}:${file.inode}`, file]));
  for (const [i, { slot, inode }] of seen.entries()) {
    const key = `${slot}:${inode}`;
    const layer = trace.layers.find((one) => one.slot === slot);
    layers.set(slot, { digest: layer?.digest ?? `slot ${slot}`, bytes: layer?.bytes });
    const entry = files.get(key);
    if (entry === undefined) files.set(key, { slot, reads: [i], file: fileOf(named.get(key), inode) });
    else entry.reads.push(i);
  }
  const stalled = ({ start, end }: { readonly start: number; readonly end: number }) => end - start >= stallMs;
  const slots = [...layers.keys()];
  const ranked = [...files.values()]
    .map(({ file, slot, reads }) => {
      const own = reads.map((i) => seen[i]);
      const numbers = {
        reads: own.length,
        readBytes: lengthOf(own),
        waitedMs: unionMs(own),
        stalls: own.filter(stalled).length,
      };
      return { file: { ...file, layer: slots.indexOf(slot), ...numbers }, reads };
    })
    .sort((a, b) => b.file.waitedMs - a.file.waitedMs);
  const fileOfRead = new Map(ranked.flatMap(({ reads }, file) => reads.map((i) => [i, file] as const)));
  const reads = seen.map((event, i): ReportedRead => {
    const { offset, length, source, failed } = event;
    return { file: fileOfRead.get(i)!, offset, length, source, ...spanOf(event), ...(failed && { failed }) };
  });
  const requests = trace.requests.map(({ reason, firstByte, start, end, underWay, ...request }): ReportedRequest => ({
    ...request,
    ...spanOf({ start, end, underWay }),
    firstByteMs: firstByte === undefined ? undefined : firstByte - begin,
    reason: reason ?? 'other',
  }));
  return {
    ...facts,
    phases: phasesOf(moments),
    totalMs: ready - begin,
    stallMs,
    totals: totalsOf(trace, reads, requests, unionMs(seen.filter(({ source }) => source !== 'cache'))),
    stalls: reads
      .filter(({ startMs, endMs }) => endMs - startMs >= stallMs)
      .sort((a, b) => b.endMs - b.startMs - (a.endMs - a.startMs)),
    layers: [...layers.values()],
    files: ranked.map(({ file }) => file),
    reads,
    requests,
    dropped: trace.dropped,
  };
}

function fileOf(named: Trace['files'][number] | undefined, inode: number) {
  return { path: named?.path ?? `inode ${inode}`, bytes: named?.bytes };
}

const sum = (numbers: readonly number[]) => numbers.reduce((all, one) => all + one, 0);

/** Of what failed, nothing was read. */
const lengthOf = (reads: readonly Pick<ReportedRead, 'length' | 'failed'>[]) =>
  sum(reads.map(({ length, failed }) => (failed ? 0 : length)));

/** How long at least one of them was under way. */
export function unionMs(spans: readonly { readonly start: number; readonly end: number }[]): number {
  let sum = 0;
  let covered = -Infinity;
  for (const { start, end } of [...spans].sort((a, b) => a.start - b.start)) {
    if (end <= covered) continue;
    sum += end - Math.max(start, covered);
    covered = end;
  }
  return sum;
}

function totalsOf(
  trace: Trace,
  reads: readonly ReportedRead[],
  requests: readonly ReportedRequest[],
  waitedMs: number,
): TraceTotals {
  const bytesOf = (some: readonly ReportedRequest[]) => sum(some.map(({ bytes }) => bytes));
  const neededBytes = sum(trace.layers.map(({ readBytes }) => readBytes));
  const fetchedBytes = bytesOf(requests);
  const bySource = sources.map((source) => {
    const some = reads.filter((read) => read.source === source);
    return [source, { reads: some.length, bytes: lengthOf(some) }] as const;
  });
  const byReason = reasons.map((reason) => {
    const some = requests.filter((request) => request.reason === reason);
    return [reason, { requests: some.length, bytes: bytesOf(some) }] as const;
  });
  return {
    requests: requests.length,
    requestsUnderWay: requests.filter(({ underWay }) => underWay).length,
    fetchedBytes,
    reads: reads.length,
    readBytes: lengthOf(reads),
    neededBytes,
    ratio: neededBytes === 0 ? undefined : fetchedBytes / neededBytes,
    waitedMs,
    bySource: Object.fromEntries(bySource) as TraceTotals['bySource'],
    byReason: Object.fromEntries(byReason) as TraceTotals['byReason'],
  };
}
