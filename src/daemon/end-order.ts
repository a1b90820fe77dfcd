/** How often it is tried again to end while files are open, in milliseconds. */
const retryMs = 1000;

/** What came of the try to end an idle daemon. `busy`: try again soon. `needed`: it is not idle any more. */
export type EndTry = 'ended' | 'busy' | 'needed';

/** When a daemon ends: at once when it is told to, else when it is idle and nobody uses what it served. */
export class EndOrder {
  /** Resolves with the reason when the daemon is told to end at once. */
  readonly told: Promise<string>;
  #tell!: (why: string) => void;
  #told: string | undefined;
  #idle = false;
  #wake: () => void = () => {};

  constructor() {
    this.told = new Promise((resolve) => (this.#tell = resolve));
  }

  now(why: string): void {
    this.#told ??= why;
    this.#tell(why);
    this.#wake();
  }

  whenIdle(): void {
    this.#idle = true;
    this.#wake();
  }

  /** Resolves with the reason once the time has come. `tryEnd` is called whenever the daemon may be idle. */
  async given(tryEnd: () => Promise<EndTry>): Promise<string> {
    while (this.#told === undefined) {
      if (!this.#idle) {
        await this.#change();
        continue;
      }
      this.#idle = false;
      const outcome = await tryEnd();
      if (outcome === 'ended') return 'nothing is mounted any more';
      if (outcome === 'needed' || this.#told !== undefined) continue;
      const retry = setTimeout(() => this.whenIdle(), retryMs);
      if (!this.#idle) await this.#change();
      clearTimeout(retry);
    }
    return this.#told;
  }

  #change(): Promise<void> {
    return new Promise((resolve) => (this.#wake = resolve));
  }
}
