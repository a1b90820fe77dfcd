import { spawn, type ChildProcess } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { LazylayerError } from '../errors.js';
import { runCommand, type CommandOptions } from '../util/command.js';

/** Which Debian package brings a program. */
const packages: Readonly<Record<string, string>> = {
  bash: 'bash',
  chroot: 'coreutils',
  conmon: 'conmon',
  containerd: 'containerd',
  'containerd-shim-runc-v2': 'containerd',
  ctr: 'containerd',
  'ctr-remote': 'stargz-snapshotter',
  find: 'findutils',
  podman: 'podman',
  runc: 'runc',
  tar: 'tar',
  unshare: 'util-linux',
};

/** Where a program is. @throws FAILED_PRECONDITION that names every missing one and the package that brings it */
export function requirePrograms(...programs: readonly string[]): void {
  const missing = programs.filter((program) => findProgram(program) === undefined);
  if (missing.length === 0) return;
  const wanted = [...new Set(missing.map((program) => packages[program] ?? program))];
  throw new LazylayerError(
    'FAILED_PRECONDITION',
    `not installed: ${missing.join(', ')}. On Debian: apt-get install ${wanted.join(' ')}`,
  );
}

export function findProgram(program: string): string | undefined {
  const path = process.env.PATH ?? '/usr/sbin:/usr/bin:/sbin:/bin';
  return path
    .split(delimiter)
    .map((directory) => join(directory, program))
    .find((file) => {
      try {
        accessSync(file, constants.X_OK);
        return true;
      } catch {
        return false;
      }
    });
}

/** Brings programs to memory, where they are on a machine that starts containers all the time. */
export async function readPrograms(...programs: readonly string[]): Promise<void> {
  for (const program of programs) {
    const path = findProgram(program);
    if (path !== undefined) await readFile(path);
  }
}

/**
 * Runs a pipeline to its end; `args` are its `$0`, `$1`, …. Each of its programs counts, which takes bash: to a POSIX shell, one that
 * breaks off at its first error is a fast success.
 * @throws as `runCommand`
 */
export async function runPipeline(script: string, args: readonly string[], options?: CommandOptions): Promise<string> {
  return runCommand('bash', ['-o', 'pipefail', '-c', script, ...args], options);
}

/** Of a daemon's output, the end is kept. */
const kept = 1024 * 1024;

/**
 * A program that was started to stay. It has a session of its own, so that a Ctrl-C reaches us alone, and we end everything in its order:
 * by SIGTERM, and SIGKILL where that does not help.
 */
export class Daemon implements AsyncDisposable {
  readonly #child: ChildProcess;
  #said = '';

  constructor(
    private readonly file: string,
    args: readonly string[],
    env: NodeJS.ProcessEnv = process.env,
  ) {
    this.#child = spawn(file, args, { env, detached: true, stdio: ['ignore', 'pipe', 'pipe'] });
    const keep = (bytes: Buffer) => (this.#said = (this.#said + bytes.toString()).slice(-kept));
    this.#child.stdout!.on('data', keep);
    this.#child.stderr!.on('data', keep);
    this.#child.once('error', (error) => (this.#said += error.message));
  }

  get pid(): number | undefined {
    return this.#child.pid;
  }

  get said(): string {
    return this.#said;
  }

  get #ended(): boolean {
    return this.#child.exitCode !== null || this.#child.signalCode !== null || this.#child.pid === undefined;
  }

  /** Resolves when `check` gives true. @throws INTERNAL where the program ends before, TIMEOUT */
  async until(what: string, check: () => Promise<boolean>, signal: AbortSignal, timeoutMs = 30_000): Promise<void> {
    const end = performance.now() + timeoutMs;
    while (!(await check().catch(() => false))) {
      signal.throwIfAborted();
      if (this.#ended) throw new LazylayerError('INTERNAL', `${this.file} ended: ${this.#said.slice(-2000)}`);
      if (performance.now() > end)
        throw new LazylayerError('TIMEOUT', `${what}: not so after ${timeoutMs} ms: ${this.#said.slice(-2000)}`);
      await sleep(20);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const [name, waitMs] of [
      ['SIGTERM', 15_000],
      ['SIGKILL', 5000],
    ] as const) {
      if (this.#ended) return;
      this.#child.kill(name);
      for (let waited = 0; waited < waitMs && !this.#ended; waited += 20) await sleep(20);
    }
  }
}

/** Processes that have all of these words among their arguments: what a daemon has started and left. */
export async function processesWith(...words: readonly string[]): Promise<number[]> {
  const found: number[] = [];
  for (const name of await readdir('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    const args = (await readFile(`/proc/${name}/cmdline`, 'utf8').catch(() => '')).split('\0');
    if (words.every((word) => args.includes(word))) found.push(Number(name));
  }
  return found;
}

/** SIGKILL to a process that may have ended meanwhile. */
export function killGone(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}

/** Peak of resident memory of a process, and of everything that it started, in bytes (VmHWM, proc_pid_status(5)). */
export async function peakMemory(pid: number): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8').catch(() => '');
  let bytes = Number(/^VmHWM:\s+(\d+) kB/m.exec(status)?.[1] ?? 0) * 1024;
  const children = await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8').catch(() => '');
  for (const child of children.split(' ').filter((text) => text !== '')) bytes += await peakMemory(Number(child));
  return bytes;
}
