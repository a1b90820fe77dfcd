import { LazylayerError } from '../errors.js';

const names = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/**
 * SIGINT, SIGTERM and SIGHUP as abort signals: the first asks for an orderly end, the second for an end at any price. A command that knows
 * what to do at the second takes it over; otherwise that one ends the process.
 */
export class Interrupts implements Disposable {
  readonly #first = new AbortController();
  readonly #second = new AbortController();
  #secondTaken = false;
  readonly #listener = () => {
    if (!this.#first.signal.aborted) return this.#first.abort(new LazylayerError('ABORTED', 'interrupted'));
    if (!this.#secondTaken) process.exit(130);
    this.#second.abort(new LazylayerError('ABORTED', 'interrupted again'));
  };

  constructor() {
    for (const name of names) process.on(name, this.#listener);
  }

  get signal(): AbortSignal {
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
