import { spawn } from 'node:child_process';
import { LazylayerError } from '../../errors.js';
import type { Credential } from './credentials.js';

/** A helper may ask a keyring or a cloud, but not for ever: milliseconds. */
const timeLimit = 30_000;
const maxOutput = 1024 * 1024;
/** What helpers say when they know no login for the server: no failure. */
const notFound = /credentials not found/i;

/**
 * Asks `docker-credential-NAME get` for a server's login (Docker's credential helper protocol). Undefined when it knows none.
 * @throws UNAVAILABLE when it fails; nothing of what it wrote is in the message
 */
export async function askHelper(
  name: string,
  server: string,
  env: Readonly<Record<string, string | undefined>>,
  signal?: AbortSignal,
): Promise<Credential | undefined> {
  const command = `docker-credential-${name}`;
  const fail = (problem: string) => new LazylayerError('UNAVAILABLE', `${command}: ${problem}`);
  if (!/^[\w.-]+$/.test(name)) throw fail('expected a name of letters, digits, ".", "_" and "-"');
  const { output, status } = await run(command, server, env, fail, signal);
  if (notFound.test(output)) return undefined;
  if (status !== 0) throw fail(`exit status ${status}`);
  let answer: { Username?: unknown; Secret?: unknown } | null;
  try {
    answer = JSON.parse(output) as typeof answer;
  } catch {
    throw fail('expected JSON, found another text');
  }
  const { Username: username, Secret: secret } = answer ?? {};
  if (typeof username !== 'string' || typeof secret !== 'string' || secret === '')
    throw fail('expected Username and Secret, found an answer without them');
  return username === '<token>' || username === ''
    ? { kind: 'identity', token: secret }
    : { kind: 'password', username, password: secret };
}

function run(
  command: string,
  input: string,
  env: Readonly<Record<string, string | undefined>>,
  fail: (problem: string) => LazylayerError,
  signal: AbortSignal | undefined,
): Promise<{ output: string; status: number | string }> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, ['get'], { stdio: ['pipe', 'pipe', 'ignore'], env: { ...env }, signal });
    const pieces: Buffer[] = [];
    let size = 0;
    const end = (problem: string) => {
      reject(fail(problem));
      child.kill('SIGKILL');
    };
    const timer = setTimeout(() => end(`no answer within ${timeLimit / 1000} s`), timeLimit);
    child.stdout.on('data', (piece: Buffer) => {
      size += piece.byteLength;
      if (size > maxOutput) end(`expected at most ${maxOutput} bytes, found more`);
      else pieces.push(piece);
    });
    child.stdin.on('error', () => {}); // a helper that does not read its input
    child.stdin.end(input);
    child.on('error', (error: NodeJS.ErrnoException) => {
      clearTimeout(timer);
      reject(signal?.aborted ? (signal.reason as Error) : fail(`could not be run, ${error.code ?? 'unknown error'}`));
    });
    child.on('close', (status, killedBy) => {
      clearTimeout(timer);
      resolve({ output: Buffer.concat(pieces).toString(), status: status ?? killedBy ?? 'unknown' });
    });
  });
}
