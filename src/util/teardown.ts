/** Work to be done at the end, last in, first out; one failure does not skip the rest. */
export class Teardown implements AsyncDisposable {
  readonly #work: (() => void | Promise<void>)[] = [];

  teardown(work: () => void | Promise<void>): void {
    this.#work.push(work);
  }

  use<T extends AsyncDisposable>(resource: T): T {
    this.teardown(async () => resource[Symbol.asyncDispose]());
    return resource;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const failures: unknown[] = [];
    for (let work = this.#work.pop(); work !== undefined; work = this.#work.pop())
      try {
        await work();
      } catch (error) {
        failures.push(error);
      }
    if (failures.length > 0) throw new AggregateError(failures, `cleanup failed: ${failures.map(String).join('; ')}`);
  }
}
