import { LazylayerError } from '../errors.js';

const names = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/**
 * SIGINT, SIGTERM and SIGHUP as abort signals: the first asks for an orderly end, the second for an end at any price. A command takes those
 * over that it knows what to do at; the others end the process.
 */
export class Interrupts implements Disposable {
  readonly #first = new AbortController();
  readonly #second = new AbortController();
  #firstTaken = false;
  #secondTaken = false;
  readonly #listener = () => {
    const isFirst = !this.#first.signal.aborted;
    if (isFirst ? !this.#firstTaken : !this.#secondTaken) process.exit(130);
    if (isFirst) return this.#first.abort(new LazylayerError('ABORTED', 'interrupted'));
    this.#second.abort(new LazylayerError('ABORTED', 'interrupted again'));
  };

  constructor() {
    for (const name of names) process.on(name, this.#listener);
  }

  /** The first, which whoever asks for this heeds from now on. */
  get signal(): AbortSignal {
    this.#firstTaken = true;
    return this.#first.signal;
  }

  takeSecond(): AbortSignal {
    this.#secondTaken = true;
    return this.#second.signal;
  }

  [Symbol.dispose](): void {
    for (const name of names) process.off(name, this.#listener);
  }
}
