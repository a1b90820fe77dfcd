import { spawn, type StdioOptions } from 'node:child_process';
import { LazylayerError } from '../errors.js';

export interface CommandOptions {
  readonly cwd?: string;
  /** Beside this process's own. */
  readonly env?: Readonly<Record<string, string>>;
  readonly signal?: AbortSignal;
  /** Descriptors for the command as 3, 4, … */
  readonly descriptors?: readonly number[];
}

const captured = 64 * 1024;

/**
 * Runs a program to its end without blocking this process, in the C locale, whose messages can be told apart, and gives its standard output (at most 64 KiB are kept).
 * @throws FAILED_PRECONDITION where the program is not installed, INTERNAL with what it said where it fails; where it was aborted, an AbortError
 * once it has ended, so that nothing of it happens later
 */
export async function runCommand(file: string, args: readonly string[], options: CommandOptions = {}): Promise<string> {
  const stdio: StdioOptions = ['ignore', 'pipe', 'pipe', ...(options.descriptors ?? [])];
  const child = spawn(file, args, {
    cwd: options.cwd,
    signal: options.signal,
    stdio,
    env: { ...process.env, ...options.env, LC_ALL: 'C' },
  });
  const output = { stdout: '', stderr: '' };
  for (const name of ['stdout', 'stderr'] as const)
    child[name]!.setEncoding('utf8').on('data', (text: string) => {
      output[name] = (output[name] + text).slice(0, captured);
    });
  let aborted: Error | undefined;
  const status = await new Promise<string | number | null>((resolve, reject) => {
    child.once('error', (error: NodeJS.ErrnoException) => {
      if (error.name === 'AbortError') aborted = error;
      else if (error.code !== 'ENOENT') reject(error);
      else
        reject(
          new LazylayerError('FAILED_PRECONDITION', `the program ${file} is needed and is not installed`, {
            cause: error,
          }),
        );
    });
    child.once('close', (code, signal) => resolve(code ?? signal));
  });
  if (aborted !== undefined) throw aborted;
  if (status === 0) return output.stdout;
  const said = (output.stderr || output.stdout).trim();
  throw new CommandError(file, status, said);
}

/** A program that ran and failed. */
export class CommandError extends LazylayerError {
  constructor(
    readonly program: string,
    readonly status: string | number | null,
    /** What it wrote, trimmed. */
    readonly said: string,
  ) {
    super('INTERNAL', `${program} ended with ${status}${said === '' ? '' : `: ${said}`}`);
  }
}
