import { setTimeout as sleep } from 'node:timers/promises';
import type { Digest } from '../digest/digest.js';
import type { Descriptor } from '../image/descriptor.js';
import type { Reference } from '../image/reference.js';
import { checkRange, type BlobEnd, type EndOptions, type RandomAccessReader, type ReadOptions } from '../io/reader.js';
import { backoffMs } from '../util/backoff.js';
import type { ErrorCode } from '../errors.js';
import { gather } from '../util/bytes.js';
import { RegistryError } from './errors.js';
import type { Answer } from './exchange.js';
import { externalEndpoints, type Endpoint } from './hosts.js';
import type { GetOptions, Location, Target, Transport } from './transport.js';

type Name = Pick<Reference, 'host' | 'repository'>;

/** A 200 answer to a range is read past up to this many bytes; further in, the registry counts as one without ranges. */
const cheapSkip = 1024 * 1024;
/** A transfer that broke after this much progress has not used up one of its tries. */
const worthyProgress = 1024 * 1024;

/**
 * A blob in a registry, read by single ranges: one request for each `read` or `stream`, none at construction. The whole blob is
 * asked for without a range, which every registry can answer. Its size is the descriptor's. What comes is counted and held
 * against the range that was asked for; the digest is the caller's to check. A transfer that breaks goes on from the byte where
 * it broke, a bounded number of times. The descriptor's `urls` are asked first, until an answer is not what was asked for.
 */
export class BlobReader implements RandomAccessReader {
  readonly size: number;
  #target: Target;
  readonly #location: Location = {};

  constructor(
    private readonly transport: Transport,
    name: Name,
    readonly descriptor: Descriptor,
  ) {
    this.size = descriptor.size;
    this.#target = targetOf(name, descriptor.digest, externalEndpoints(descriptor.urls ?? []));
  }

  /** @throws RegistryError; its code is UNSUPPORTED when the registry answers ranges with the whole blob */
  async read(offset: number, length: number, options?: ReadOptions): Promise<Uint8Array> {
    checkRange(this.size, offset, length);
    const bytes = Buffer.allocUnsafeSlow(length);
    await gather(this.stream(offset, length, options), bytes);
    return bytes;
  }

  /** @throws RegistryError; its code is UNSUPPORTED when the registry answers ranges with the whole blob */
  async *stream(offset: number, length: number, options?: ReadOptions): AsyncGenerator<Uint8Array, void, undefined> {
    checkRange(this.size, offset, length);
    const { retryOptions } = this.transport;
    const { signal, reason } = options ?? {};
    const purpose = { blob: this.descriptor.digest, ...(reason !== undefined && { reason }) };
    const end = offset + length;
    let at = offset;
    let triedAt = offset;
    let tries = 0;
    let skipLimit = cheapSkip;
    while (at < end) {
      const answer = await this.#request(at, end, skipLimit, { signal, purpose });
      const whole = answer.status === 200;
      if (whole) skipLimit = Infinity;
      let skip = whole ? at : 0;
      let last: Uint8Array | undefined;
      let failure: RegistryError | undefined;
      try {
        for await (const piece of answer) {
          if (skip >= piece.byteLength) {
            skip -= piece.byteLength;
            continue;
          }
          const wanted = piece.subarray(skip, skip + end - at);
          if (skip + wanted.byteLength < piece.byteLength && !(whole && end < this.size))
            throw bad(answer, `expected ${end - offset} bytes, found more`);
          skip = 0;
          at += wanted.byteLength;
          if (at < end) yield wanted;
          else {
            // Handed out only when the body has ended, so that who stops here does not close a good connection.
            last = wanted;
            if (whole && end < this.size) break;
          }
        }
        if (at < end) failure = bad(answer, `expected ${end - offset} bytes, found the end after ${at - offset}`, true);
      } catch (error) {
        if (!(error instanceof RegistryError) || !error.retriable) throw error;
        failure = error;
      }
      if (last !== undefined) {
        yield last;
        return;
      }
      if (at - triedAt >= worthyProgress) tries = 0;
      triedAt = at;
      if (++tries >= retryOptions.attempts) throw failure!;
      await sleep(backoffMs(tries - 1, retryOptions), undefined, { signal });
    }
  }

  async #request(
    at: number,
    end: number,
    skipLimit: number,
    options: Pick<GetOptions, 'signal' | 'purpose'>,
  ): Promise<Answer> {
    const everything = at === 0 && end === this.size;
    const target = this.#target;
    const answer = await this.transport.get(target, {
      headers: everything ? {} : { range: `bytes=${at}-${end - 1}` },
      location: this.#location,
      ...options,
    });
    const error = this.#check(answer, at, end, skipLimit);
    if (error === undefined) return answer;
    await answer.discard();
    if (target.external === undefined) throw error;
    this.#target = { ...target, external: undefined };
    return this.#request(at, end, skipLimit, options);
  }

  #check(answer: Answer, at: number, end: number, skipLimit: number): RegistryError | undefined {
    const encoded = encodedError(answer);
    if (encoded !== undefined) return encoded;
    const ranged = answer.status === 206;
    if (ranged) {
      const found = /^bytes (\d+)-(\d+)\/(\d+|\*)$/.exec(answer.header('content-range') ?? '');
      if (
        found === null ||
        Number(found[1]) !== at ||
        Number(found[2]) !== end - 1 ||
        (found[3] !== '*' && Number(found[3]) !== this.size)
      ) {
        const expected = `bytes ${at}-${end - 1}/${this.size}`;
        return bad(answer, `expected content-range ${expected}, found ${answer.header('content-range') ?? 'none'}`);
      }
    } else if (at > skipLimit)
      return bad(
        answer,
        `expected a range from byte ${at}, found the whole blob: no ranges here`,
        false,
        'UNSUPPORTED',
      );
    const length = answer.header('content-length');
    const expected = ranged ? end - at : this.size;
    if (length !== undefined && Number(length) !== expected)
      return bad(answer, `expected content-length ${expected}, found ${JSON.stringify(length)}`);
    return undefined;
  }

  /** Nothing to release: connections belong to the registry. */
  async [Symbol.asyncDispose](): Promise<void> {}
}

/**
 * The last `length` bytes of a blob whose size is not known, or all of a shorter one, by one request (RFC 9110, 14.1.2: a suffix
 * range). What fails is not tried again.
 * @throws RegistryError; its code is UNSUPPORTED where the registry has no such ranges
 */
export async function readBlobEnd(
  transport: Transport,
  name: Name,
  digest: Digest,
  length: number,
  { signal, reason, onEnd }: EndOptions = {},
): Promise<BlobEnd> {
  const answer = await transport.get(targetOf(name, digest), {
    headers: { range: `bytes=-${length}` },
    once: true,
    signal,
    purpose: { blob: digest, ...(reason !== undefined && { reason }) },
  });
  const refuse = async (error: RegistryError): Promise<never> => {
    await answer.discard();
    throw error;
  };
  const encoded = encodedError(answer, 'UNSUPPORTED');
  if (encoded !== undefined) return refuse(encoded);
  if (answer.status !== 206)
    return refuse(bad(answer, 'expected the end of the blob, found all of it', false, 'UNSUPPORTED'));
  const found = /^bytes (\d+)-(\d+)\/(\d+)$/.exec(answer.header('content-range') ?? '') ?? [];
  const [start, last, size] = found.slice(1).map(Number);
  if (size === undefined || last !== size - 1 || start !== Math.max(0, size - length))
    return refuse(
      bad(
        answer,
        `expected content-range for the last ${length} bytes, found ${answer.header('content-range') ?? 'none'}`,
      ),
    );
  const bytes = Buffer.allocUnsafeSlow(size - start);
  const end = { start, bytes };
  const come = await gather(answer, bytes, onEnd && ((come) => onEnd(end, come)));
  if (come > bytes.byteLength) throw bad(answer, `expected ${bytes.byteLength} bytes, found more`);
  if (come < bytes.byteLength)
    throw bad(answer, `expected ${bytes.byteLength} bytes, found the end after ${come}`, true);
  return end;
}

function targetOf({ host, repository }: Name, digest: Digest, external: readonly Endpoint[] = []): Target {
  return {
    host,
    repository,
    path: `blobs/${digest}`,
    capability: 'pull',
    ...(external.length > 0 && { external }),
  };
}

/** Of a body that is packed, where bytes of the blob itself are wanted. */
function encodedError(answer: Answer, code?: ErrorCode): RegistryError | undefined {
  const encoding = answer.header('content-encoding') ?? 'identity';
  if (encoding === 'identity') return undefined;
  return bad(answer, `expected no content-encoding, found ${JSON.stringify(encoding)}`, false, code);
}

function bad(answer: Answer, problem: string, retriable = false, code?: ErrorCode): RegistryError {
  const { method, url } = answer.request;
  const status = answer.status;
  return new RegistryError(code ?? (retriable ? 'UNAVAILABLE' : 'DATA_LOSS'), problem, {
    method,
    url,
    status,
    retriable,
  });
}
