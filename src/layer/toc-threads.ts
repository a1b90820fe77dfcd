import { availableParallelism } from 'node:os';
import { Worker } from 'node:worker_threads';
import { FormatError, LazylayerError } from '../errors.js';
import { buildTree, type OpenedToc } from '../estargz/open.js';
import { Tree } from '../toc/tree.js';

/** What a thread answers: the tree's memory, or what is wrong with the TOC, as an error would lose its class on the way. */
export type TocAnswer = { readonly tree: SharedArrayBuffer } | Pick<FormatError, 'what' | 'problem'>;

interface Job {
  readonly toc: OpenedToc;
  readonly resolve: (tree: Tree) => void;
  readonly reject: (error: unknown) => void;
}

export interface TocThreadsOptions {
  /** At most; by default one less than there are processors, but 1 to 3. */
  readonly threads?: number;
  /** Of these, so many stand by all the time; by default none. */
  readonly standby?: number;
  /** How long the others wait for another TOC before they end, in milliseconds; 2000 by default. */
  readonly idleMs?: number;
}

/** So many times longer threads wait for their first TOC: the network is still being waited for. */
const WARM_TIMES = 30;
const defaultThreads = Math.max(1, Math.min(3, availableParallelism() - 1));
/** What a thread has for new objects: with the little that this process has elsewhere, collecting them takes half as long as reading a TOC. */
const YOUNG_MIB = 12;
/** Bytes of a TOC's JSON up to which its tree is made at once: some 300 entries, which take less than a message and a wait. */
const INLINE_BYTES = 128 * 1024;

/**
 * Makes trees of TOCs in threads of its own, so that an image's layers are ready side by side and nothing else waits for them. A thread
 * that stands by has run its code already; others are started by `warm`, while the network is waited for, or by the first TOC, and end
 * when there has been none for a while.
 */
export class TocThreads implements AsyncDisposable {
  /** With the work that each has in hand. */
  readonly #threads = new Map<Worker, Job | undefined>();
  readonly #waiting: Job[] = [];
  readonly #limit: number;
  readonly #standby: number;
  readonly #idleMs: number;
  #timer: NodeJS.Timeout | undefined;
  #closed = false;

  constructor({ threads = defaultThreads, standby = 0, idleMs = 2_000 }: TocThreadsOptions = {}) {
    this.#limit = threads;
    this.#standby = Math.min(standby, threads);
    this.#idleMs = idleMs;
    while (this.#threads.size < this.#standby) this.#start();
  }

  /** How many threads there are now. */
  get running(): number {
    return this.#threads.size;
  }

  /** Has as many threads stand by as so many TOCs may want. */
  warm(tocs: number): void {
    while (!this.#closed && this.#threads.size < Math.min(tocs, this.#limit)) this.#start();
    this.#rest(WARM_TIMES * this.#idleMs);
  }

  /**
   * Takes the TOC's bytes away, as they go to the thread.
   * @throws what `buildTree` throws; INTERNAL where the thread ended before its work was done; ABORTED once closed
   */
  async tree(toc: OpenedToc): Promise<Tree> {
    if (toc.json.byteLength <= INLINE_BYTES) return buildTree(toc);
    if (this.#closed) throw new LazylayerError('ABORTED', 'the layer store is closed');
    return new Promise((resolve, reject) => {
      this.#waiting.push({ toc, resolve, reject });
      this.#feed();
    });
  }

  #feed(): void {
    while (this.#waiting.length > 0) {
      const free = this.#free();
      if (free === undefined) return;
      const job = this.#waiting.shift()!;
      this.#threads.set(free, job);
      free.ref();
      free.postMessage(job.toc, [job.toc.json.buffer as ArrayBuffer]);
    }
  }

  #free(): Worker | undefined {
    for (const [thread, job] of this.#threads) if (job === undefined) return thread;
    return this.#threads.size < this.#limit ? this.#start() : undefined;
  }

  #start(): Worker {
    const thread = new Worker(new URL('./toc-thread.js', import.meta.url), {
      resourceLimits: { maxYoungGenerationSizeMb: YOUNG_MIB },
    });
    this.#threads.set(thread, undefined);
    thread.on('message', (answer: TocAnswer) => this.#answered(thread, answer));
    // One that dies takes only its own TOC with it: the next one starts another.
    thread.on('error', (error) => this.#lost(thread, error));
    thread.on('exit', () => this.#lost(thread, undefined));
    thread.unref();
    return thread;
  }

  #answered(thread: Worker, answer: TocAnswer): void {
    const job = this.#threads.get(thread);
    this.#threads.set(thread, undefined);
    thread.unref();
    this.#feed();
    this.#rest();
    if ('tree' in answer) job?.resolve(Tree.over(answer.tree));
    else job?.reject(new FormatError(answer.what, answer.problem));
  }

  #lost(thread: Worker, cause: unknown): void {
    const job = this.#threads.get(thread);
    if (!this.#threads.delete(thread)) return;
    // One that died of a TOC is replaced; one that could not even begin would be so for ever.
    if (job !== undefined) while (!this.#closed && this.#threads.size < this.#standby) this.#start();
    job?.reject(
      this.#closed
        ? new LazylayerError('ABORTED', 'the layer store is closed')
        : new LazylayerError('INTERNAL', 'the thread that read the TOC ended before its work was done', { cause }),
    );
    this.#feed();
  }

  /** Ends the threads if nobody wants them for a while: the youngest, as the others have compiled more of what they run. */
  #rest(idleMs = this.#idleMs): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      for (const [thread, job] of [...this.#threads].reverse())
        if (job === undefined && this.#threads.size > this.#standby) {
          this.#threads.delete(thread);
          void thread.terminate();
        }
    }, idleMs).unref();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#timer);
    for (const { reject } of this.#waiting.splice(0))
      reject(new LazylayerError('ABORTED', 'the layer store is closed'));
    await Promise.all([...this.#threads.keys()].map((thread) => thread.terminate()));
  }
}
