import { write } from 'node:fs';

/** A name that is gone from a directory of the upper tree. */
interface Gone {
  readonly directory: number;
  readonly message: Uint8Array;
}

export interface EntryInvalidationsOptions {
  readonly fd: number;
  /** Whether a request waits for its answer while the kernel has the directory locked. */
  readonly locked: (directory: number) => boolean;
  readonly onError: (error: NodeJS.ErrnoException) => void;
}

/**
 * Has the kernel forget names and all that it keeps below them: else the nodes of a layer that is gone stay in its memory until it
 * runs short of that.
 *
 * The kernel locks the directory for it, and the write does not return before it has the lock. A request that waits holds that lock,
 * and the thread that would answer it must not be the one that waits for the lock: so libuv's threads write, one message at a time, and
 * none while a request is known to wait in the same directory.
 */
export class EntryInvalidations {
  readonly #options: EntryInvalidationsOptions;
  #queue: Gone[] = [];
  #writing: Promise<void> | undefined;

  constructor(options: EntryInvalidationsOptions) {
    this.#options = options;
  }

  add(directory: number, message: Uint8Array): void {
    this.#queue.push({ directory, message });
    this.next();
  }

  /** Goes on with what can be told; to be called when a request was answered that had waited. */
  next(): void {
    if (this.#writing !== undefined) return;
    const at = this.#queue.findIndex(({ directory }) => !this.#options.locked(directory));
    if (at < 0) return;
    const [{ message }] = this.#queue.splice(at, 1);
    this.#writing = this.#write(message).finally(() => {
      this.#writing = undefined;
      this.next();
    });
  }

  /** Tells nothing more. Resolves once nothing is being written: all requests that wait must have been answered. */
  async close(): Promise<void> {
    this.#queue = [];
    await this.#writing;
  }

  #write(message: Uint8Array): Promise<void> {
    const { fd, onError } = this.#options;
    return new Promise((resolve) =>
      write(fd, message, (error) => {
        if (error !== null && !unknown.has(error.code ?? '')) onError(error);
        resolve();
      }),
    );
  }
}

/** The kernel does not know the name, or nothing any more. */
const unknown = new Set(['ENOENT', 'ENOTDIR', 'ENODEV', 'ECONNABORTED', 'ENOTCONN']);
