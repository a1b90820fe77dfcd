import { mkdir, readdir, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { codeOf } from '../errors.js';
import { runCommand } from '../util/command.js';

/** As many directories as one run of rm takes. */
const batch = 200;
/** Removals come in bursts, and starting a program costs more than they do: one that follows so soon goes with the first. */
const delayMs = 200;

/** Directories on their way out: out of sight at once, deleted in the background, many with one program. */
export class Removal {
  readonly #trash: string;
  readonly #onFailure: (error: unknown) => void;
  #timer: NodeJS.Timeout | undefined;
  #working: Promise<void> | undefined;
  #more = false;
  #closed = false;

  private constructor(trash: string, onFailure: (error: unknown) => void) {
    this.#trash = trash;
    this.#onFailure = onFailure;
  }

  /** `trash` is made where it is missing, and lies on the filesystem of what is thrown there; what is in it goes. */
  static async open(trash: string, onFailure: (error: unknown) => void): Promise<Removal> {
    await mkdir(trash, { recursive: true, mode: 0o700 });
    const removal = new Removal(trash, onFailure);
    removal.#startSoon();
    return removal;
  }

  /** Resolves once the directory is out of sight; one that is not there is fine. `name` was never used before. */
  async throwAway(directory: string, name: string): Promise<void> {
    try {
      await rename(directory, join(this.#trash, name));
    } catch (error) {
      if (codeOf(error) !== 'NOT_FOUND') throw error;
    }
    this.#startSoon();
  }

  /** Resolves when all that was thrown away before is gone, or was told to be stuck. */
  async idle(): Promise<void> {
    this.#start();
    await this.#working;
  }

  /** Begins nothing more; what is left goes after the next opening. */
  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#timer);
    await this.#working;
  }

  #startSoon(): void {
    this.#timer ??= setTimeout(() => this.#start(), delayMs).unref();
  }

  #start(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#more = true;
    this.#working ??= this.#work();
  }

  async #work(): Promise<void> {
    const stuck = new Set<string>();
    while (this.#more && !this.#closed) {
      this.#more = false;
      const names = await readdir(this.#trash).catch((error: unknown) => {
        this.#onFailure(error);
        return [];
      });
      const left = names.filter((name) => !stuck.has(name));
      for (let from = 0; from < left.length && !this.#closed; from += batch) {
        const some = left.slice(from, from + batch);
        for (const name of some) stuck.add(name);
        // A mount that somebody left in there is not ours to empty.
        const rm = runCommand('rm', ['-rf', '--one-file-system', '--', ...some], { cwd: this.#trash });
        await rm.catch((error: unknown) => this.#onFailure(error));
      }
    }
    this.#working = undefined;
  }
}
