import { spawn, type ChildProcess } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { createServer, type AddressInfo } from 'node:net';
import { release } from 'node:os';
import { delimiter, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { kernelAtLeast } from '../../src/snapshot/overlay.js';

export { Teardown } from '../../src/util/teardown.js';

/** The top of the checkout, seen from where this file is compiled to. */
export const projectRoot = join(import.meta.dirname, '..', '..', '..');

/** Who takes cleanup work: an ava test (`t`) or a `Teardown`. */
export interface Cleanup {
  teardown(work: () => void | Promise<void>): void;
}

/** Which Debian 12 package brings a program that the tests run. */
const packages: Readonly<Record<string, string>> = {
  buildah: 'buildah',
  containerd: 'containerd',
  ctr: 'containerd',
  'ctr-remote': 'stargz-snapshotter',
  curl: 'curl',
  'docker-registry': 'docker-registry',
  getfattr: 'attr',
  gzip: 'gzip',
  mmdebstrap: 'mmdebstrap',
  mount: 'mount',
  podman: 'podman',
  runc: 'runc',
  setcap: 'libcap2-bin',
  setfattr: 'attr',
  setpriv: 'util-linux',
  skopeo: 'skopeo',
  tar: 'tar',
  umoci: 'umoci',
  zstd: 'zstd',
};

/** @throws Error that names the Debian package of every program that is not there: a missing part is a failure, never a skip. */
export function requirePrograms(...programs: string[]): void {
  const missing = programs.filter((program) => !isInstalled(program));
  if (missing.length === 0) return;
  const wanted = [...new Set(missing.map((program) => packages[program] ?? program))];
  throw new Error(`not installed: ${missing.join(', ')}. Run scripts/setup, or: apt-get install ${wanted.join(' ')}`);
}

function isInstalled(program: string): boolean {
  const path = process.env['PATH'] ?? '/usr/sbin:/usr/bin:/sbin:/bin';
  return path.split(delimiter).some((directory) => {
    try {
      accessSync(join(directory, program), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

/** @throws where the kernel cannot have EROFS over files */
export function requireErofs(): void {
  if (!kernelAtLeast(release(), 6, 12))
    throw new Error(`expected Linux 6.12 or later, with EROFS (CONFIG_EROFS_FS_BACKED_BY_FILE), found ${release()}`);
}

export interface RunOptions {
  readonly cwd?: string;
  readonly env?: NodeJS.ProcessEnv;
  readonly input?: string | Buffer;
  /** Milliseconds until the program is ended and the run counts as failed. */
  readonly timeout?: number;
}

export interface Outcome {
  /** Exit status, or the signal's name. */
  readonly status: number | string;
  readonly stdout: Buffer;
  readonly stderr: string;
}

/** Runs a program to its end and gives what came of it; @throws Error where it cannot be started or outlives its time. */
export async function outcomeOf(file: string, args: readonly string[], options: RunOptions = {}): Promise<Outcome> {
  const timeout = options.timeout ?? 120_000;
  const child = spawn(file, args, { cwd: options.cwd, env: options.env, stdio: ['pipe', 'pipe', 'pipe'] });
  const stdout: Buffer[] = [];
  const stderr: Buffer[] = [];
  child.stdout.on('data', (bytes: Buffer) => stdout.push(bytes));
  child.stderr.on('data', (bytes: Buffer) => stderr.push(bytes));
  // A program may end before it has read its input; its status tells.
  child.stdin.on('error', () => undefined).end(options.input);
  return new Promise<Outcome>((resolve, reject) => {
    // A program that waits in the kernel cannot be killed: give up on it instead of waiting for it to close.
    const timer = setTimeout(() => {
      child.kill('SIGKILL');
      reject(new Error(`${file} ${args.join(' ')}: not done after ${timeout} ms: ${Buffer.concat(stderr).toString()}`));
    }, timeout);
    child.once('error', (error) => {
      clearTimeout(timer);
      reject(error);
    });
    child.once('close', (code, signal) => {
      clearTimeout(timer);
      resolve({
        status: code ?? signal ?? 'unknown',
        stdout: Buffer.concat(stdout),
        stderr: Buffer.concat(stderr).toString(),
      });
    });
  });
}

/** Runs a program that must succeed and gives its standard output. */
export async function run(file: string, args: readonly string[], options: RunOptions = {}): Promise<string> {
  const { status, stdout, stderr } = await outcomeOf(file, args, options);
  if (status !== 0) throw new Error(`${file} ${args.join(' ')} ended with ${status}: ${stderr || stdout.toString()}`);
  return stdout.toString();
}

/** A program that is started to stay, and what it wrote so far (its last 64 KiB). */
export interface Daemon {
  readonly child: ChildProcess;
  said(): string;
}

/** Starts a program that stays until the cleanup: then SIGTERM, and SIGKILL where that does not help. */
export function startDaemon(cleanup: Cleanup, file: string, args: readonly string[], options: RunOptions = {}): Daemon {
  const child = spawn(file, args, { cwd: options.cwd, env: options.env, stdio: ['ignore', 'pipe', 'pipe'] });
  let text = '';
  const keep = (bytes: Buffer) => (text = (text + bytes.toString()).slice(-65_536));
  child.stdout.on('data', keep);
  child.stderr.on('data', keep);
  child.once('error', (error) => (text += error.message));
  cleanup.teardown(() => endChild(child));
  return { child, said: () => text };
}

export async function endChild(child: ChildProcess): Promise<void> {
  const ended = () => child.exitCode !== null || child.signalCode !== null || child.pid === undefined;
  for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
    if (ended()) return;
    child.kill(signal);
    for (let waited = 0; waited < 30_000 && !ended(); waited += 20) await sleep(20);
  }
}

/** Waits until `check` gives a value; its last error, or what it lacked, is told when the time is over. */
export async function eventually<T>(what: string, check: () => Promise<T | undefined>, timeout = 60_000): Promise<T> {
  const end = Date.now() + timeout;
  let last: unknown;
  do {
    try {
      const value = await check();
      if (value !== undefined) return value;
    } catch (error) {
      last = error;
    }
    await sleep(25);
  } while (Date.now() < end);
  const why = last instanceof Error ? `: ${last.message}` : '';
  throw new Error(`${what}: not so after ${timeout} ms${why}`, { cause: last });
}

/** A TCP port on loopback that was free a moment ago, for programs that cannot pick one themselves. */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await new Promise((resolve) => server.once('listening', resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}
