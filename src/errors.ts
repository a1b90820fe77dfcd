import { constants } from 'node:os';

/**
 * Why something failed, in words that never change: callers branch on the code, people read the message.
 * Each code maps to one errno (what a reader of the mount sees), one gRPC status and one exit code, all in the table below.
 */
export type ErrorCode =
  | 'ABORTED'
  | 'ALREADY_EXISTS'
  | 'BUSY'
  | 'DATA_LOSS'
  | 'FAILED_PRECONDITION'
  | 'INTERNAL'
  | 'INVALID_ARGUMENT'
  | 'NOT_A_DIRECTORY'
  | 'NOT_FOUND'
  | 'PERMISSION_DENIED'
  | 'RESOURCE_EXHAUSTED'
  | 'TIMEOUT'
  | 'UNAUTHENTICATED'
  | 'UNAVAILABLE'
  | 'UNSUPPORTED';

interface Translation {
  /** Positive errno, as the kernel knows it. */
  readonly errno: number;
  /** gRPC status code (google.rpc.Code), following containerd's errdefs. */
  readonly grpc: number;
  /** Exit status of a command that ends with this error. */
  readonly exit: number;
}

const { errno } = constants;

const table: Readonly<Record<ErrorCode, Translation>> = {
  ABORTED: { errno: errno.EINTR, grpc: 1, exit: 130 },
  ALREADY_EXISTS: { errno: errno.EEXIST, grpc: 6, exit: 1 },
  BUSY: { errno: errno.EBUSY, grpc: 9, exit: 1 },
  DATA_LOSS: { errno: errno.EIO, grpc: 15, exit: 1 },
  FAILED_PRECONDITION: { errno: errno.EPERM, grpc: 9, exit: 1 },
  INTERNAL: { errno: errno.EIO, grpc: 13, exit: 1 },
  INVALID_ARGUMENT: { errno: errno.EINVAL, grpc: 3, exit: 2 },
  NOT_A_DIRECTORY: { errno: errno.ENOTDIR, grpc: 3, exit: 1 },
  NOT_FOUND: { errno: errno.ENOENT, grpc: 5, exit: 1 },
  PERMISSION_DENIED: { errno: errno.EACCES, grpc: 7, exit: 1 },
  RESOURCE_EXHAUSTED: { errno: errno.ENOSPC, grpc: 8, exit: 1 },
  TIMEOUT: { errno: errno.EIO, grpc: 4, exit: 1 },
  UNAUTHENTICATED: { errno: errno.EACCES, grpc: 16, exit: 1 },
  UNAVAILABLE: { errno: errno.EIO, grpc: 14, exit: 1 },
  UNSUPPORTED: { errno: errno.EOPNOTSUPP, grpc: 12, exit: 1 },
};

/** Of several codes with one status, the general one. */
const fromGrpc = new Map(
  (Object.keys(table) as ErrorCode[])
    .filter((code) => code !== 'BUSY' && code !== 'NOT_A_DIRECTORY')
    .map((code) => [table[code].grpc, code]),
);

/** Base of every error that lazylayer raises on purpose. The message says what was expected, what was found, what to do. */
export class LazylayerError extends Error {
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = new.target.name;
    this.code = code;
  }
}

/** Bytes that are not what a format or a digest promises. Never shown to a reader of the mount; always EIO there. */
export class VerificationError extends LazylayerError {
  constructor(what: string, expected: string, found: string, options?: ErrorOptions) {
    super('DATA_LOSS', `${what}: expected ${expected}, found ${found}`, options);
  }
}

export interface FormatProblem {
  /** In bytes from the start of what is malformed. */
  readonly offset?: number;
  readonly expected: string;
  readonly found: string;
}

/** A malformed structure, `what`, at a known place, or with no offset where none applies. */
export class FormatError extends LazylayerError {
  constructor(
    readonly what: string,
    readonly problem: FormatProblem,
    options?: ErrorOptions,
  ) {
    const where = problem.offset === undefined ? '' : ` at offset ${problem.offset}`;
    super('DATA_LOSS', `${what}${where}: expected ${problem.expected}, found ${problem.found}`, options);
  }

  get offset(): number | undefined {
    return this.problem.offset;
  }
}

/** The code of any thrown value: ours, an abort, a Node.js system error, or INTERNAL. */
export function codeOf(error: unknown): ErrorCode {
  if (error instanceof LazylayerError) return error.code;
  if (error instanceof Error) {
    if (error.name === 'AbortError') return 'ABORTED';
    if (error.name === 'TimeoutError') return 'TIMEOUT';
    switch ((error as NodeJS.ErrnoException).code) {
      case 'ENOENT':
        return 'NOT_FOUND';
      case 'EEXIST':
        return 'ALREADY_EXISTS';
      case 'ENOTDIR':
        return 'NOT_A_DIRECTORY';
      case 'EACCES':
      case 'EPERM':
        return 'PERMISSION_DENIED';
      case 'EBUSY':
        return 'BUSY';
      case 'ENOSPC':
      case 'EDQUOT':
      case 'EMFILE':
      case 'ENFILE':
        return 'RESOURCE_EXHAUSTED';
    }
  }
  return 'INTERNAL';
}

/** Positive errno for a reply to the kernel. */
export function errnoOf(error: unknown): number {
  return table[codeOf(error)].errno;
}

/** gRPC status code for an answer to containerd. */
export function grpcStatusOf(error: unknown): number {
  return table[codeOf(error)].grpc;
}

/** The code of what a gRPC service answered. */
export function codeOfGrpc(status: number): ErrorCode {
  return fromGrpc.get(status) ?? 'INTERNAL';
}

/** Exit status for a command line that ends with this error. */
export function exitStatusOf(error: unknown): number {
  return table[codeOf(error)].exit;
}

/** One line for people: the message, then the messages of its causes where they add something. */
export function describeError(error: unknown): string {
  const parts: string[] = [];
  for (let e: unknown = error; e !== undefined && e !== null; e = e instanceof Error ? e.cause : undefined) {
    const text = e instanceof Error ? e.message : typeof e === 'string' ? e : JSON.stringify(e);
    if (text !== '' && !parts.some((p) => p.includes(text))) parts.push(text);
  }
  return parts.join(': ') || 'unknown error';
}
