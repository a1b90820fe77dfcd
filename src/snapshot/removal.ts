import { mkdir, readdir, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { codeOf } from '../errors.js';
import { runCommand } from '../util/command.js';

/** As many directories as one run of rm takes. */
const batch = 200;

/** Directories on their way out: out of sight at once, deleted in the background, many with one program. */
export class Removal {
  readonly #trash: string;
  readonly #onFailure: (error: unknown) => void;
  #working: Promise<void> | undefined;
  #more = false;

  private constructor(trash: string, onFailure: (error: unknown) => void) {
    this.#trash = trash;
    this.#onFailure = onFailure;
  }

  /** `trash` is made where it is missing, and lies on the filesystem of what is thrown there; what is in it goes. */
  static async open(trash: string, onFailure: (error: unknown) => void): Promise<Removal> {
    await mkdir(trash, { recursive: true, mode: 0o700 });
    const removal = new Removal(trash, onFailure);
    removal.#start();
    return removal;
  }

  /** Resolves once the directory is out of sight; one that is not there is fine. `name` was never used before. */
  async throwAway(directory: string, name: string): Promise<void> {
    try {
      await rename(directory, join(this.#trash, name));
    } catch (error) {
      if (codeOf(error) !== 'NOT_FOUND') throw error;
    }
    this.#start();
  }

  /** Resolves when all that was thrown away before is gone, or was told to be stuck. */
  async idle(): Promise<void> {
    this.#start();
    await this.#working;
  }

  #start(): void {
    this.#more = true;
    this.#working ??= this.#work().finally(() => (this.#working = undefined));
  }

  async #work(): Promise<void> {
    const stuck = new Set<string>();
    while (this.#more) {
      this.#more = false;
      try {
        const names = (await readdir(this.#trash)).filter((name) => !stuck.has(name));
        for (let from = 0; from < names.length; from += batch) {
          const some = names.slice(from, from + batch);
          for (const name of some) stuck.add(name);
          // A mount that somebody left in there is not ours to empty.
          await runCommand('rm', ['-rf', '--one-file-system', '--', ...some], { cwd: this.#trash });
        }
      } catch (error) {
        this.#onFailure(error);
      }
    }
  }
}
