import { spawn, type ChildProcess } from 'node:child_process';
import { connect } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { LazylayerError } from '../../errors.js';
import { realClock } from '../clock.js';
import type { Ready } from './engine.js';

const kept = 64 * 1024;
const askEveryMs = 2;

/** The program in whose foreground the workload runs: its output is the workload's. */
export class Workload {
  readonly #child: ChildProcess;
  #output = '';
  #errors = '';
  #lastOutput = 0;
  readonly #ended: Promise<string | number | null>;
  #over = false;

  constructor(file: string, args: readonly string[], env: NodeJS.ProcessEnv = process.env) {
    this.#child = spawn(file, args, { env, detached: true, stdio: ['ignore', 'pipe', 'pipe'] });
    this.#child.stdout!.on('data', (bytes: Buffer) => {
      this.#lastOutput = realClock.now();
      this.#output = (this.#output + bytes.toString()).slice(-kept);
    });
    this.#child.stderr!.on('data', (bytes: Buffer) => (this.#errors = (this.#errors + bytes.toString()).slice(-kept)));
    this.#ended = new Promise((resolve, reject) => {
      this.#child.once('error', reject);
      this.#child.once('close', (code, signal) => resolve(code ?? signal));
    });
    void this.#ended.then(
      () => (this.#over = true),
      () => (this.#over = true),
    );
  }

  get output(): string {
    return this.#output;
  }

  get over(): boolean {
    return this.#over;
  }

  /**
   * When it was ready. One that is ready when it has ended was so with the last of its output, if it wrote any: what its surroundings
   * take to notice the end is not counted.
   * @throws INTERNAL where it fails, or ends without having been ready
   */
  async ready(ready: Ready, signal: AbortSignal): Promise<number> {
    if (ready.kind === 'exit') {
      const status = await Promise.race([this.#ended, aborted(signal)]);
      if (status !== 0) throw this.#failed(status);
      return this.#lastOutput === 0 ? realClock.now() : this.#lastOutput;
    }
    const there = ready.kind === 'line' ? this.#line(ready.pattern, signal) : this.#port(ready.port, signal);
    const early = this.#ended.then((status) => {
      throw this.#failed(status);
    });
    return Promise.race([there, early]);
  }

  /** Resolves when it has ended. */
  async end(signal: NodeJS.Signals): Promise<void> {
    if (!this.#over) this.#child.kill(signal);
    await this.#ended.catch(() => {});
  }

  async #line(pattern: RegExp, signal: AbortSignal): Promise<number> {
    const found = () => `${this.#output}\n${this.#errors}`.split('\n').some((line) => pattern.test(line));
    const stopped = aborted(signal);
    while (!found()) {
      const more = [this.#child.stdout!, this.#child.stderr!].map(
        (stream) => new Promise((resolve) => stream.once('data', resolve)),
      );
      await Promise.race([...more, this.#ended.catch(() => {}), stopped]);
      if (this.#over && !found()) return new Promise(() => {}); // the end is told by who waits for it
    }
    return realClock.now();
  }

  async #port(port: number, signal: AbortSignal): Promise<number> {
    while (!this.#over) {
      signal.throwIfAborted();
      const answered = await new Promise<boolean>((resolve) => {
        const socket = connect(port, '127.0.0.1', () => resolve(true));
        socket.on('error', () => resolve(false));
        socket.on('close', () => resolve(false));
        setTimeout(() => socket.destroy(), 1000).unref();
      });
      if (answered) return realClock.now();
      await sleep(askEveryMs);
    }
    return new Promise(() => {});
  }

  #failed(status: string | number | null): LazylayerError {
    const said = (this.#errors.trim() || this.#output.trim()).slice(-2000);
    return new LazylayerError('INTERNAL', `the workload ended with ${status}${said === '' ? '' : `: ${said}`}`);
  }
}

function aborted(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    const abort = () => reject(signal.reason as Error);
    if (signal.aborted) abort();
    else signal.addEventListener('abort', abort, { once: true });
  });
}
