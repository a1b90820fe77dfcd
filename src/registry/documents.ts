import { isDigest, type Digest } from '../digest/digest.js';
import { digestOf } from '../digest/digester.js';
import { VerificationError } from '../errors.js';
import type { Descriptor } from '../image/descriptor.js';
import { maxManifestSize } from '../image/json.js';
import { acceptedManifests } from '../image/mediatype.js';
import { retry } from '../util/backoff.js';
import { RegistryError } from './errors.js';
import type { Answer } from './exchange.js';
import type { GetOptions, Target, Transport } from './transport.js';

export interface FetchedManifest {
  readonly bytes: Uint8Array;
  /** Digest and size are those of the bytes; the media type is the answer's Content-Type. */
  readonly descriptor: Descriptor;
}

/**
 * The manifest or index behind a tag or a digest, at most 4 MiB. By digest, the bytes are held against it; by tag, against
 * Docker-Content-Digest where the registry sends it.
 * @throws RegistryError, VerificationError
 */
export async function fetchManifestDocument(
  transport: Transport,
  name: { readonly host: string; readonly repository: string },
  wanted: string,
  signal?: AbortSignal,
): Promise<FetchedManifest> {
  const target: Target = {
    host: name.host,
    repository: name.repository,
    path: `manifests/${wanted}`,
    capability: isDigest(wanted) ? 'pull' : 'resolve',
  };
  const { bytes, answer } = await fetchDocument(transport, target, { headers: { accept: acceptedManifests }, signal });
  const digest = digestOf(bytes);
  const claimed = isDigest(wanted) ? wanted : answer.header('docker-content-digest');
  const what = `manifest ${name.host}/${name.repository} ${wanted}`;
  if (claimed !== undefined && isDigest(claimed) && claimed !== digest)
    throw new VerificationError(what, claimed, digest);
  const mediaType = (answer.header('content-type') ?? '').split(';')[0].trim();
  return { bytes, descriptor: { mediaType, digest, size: bytes.byteLength } };
}

/** A whole small body in memory. A body that breaks off is asked for again, a bounded number of times. */
async function fetchDocument(
  transport: Transport,
  target: Target,
  options: GetOptions,
): Promise<{ bytes: Uint8Array; answer: Answer }> {
  const location = {};
  let inBody = false;
  return retry(
    async () => {
      inBody = false;
      const answer = await transport.get(target, { ...options, location });
      inBody = true;
      return { answer, bytes: await readAll(answer, maxManifestSize) };
    },
    (error) => transport.waitFor(inBody && error instanceof RegistryError && error.retriable, error),
    { ...transport.retryOptions, signal: options.signal },
  );
}

async function readAll(answer: Answer, limit: number): Promise<Uint8Array> {
  const { request, status } = answer;
  const length = answer.header('content-length');
  const encoding = answer.header('content-encoding') ?? 'identity';
  const refuse = (problem: string) => new RegistryError('DATA_LOSS', problem, { ...request, status });
  if (encoding !== 'identity' || Number(length ?? 0) > limit) {
    await answer.discard();
    throw encoding !== 'identity'
      ? refuse(`expected no content-encoding, found ${JSON.stringify(encoding)}`)
      : refuse(`expected at most ${limit} bytes, found ${length}`);
  }
  const pieces: Uint8Array[] = [];
  let size = 0;
  for await (const piece of answer) {
    size += piece.byteLength;
    if (size > limit) throw refuse(`expected at most ${limit} bytes, found more`);
    pieces.push(piece);
  }
  return pieces.length === 1 ? pieces[0] : Buffer.concat(pieces, size);
}

/** Whether a document is the one that its descriptor promises. @throws VerificationError */
export function verifyDocument(found: FetchedManifest, expected: { digest: Digest; size: number }, what: string): void {
  if (found.descriptor.size !== expected.size)
    throw new VerificationError(what, `${expected.size} bytes`, `${found.descriptor.size} bytes`);
  if (found.descriptor.digest !== expected.digest)
    throw new VerificationError(what, expected.digest, found.descriptor.digest);
}
