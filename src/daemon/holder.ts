import { fork, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { closeSync } from 'node:fs';
import { mkdir, realpath, rm } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import type { Config } from '../config/config.js';
import { codeOf, LazylayerError } from '../errors.js';
import type { Negotiated } from '../fuse/codec.js';
import { openConnection } from '../fuse/mount.js';
import { releaseStale } from '../mount/stale.js';
import { lockRoot, type RootLock } from '../workspace/lock.js';
import { toWire } from './control.js';
import { layoutOf, type Layout } from './layout.js';
import { createLogger, type Logger } from './log.js';
import type { ServeOrder, ServeReport } from './protocol.js';

/** A serving process that dies more often than this many times in a minute is not started again. */
const deathsPerMinute = 5;

/*
 * The serving process moves hundreds of megabytes through short-lived buffers of 64 KiB. Left alone, glibc keeps them in an arena a
 * thread, and V8 lets 16 MiB of objects that hold them pile up before it looks: together some 50 MB that nobody uses. So it looks often,
 * at little, for which threads that help it cost more than they save.
 */
/** The last is for layers that leave memory: see `collectSoon`. */
const heapFlags = ['--max-semi-space-size=1', '--no-parallel-scavenge', '--expose-gc'];
/*
 * undici's HTTP parser is WebAssembly. After two megabytes of bodies V8 would compile it once more, by its optimizing compiler: that takes a
 * processor 100 ms, just while the first image is started, and saves less in gigabytes.
 */
const compilerFlags = ['--wasm-tiering-budget=1000000000'];
/** A process that stays compiles what it loads before it is needed, which takes 40 ms of a first start otherwise, and keeps that. */
const eagerFlags = ['--no-lazy', '--no-flush-bytecode'];
const mallocSettings = { MALLOC_ARENA_MAX: '1', MALLOC_MMAP_THRESHOLD_: '65536', MALLOC_TRIM_THRESHOLD_: '131072' };

interface Serving {
  /** Its status, when it ends. */
  readonly exited: Promise<number>;
}

/**
 * The parent of the serving process. It opens `/dev/fuse`, mounts, and keeps the descriptor, so that the connection outlives a
 * serving process: when one dies, the next goes on with the same mount and readers that were waiting get their bytes. It holds
 * the root's lock, does nothing else, and so has nothing to die of.
 */
export class Holder {
  readonly #layout: Layout;
  readonly #log: Logger;
  #lock: RootLock | undefined;
  #fuse = -1;
  /** For the FUSE connection, by the first process that served it. */
  #negotiated: Negotiated | undefined;
  #deaths: number[] = [];
  #child: ChildProcess | undefined;
  #ending = false;

  /** `persistent`: offers containerd's snapshots too, and does not end when nothing is mounted. */
  constructor(
    private config: Config,
    private readonly persistent: boolean,
  ) {
    this.#layout = layoutOf(config.root);
    this.#log = createLogger(config.log_level, 'holder');
  }

  /** Resolves when the mount answers; `ended` is the exit status of the whole daemon. @throws BUSY where the root has one already */
  async start(): Promise<{ ended: Promise<number> }> {
    const { root, fuse, empty, uppers, mounts } = this.#layout;
    this.#lock = lockRoot(root);
    for (const target of await releaseStale(this.#layout))
      this.#log.warn({ target }, 'took away a mount that a dead daemon had left');
    await this.#findStore();
    for (const dir of [fuse, empty, uppers, mounts]) await mkdir(dir, { recursive: true, mode: 0o700 });
    try {
      if (this.config.fuse.backend === 'kernel')
        this.#fuse = (await openConnection(fuse, { readOnly: !this.#stores })).fd;
      return { ended: this.#supervise(await this.#startServing()) };
    } catch (error) {
      await this.#close(1);
      if (this.#ending) return { ended: Promise.resolve(0) };
      throw error;
    }
  }

  /** Whether there is an additional layer store: its clients make files and remove directories to say what they use. */
  get #stores(): boolean {
    return this.persistent && this.config.store.mount_point !== '';
  }

  /** The mount table knows mount points by their real paths. */
  async #findStore(): Promise<void> {
    if (!this.#stores) return;
    const { store, fuse } = this.config;
    if (fuse.backend !== 'kernel')
      throw new LazylayerError(
        'FAILED_PRECONDITION',
        `[store] mount_point: the layer store needs the backend "kernel", found ${JSON.stringify(fuse.backend)}`,
      );
    try {
      this.config = { ...this.config, store: { ...store, mount_point: await realpath(store.mount_point) } };
    } catch (cause) {
      throw new LazylayerError(
        codeOf(cause),
        `${store.mount_point}: expected a directory to mount the layer store at`,
        {
          cause,
        },
      );
    }
  }

  /** Asks for an orderly end; `ended` tells when it has come. */
  end(): void {
    this.#ending = true;
    this.#child?.kill('SIGTERM');
  }

  /** Resolves when the process serves. @throws ABORTED where the end was asked for before it was started */
  async #startServing(): Promise<Serving> {
    if (this.#ending) throw new LazylayerError('ABORTED', 'told to end while it started');
    const child = fork(fileURLToPath(new URL('serve.js', import.meta.url)), {
      execArgv: [...heapFlags, ...compilerFlags, ...(this.persistent ? eagerFlags : [])],
      env: { ...process.env, ...mallocSettings },
      stdio: ['ignore', 'inherit', 'inherit', 'ipc', this.#lock!.fd, ...(this.#fuse < 0 ? [] : [this.#fuse])],
    });
    this.#child = child;
    const exited = once(child, 'exit').then(([status]) => (status as number | null) ?? 1);
    const ready = new Promise<void>((resolve, reject) => {
      child.on('message', (report: ServeReport) => {
        if (report.kind === 'ready') {
          this.#negotiated = report.negotiated;
          resolve();
        } else reject(new LazylayerError(report.error.code, report.error.message));
      });
      exited.then(
        (status) => reject(new LazylayerError('INTERNAL', `the serving process ended at its start (${status})`)),
        reject,
      );
    });
    const order: ServeOrder = { config: this.config, resume: this.#negotiated, persistent: this.persistent };
    // A process that is gone already cannot be told: its exit says the rest.
    child.send(order, () => {});
    await ready;
    return { exited };
  }

  /** Follows serving processes until one ends on purpose, or they die too often to go on. */
  async #supervise({ exited }: Serving): Promise<number> {
    for (;;) {
      const status = await exited;
      if (status === 0 || this.#ending) return this.#close(status);
      const now = Date.now();
      this.#deaths = [...this.#deaths.filter((at) => now - at < 60_000), now];
      this.#log.error({ status, deaths: this.#deaths.length }, 'the serving process died');
      if (this.#fuse < 0 || this.#deaths.length > deathsPerMinute) return this.#close(1);
      try {
        ({ exited } = await this.#startServing());
        this.#log.info('a new serving process goes on with the mount');
      } catch (error) {
        // Told to end meanwhile: what there is to take away, the holder takes away.
        if (this.#ending) return this.#close(1).then(() => 0);
        this.#log.error({ error: toWire(error) }, 'a new serving process could not start');
        exited = Promise.resolve(1);
      }
    }
  }

  /** After a clean end there is nothing left to take away; after a failure, everything. */
  async #close(status: number): Promise<number> {
    if (this.#fuse >= 0) closeSync(this.#fuse);
    if (status !== 0) await releaseStale(this.#layout);
    await rm(this.#layout.control, { force: true });
    this.#lock?.release();
    return status;
  }
}
