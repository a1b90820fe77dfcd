import { Worker } from 'node:worker_threads';
import { LazylayerError } from '../errors.js';
import { endOfMember } from '../toc/members.js';
import { ChunkWriter, type Batch, type BatchResult, type ChunkTarget } from './chunk-writer.js';

export type ToWorker =
  | { type: 'attach'; id: number; tree: SharedArrayBuffer; presence: SharedArrayBuffer; fd: number; trusting: boolean }
  | { type: 'detach'; id: number }
  | {
      type: 'batch';
      job: number;
      id: number;
      first: number;
      end: number;
      base: number;
      length: number;
      input: SharedArrayBuffer;
      /** Nobody waits for it. */
      background: boolean;
    };

export interface FromWorker {
  readonly job: number;
  readonly result: BatchResult;
}

interface Job {
  readonly target: ChunkTarget;
  readonly batch: Batch;
  readonly priority: number;
  readonly resolve: (result: BatchResult) => void;
  readonly reject: (error: Error) => void;
}

/** Batches that the worker holds at once: one that it works on, one so that it need not wait for the next. */
const DEPTH = 2;
/** Compressed and uncompressed bytes up to which a batch is done at once in the calling thread: less than a message costs in delay. */
const INLINE_COMPRESSED = 128 * 1024;
const INLINE_BYTES = 1024 * 1024;

/**
 * Inflates, verifies and writes batches: in a worker thread that is started when it is first needed, or, where the caller wants an
 * answer now and the batch is small, at once. The worker takes urgent batches first.
 */
export class Inflater implements AsyncDisposable {
  #worker: Worker | undefined;
  readonly #queues: Job[][] = [[], [], []];
  readonly #running = new Map<number, Job>();
  readonly #ids = new Map<ChunkTarget, number>();
  #nextId = 0;
  #nextJob = 0;
  #inline: ChunkWriter | undefined;
  #closed = false;

  /**
   * @param priority 0 the most urgent; a small batch of priority 0 is done before this returns when `now`
   * @param batch its input must be backed by shared memory from byte 0, and left alone until the promise settles
   */
  async run(target: ChunkTarget, batch: Batch, priority: number, now: boolean): Promise<BatchResult> {
    if (now && batch.input.byteLength <= INLINE_COMPRESSED && isSmall(target, batch))
      return (this.#inline ??= new ChunkWriter(INLINE_BYTES)).write(target, batch);
    if (this.#closed) throw new LazylayerError('ABORTED', 'the fetcher is closed');
    return new Promise((resolve, reject) => {
      this.#queues[priority].push({ target, batch, priority, resolve, reject });
      this.#feed();
    });
  }

  /** So many compressed bytes are asked for, or may be at any time: the worker, where they need it, is up by then, which takes it some tens of milliseconds. */
  prepare(bytes = Infinity): void {
    if (!this.#closed && bytes > INLINE_COMPRESSED) this.#worker ??= this.#start();
  }

  /** Forgets a layer. None of its batches may be under way. */
  detach(target: ChunkTarget): void {
    const id = this.#ids.get(target);
    if (id === undefined) return;
    this.#ids.delete(target);
    this.#post({ type: 'detach', id });
  }

  #feed(): void {
    while (this.#running.size < DEPTH) {
      const job = this.#queues.find((queue) => queue.length > 0)?.shift();
      if (job === undefined) break;
      const worker = (this.#worker ??= this.#start());
      let id = this.#ids.get(job.target);
      if (id === undefined) {
        this.#ids.set(job.target, (id = ++this.#nextId));
        const { tree, presence, fd, trusting } = job.target;
        this.#post({ type: 'attach', id, tree: tree.buffer, presence: presence.buffer, fd, trusting });
      }
      const { first, end, base, input } = job.batch;
      const number = ++this.#nextJob;
      if (this.#running.size === 0) worker.ref();
      this.#running.set(number, job);
      this.#post({
        type: 'batch',
        job: number,
        id,
        first,
        end,
        base,
        length: input.byteLength,
        input: input.buffer as SharedArrayBuffer,
        background: job.priority === this.#queues.length - 1,
      });
    }
  }

  #post(message: ToWorker): void {
    this.#worker?.postMessage(message);
  }

  #start(): Worker {
    const worker = new Worker(new URL('./inflate-worker.js', import.meta.url), {
      resourceLimits: { maxYoungGenerationSizeMb: 4 },
    });
    worker.on('message', ({ job, result }: FromWorker) => {
      const done = this.#running.get(job);
      this.#running.delete(job);
      this.#feed();
      if (this.#running.size === 0) worker.unref();
      done?.resolve(result);
    });
    // A worker that dies takes only its batches with it: the next batch starts another.
    worker.on('error', (error) => this.#lost(worker, error));
    worker.on('exit', () => this.#lost(worker, undefined));
    worker.unref();
    return worker;
  }

  #lost(worker: Worker, cause: unknown): void {
    if (this.#worker !== worker) return;
    this.#worker = undefined;
    this.#ids.clear();
    const jobs = [...this.#running.values()];
    this.#running.clear();
    for (const job of jobs)
      job.reject(new LazylayerError('INTERNAL', 'the inflate worker ended before its work was done', { cause }));
    this.#feed();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    const worker = this.#worker;
    for (const queue of this.#queues)
      for (const job of queue.splice(0)) job.reject(new LazylayerError('ABORTED', 'the fetcher is closed'));
    await worker?.terminate();
  }
}

/** Whether a batch is small in what it writes, and in what it inflates for that: its members may begin with what is in no chunk of it. */
function isSmall({ tree }: ChunkTarget, { first, end }: Batch): boolean {
  const { chunkCache, chunkInner, chunkSize } = tree;
  if (chunkCache[end - 1] + chunkSize[end - 1] - chunkCache[first] > INLINE_BYTES) return false;
  let inflated = 0;
  for (let chunk = first; chunk < end;) {
    chunk = endOfMember(tree, chunk, end);
    inflated += chunkInner[chunk - 1] + chunkSize[chunk - 1];
  }
  return inflated <= INLINE_BYTES;
}
