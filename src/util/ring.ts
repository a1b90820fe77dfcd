/** The newest of what is put in, up to a number; what had to make room is counted. */
export class Ring<T> implements Iterable<T> {
  readonly #items: T[] = [];
  #next = 0;
  #dropped = 0;

  constructor(private readonly capacity: number) {}

  get dropped(): number {
    return this.#dropped;
  }

  put(item: T): void {
    if (this.#items.length < this.capacity) {
      this.#items.push(item);
      return;
    }
    this.#items[this.#next] = item;
    this.#next = (this.#next + 1) % this.capacity;
    this.#dropped++;
  }

  /** Oldest first. */
  *[Symbol.iterator](): Generator<T, void, undefined> {
    for (let i = 0; i < this.#items.length; i++) yield this.#items[(this.#next + i) % this.#items.length];
  }
}
