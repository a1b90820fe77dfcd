import { LazylayerError, type ErrorCode } from '../errors.js';
import { redactText, redactUrl } from './redact.js';

/** One entry of a registry's error body (OCI distribution-spec, "Error Codes"). */
export interface Diagnostic {
  readonly code: string;
  readonly message: string;
  readonly detail: string;
}

export interface RegistryErrorInit {
  readonly method: string;
  readonly url: string | URL;
  /** Absent when no answer came. */
  readonly status?: number;
  readonly diagnostics?: readonly Diagnostic[];
  /** How long the server asked to wait, in milliseconds. */
  readonly retryAfterMs?: number;
  /** Whether the same request may succeed when sent again. */
  readonly retriable?: boolean;
  readonly cause?: unknown;
}

/**
 * A request to a registry, a token service or the storage behind them that failed. Credentials and signed queries are in none of
 * its members, the message and the cause included.
 */
export class RegistryError extends LazylayerError {
  /** The message without method and URL. */
  readonly problem: string;
  readonly method: string;
  /** Redacted. */
  readonly url: string;
  readonly status: number | undefined;
  readonly diagnostics: readonly Diagnostic[];
  readonly retryAfterMs: number | undefined;
  readonly retriable: boolean;

  constructor(code: ErrorCode, problem: string, init: RegistryErrorInit) {
    const url = redactUrl(init.url);
    super(code, `${init.method} ${url}: ${problem}`, init.cause === undefined ? undefined : { cause: init.cause });
    this.problem = problem;
    this.method = init.method;
    this.url = url;
    this.status = init.status;
    this.diagnostics = init.diagnostics ?? [];
    this.retryAfterMs = init.retryAfterMs;
    this.retriable = init.retriable ?? false;
  }
}

/** The error for an answer whose status is not the expected one. `body` is the start of the answer's body. */
export function statusError(
  request: { method: string; url: string | URL },
  status: number,
  answer: { body: string; retryAfterMs?: number; hint?: string },
): RegistryError {
  const diagnostics = parseDiagnostics(answer.body);
  const said = diagnostics.map((d) => [d.code, d.message, d.detail].filter((s) => s !== '').join(' '));
  const problem = [
    `status ${status}${meanings[status] ?? ''}`,
    ...said,
    ...(answer.retryAfterMs === undefined ? [] : [`asks to wait ${Math.ceil(answer.retryAfterMs / 1000)} s`]),
    ...(answer.hint === undefined ? [] : [answer.hint]),
  ].join('; ');
  return new RegistryError(codeOfStatus(status), problem, {
    ...request,
    status,
    diagnostics,
    retryAfterMs: answer.retryAfterMs,
    retriable: status === 408 || status === 429 || (status >= 500 && status !== 501 && status !== 505),
  });
}

const meanings: Readonly<Record<number, string>> = {
  401: ' (not logged in, or the login has expired)',
  403: ' (denied)',
  404: ' (not found)',
  416: ' (the range is outside of the blob: it is shorter than its descriptor says)',
  429: ' (too many requests)',
};

function codeOfStatus(status: number): ErrorCode {
  switch (status) {
    case 401:
      return 'UNAUTHENTICATED';
    case 403:
      return 'PERMISSION_DENIED';
    case 404:
    case 410:
      return 'NOT_FOUND';
    case 408:
      return 'TIMEOUT';
    case 416:
      return 'DATA_LOSS';
    case 429:
      return 'UNAVAILABLE';
    default:
      return status >= 500 ? 'UNAVAILABLE' : 'FAILED_PRECONDITION';
  }
}

const maxDiagnostics = 3;
const maxTextLength = 200;

function parseDiagnostics(body: string): Diagnostic[] {
  let value: unknown;
  try {
    value = JSON.parse(body);
  } catch {
    return [];
  }
  const errors = (value as { errors?: unknown } | null)?.errors;
  if (!Array.isArray(errors)) return [];
  return errors.slice(0, maxDiagnostics).map((e: unknown) => {
    const { code, message, detail } = (e ?? {}) as Record<string, unknown>;
    return { code: trim(code), message: trim(message), detail: trim(detail) };
  });
}

function trim(value: unknown): string {
  if (value === undefined || value === null) return '';
  const text = redactText(typeof value === 'string' ? value : JSON.stringify(value));
  // eslint-disable-next-line no-control-regex
  const printable = text.replace(/[\x00-\x1f\x7f]+/g, ' ');
  return printable.length > maxTextLength ? `${printable.slice(0, maxTextLength)}...` : printable;
}

const tlsHints: Readonly<Record<string, string>> = {
  DEPTH_ZERO_SELF_SIGNED_CERT: 'its certificate is self-signed; set "ca" in certs.d or in the configuration',
  SELF_SIGNED_CERT_IN_CHAIN: 'its certificate authority is unknown; set "ca" in certs.d or in the configuration',
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: 'its certificate authority is unknown; set "ca" in certs.d or in the configuration',
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    'its certificate authority is unknown; set "ca" in certs.d or in the configuration',
  ERR_TLS_CERT_ALTNAME_INVALID: 'its certificate is for another name',
  CERT_HAS_EXPIRED: 'its certificate has expired',
  EPROTO: 'it does not speak TLS; list it as a plain HTTP host or write its server as http://',
  ERR_SSL_WRONG_VERSION_NUMBER: 'it does not speak TLS; list it as a plain HTTP host or write its server as http://',
  ERR_SSL_PACKET_LENGTH_TOO_LONG: 'it does not speak TLS; list it as a plain HTTP host or write its server as http://',
};

const timeouts: Readonly<Record<string, string>> = {
  UND_ERR_CONNECT_TIMEOUT: 'no connection within the time limit',
  UND_ERR_HEADERS_TIMEOUT: 'no answer within the time limit',
  UND_ERR_BODY_TIMEOUT: 'the answer stopped coming',
  ETIMEDOUT: 'no connection within the time limit',
};

/** Requests that cannot be sent, and a client that was closed. */
const hopeless: ReadonlySet<string> = new Set([
  'UND_ERR_INVALID_ARG',
  'UND_ERR_NOT_SUPPORTED',
  'UND_ERR_CLOSED',
  'UND_ERR_DESTROYED',
]);

/** The error for a request that got no whole answer. */
export function networkError(
  request: { method: string; url: string | URL; status?: number },
  error: unknown,
): RegistryError {
  if (error instanceof RegistryError) return error;
  const failure = (error instanceof AggregateError ? (error.errors[0] as unknown) : error) as NodeJS.ErrnoException;
  const code = failure.code ?? '';
  if (timeouts[code] !== undefined)
    return new RegistryError('TIMEOUT', timeouts[code], { ...request, retriable: true });
  const hint = tlsHints[code];
  if (hint !== undefined) return new RegistryError('UNAVAILABLE', hint, { ...request, retriable: false });
  const text = redactText(failure.message ?? '');
  return new RegistryError('UNAVAILABLE', [text, text.includes(code) ? '' : code].filter((s) => s !== '').join(', '), {
    ...request,
    retriable: !hopeless.has(code),
  });
}
