import { spawn, type ChildProcess } from 'node:child_process';
import { connect } from 'node:net';
import type { Readable } from 'node:stream';
import { StringDecoder } from 'node:string_decoder';
import { setTimeout as sleep } from 'node:timers/promises';
import { LazylayerError } from '../../errors.js';
import { realClock } from '../clock.js';
import type { Ready } from './engine.js';

const kept = 64 * 1024;
const askEveryMs = 2;

/** The program in whose foreground the workload runs: its output is the workload's. */
export class Workload {
  readonly #child: ChildProcess;
  readonly #output: Kept;
  readonly #errors: Kept;
  readonly #ended: Promise<string | number | null>;
  #over = false;

  constructor(file: string, args: readonly string[], env: NodeJS.ProcessEnv = process.env) {
    this.#child = spawn(file, args, { env, detached: true, stdio: ['ignore', 'pipe', 'pipe'] });
    this.#output = new Kept(this.#child.stdout!);
    this.#errors = new Kept(this.#child.stderr!);
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
    return this.#output.text;
  }

  get over(): boolean {
    return this.#over;
  }

  /**
   * When it was ready. For `exit` that is when its program ended, which an engine may know better; for `output` with the last that it wrote to
   * either stream, or with its end where it wrote nothing.
   * @throws INTERNAL where it fails, or ends without having been ready
   */
  async ready(ready: Ready, signal: AbortSignal): Promise<number> {
    if (ready.kind === 'exit' || ready.kind === 'output') {
      const status = await Promise.race([this.#ended, aborted(signal)]);
      if (status !== 0) throw this.#failed(status);
      const last = Math.max(this.#output.lastAt, this.#errors.lastAt);
      return ready.kind === 'exit' || last === 0 ? realClock.now() : last;
    }
    const there = ready.kind === 'line' ? this.#line(ready.pattern) : this.#port(ready.port, signal);
    const early = this.#ended.then((status) => {
      throw this.#failed(status);
    });
    return Promise.race([there, early, aborted(signal)]);
  }

  /** Resolves when it has ended. */
  async end(signal: NodeJS.Signals): Promise<void> {
    if (!this.#over) this.#child.kill(signal);
    await this.#ended.catch(() => {});
  }

  #line(pattern: RegExp): Promise<number> {
    return new Promise((resolve) => {
      for (const stream of [this.#output, this.#errors])
        stream.onLines = (lines) => {
          if (lines.some((line) => pattern.test(line))) resolve(stream.lastAt);
        };
    });
  }

  async #port(port: number, signal: AbortSignal): Promise<number> {
    while (!this.#over) {
      signal.throwIfAborted();
      if (await answers(port)) return realClock.now();
      await sleep(askEveryMs);
    }
    return new Promise(() => {}); // the end is told by who waits for it
  }

  #failed(status: string | number | null): LazylayerError {
    const said = (this.#errors.text.trim() || this.output.trim()).slice(-2000);
    return new LazylayerError('INTERNAL', `the workload ended with ${status}${said === '' ? '' : `: ${said}`}`);
  }
}

/** What came of a stream: the end of it, when the last of it came (0: nothing did), and who hears of its lines. */
class Kept {
  text = '';
  lastAt = 0;
  /** Hears of lines as they come; the last one may not be whole yet, and is then told of again. */
  onLines: (lines: readonly string[]) => void = () => {};
  readonly #decoder = new StringDecoder('utf8');
  #line = '';

  constructor(stream: Readable) {
    stream.on('data', (bytes: Buffer) => {
      this.lastAt = realClock.now();
      const text = this.#decoder.write(bytes);
      this.text = (this.text + text).slice(-kept);
      const lines = (this.#line + text).split('\n');
      this.#line = lines.at(-1)!.slice(-kept);
      this.onLines(lines);
    });
  }
}

/**
 * What answers before a workload runs would pass for it.
 * @throws FAILED_PRECONDITION where a port that is to tell of readiness answers already
 */
export async function checkUnready(ready: Ready): Promise<void> {
  if (ready.kind !== 'port' || !(await answers(ready.port))) return;
  throw new LazylayerError(
    'FAILED_PRECONDITION',
    `port ${ready.port}: expected nobody who listens on 127.0.0.1 before the workload runs, found somebody: end that, or use another port`,
  );
}

/** Whether somebody takes connections to a TCP port of this host. */
function answers(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1', () => {
      resolve(true);
      socket.destroy();
    });
    socket.on('error', () => resolve(false));
    socket.setTimeout(1000, () => {
      resolve(false);
      socket.destroy();
    });
  });
}

function aborted(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    const abort = () => reject(signal.reason as Error);
    if (signal.aborted) abort();
    else signal.addEventListener('abort', abort, { once: true });
  });
}
