/** Does one piece of work after the other, in the order in which they come. One that fails keeps none back. */
export class Serial {
  #last: Promise<unknown> = Promise.resolve();

  /** Does the work once all that came before is over; gives what it gives. */
  run<V>(work: () => V | Promise<V>): Promise<V> {
    const turn = this.#last.then(work);
    this.#last = turn.catch(() => {});
    return turn;
  }

  /** Resolves when all that came up to now is over. */
  async flushed(): Promise<void> {
    await this.#last;
  }
}
