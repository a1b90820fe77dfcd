import { firstOf } from '../util/events.js';

/** The reader of our output has gone: there is nothing left to do, and nothing to complain about. */
export class OutputClosed extends Error {}

/** Data goes to stdout, everything said to people goes to stderr. */
export class Terminal {
  #closed: Error | undefined;

  constructor(
    readonly out: NodeJS.WriteStream = process.stdout,
    readonly err: NodeJS.WriteStream = process.stderr,
    private readonly env: Readonly<Record<string, string | undefined>> = process.env,
  ) {
    out.on('error', (error: NodeJS.ErrnoException) => {
      this.#closed = error.code === 'EPIPE' ? new OutputClosed() : error;
    });
    err.on('error', () => {}); // nobody is left to be told
  }

  /** Waits while the reader is slow. @throws OutputClosed */
  async write(data: Uint8Array | string): Promise<void> {
    this.#check();
    if (this.out.write(data)) return;
    await firstOf(this.out, 'drain', 'close').catch(() => {});
    this.#check();
  }

  #check(): void {
    if (this.#closed !== undefined) throw this.#closed;
  }

  async json(value: unknown): Promise<void> {
    await this.write(`${JSON.stringify(value, undefined, 2)}\n`);
  }

  /** A line for people. */
  say(text: string): void {
    this.err.write(`${text}\n`);
  }

  warn(text: string): void {
    this.say(`${this.#paint('33', 'lazylayer: warning:')} ${text}`);
  }

  fail(text: string, hint?: string): void {
    this.say(`${this.#paint('31', 'lazylayer:')} ${text}`);
    if (hint !== undefined) this.say(`${this.#paint('2', 'hint:')} ${hint}`);
  }

  /** Whether what is said can be drawn over. */
  get interactive(): boolean {
    return this.err.isTTY && this.env.TERM !== 'dumb';
  }

  #paint(code: string, text: string): string {
    const plain = !this.interactive || (this.env.NO_COLOR ?? '') !== '';
    return plain ? text : `\x1b[${code}m${text}\x1b[0m`;
  }
}
