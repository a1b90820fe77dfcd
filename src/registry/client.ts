import type { Digest } from '../digest/digest.js';
import { digestOf } from '../digest/digester.js';
import { verifyBytes } from '../digest/verify.js';
import { codeOf, FormatError, LazylayerError } from '../errors.js';
import { checkDiffIds, maxConfigSize, parseConfig } from '../image/config.js';
import type { Descriptor } from '../image/descriptor.js';
import { parseIndex, parseManifest, type Manifest } from '../image/manifest.js';
import { isIndexType, isManifestType } from '../image/mediatype.js';
import { formatPlatform, hostPlatform, matchPlatform, type Platform } from '../image/platform.js';
import { formatReference, type Reference } from '../image/reference.js';
import type { BlobEnd, EndOptions } from '../io/reader.js';
import { Authorizer } from './auth/authorizer.js';
import { chainCredentials, fileCredentials } from './auth/auth-files.js';
import type { Credential, CredentialSource } from './auth/credentials.js';
import { BlobReader, readBlobEnd } from './blob-reader.js';
import { Dispatchers, type Timeouts } from './dispatchers.js';
import { fetchManifestDocument, verifyDocument, type FetchedManifest } from './documents.js';
import { Exchanger, type ExchangeHooks } from './exchange.js';
import { HostResolver } from './host-resolver.js';
import type { HostsConfig } from './hosts.js';
import { Transport, type RetryOptions } from './transport.js';

export interface RegistryOptions extends ExchangeHooks {
  /** Per host, as config.toml gives it; goes before certs.d. */
  readonly hosts?: HostsConfig;
  /** Directories laid out like containerd's certs.d, the first that knows a host wins. Read again when they change. */
  readonly certsDirs?: readonly string[];
  /** Hosts (with port) that are asked by plain HTTP besides those on loopback. */
  readonly plainHttp?: readonly string[];
  readonly timeouts?: Partial<Timeouts>;
  readonly retry?: Partial<RetryOptions>;
  /** Asked before the credential files. */
  readonly credentials?: (host: string, repository: string) => Promise<Credential | undefined>;
  /** Where proxies, credential files and helpers are looked up. Default: the process's. */
  readonly env?: Readonly<Record<string, string | undefined>>;
}

/** The manifest of an image of one platform, verified by digest. */
export interface ResolvedImage {
  readonly reference: Reference;
  /** Of the platform's manifest. */
  readonly descriptor: Descriptor;
  readonly manifestBytes: Uint8Array;
  readonly manifest: Manifest;
}

export interface ResolveOptions {
  /** Default: the host's. */
  readonly platform?: Platform;
  /** As it was resolved before: not requested again where what the registry says now still means these very bytes. */
  readonly known?: Pick<ResolvedImage, 'descriptor' | 'manifestBytes'>;
  readonly signal?: AbortSignal;
}

type Name = Pick<Reference, 'host' | 'repository'>;

const defaultTimeouts: Timeouts = { connectMs: 10_000, headersMs: 30_000, bodyMs: 30_000 };
const defaultRetry: RetryOptions = { attempts: 4, baseMs: 200, maxMs: 5_000, maxRetryAfterMs: 30_000 };

/** Registries by the OCI distribution protocol. One object for a process: it keeps connections, tokens and what hosts.toml says. */
export class Registry implements AsyncDisposable {
  readonly #dispatchers: Dispatchers;
  readonly #exchanger: Exchanger;
  readonly #transport: Transport;
  /** Hosts that do not have suffix ranges. */
  readonly #withoutEnds = new Set<string>();

  constructor(options: RegistryOptions = {}) {
    const timeouts = { ...defaultTimeouts, ...options.timeouts };
    this.#dispatchers = new Dispatchers(timeouts, options.env);
    this.#exchanger = new Exchanger(this.#dispatchers, timeouts, options);
    const hosts = new HostResolver(options);
    const credentials = chainCredentials(
      hookCredentials(options.credentials),
      fileCredentials(options.env ?? process.env),
    );
    const authorizer = new Authorizer(this.#exchanger, credentials);
    this.#transport = new Transport((host) => hosts.endpoints(host), this.#exchanger, authorizer, {
      ...defaultRetry,
      ...options.retry,
    });
  }

  /** Requests sent, token and redirected ones included, and body bytes received. */
  get stats(): { requests: number; bytes: number } {
    return { ...this.#exchanger.counters };
  }

  /**
   * Index and the platform's manifest: two requests for a tag of an index, one for a manifest, and one for a tag that still stands for
   * what is known, where no authorization is needed. Both are verified by digest and size.
   * @throws RegistryError, VerificationError, FormatError; NOT_FOUND where the index has nothing for the platform
   */
  async resolve(reference: Reference, options: ResolveOptions = {}): Promise<ResolvedImage> {
    const { signal, known } = options;
    let found = await this.fetchManifest(reference, options);
    if (isIndexType(typeOf(found))) {
      const chosen = choose(reference, found, options.platform ?? hostPlatform());
      if (known !== undefined && isContent(known.manifestBytes, chosen))
        found = { bytes: known.manifestBytes, descriptor: known.descriptor };
      else {
        found = await fetchManifestDocument(this.#transport, reference, chosen.digest, signal);
        verifyDocument(found, chosen, `manifest of ${formatReference(reference)}`);
      }
      found = { bytes: found.bytes, descriptor: { ...chosen, mediaType: typeOf(found) } };
    }
    const mediaType = typeOf(found);
    if (!isManifestType(mediaType))
      throw new LazylayerError(
        'UNSUPPORTED',
        `${formatReference(reference)}: expected an OCI or Docker schema 2 manifest, found ${JSON.stringify(mediaType)}`,
      );
    const manifest = parseManifest(found.bytes, mediaType);
    return { reference, descriptor: { ...found.descriptor, mediaType }, manifestBytes: found.bytes, manifest };
  }

  /**
   * The config that a manifest names, by one request; none where `known`, an earlier one, is the same. Verified by digest and size.
   * @throws RegistryError, VerificationError; FormatError also where it is of other layers than the manifest
   */
  async fetchConfig(
    name: Name,
    manifest: Manifest,
    { known, signal }: { known?: Uint8Array; signal?: AbortSignal } = {},
  ): Promise<Uint8Array> {
    if (known !== undefined && isContent(known, manifest.config)) return known;
    const bytes = await this.fetchBlob(name, manifest.config, { signal, limit: maxConfigSize });
    checkDiffIds(manifest, parseConfig(bytes));
    return bytes;
  }

  /** The manifest or index that a reference names, whatever it is: by its digest where it has one, else by its tag. */
  async fetchManifest(reference: Reference, options: { signal?: AbortSignal } = {}): Promise<FetchedManifest> {
    const wanted = reference.digest ?? reference.tag ?? 'latest';
    return fetchManifestDocument(this.#transport, reference, wanted, options.signal);
  }

  /** A reader on a blob. Sends nothing. */
  openBlob(name: Name, descriptor: Descriptor): BlobReader {
    return new BlobReader(this.#transport, name, descriptor);
  }

  /**
   * The last `length` bytes of a blob whose size is not known, or all of a shorter one, by one request that is not tried again.
   * @throws RegistryError; its code is UNSUPPORTED where the registry has no such ranges
   */
  async fetchBlobEnd(name: Name, digest: Digest, length: number, options?: EndOptions): Promise<BlobEnd> {
    try {
      return await readBlobEnd(this.#transport, name, digest, length, options);
    } catch (error) {
      if (codeOf(error) === 'UNSUPPORTED') this.#withoutEnds.add(name.host);
      throw error;
    }
  }

  /**
   * Whether a host is likely to answer requests for the ends of blobs, so that many side by side are not sent in vain: as far as is known
   * it wants no authorization, and has such ranges.
   */
  givesEnds(host: string): boolean {
    return !this.#withoutEnds.has(host) && this.#transport.asksForNone(host);
  }

  /** A whole blob in memory, verified. `limit` in bytes is held before anything is sent. */
  async fetchBlob(
    name: Name,
    descriptor: Descriptor,
    options: { signal?: AbortSignal; limit: number },
  ): Promise<Uint8Array> {
    const what = `blob ${name.host}/${name.repository}@${descriptor.digest}`;
    if (descriptor.size > options.limit)
      throw new FormatError(what, { expected: `at most ${options.limit} bytes`, found: `${descriptor.size}` });
    const bytes = await this.openBlob(name, descriptor).read(0, descriptor.size, options);
    verifyBytes(bytes, descriptor.digest, what);
    return bytes;
  }

  /** Ends every transfer and closes every connection. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#dispatchers[Symbol.asyncDispose]();
  }
}

function hookCredentials(hook: RegistryOptions['credentials']): CredentialSource {
  return async (host, repository, signal) => {
    try {
      return { credential: await hook?.(host, repository), problems: [] };
    } catch {
      signal?.throwIfAborted();
      return { problems: ['the credentials hook failed'] }; // its error may hold what must not be shown
    }
  };
}

function isContent(bytes: Uint8Array, { digest, size }: Descriptor): boolean {
  return bytes.byteLength === size && digestOf(bytes) === digest;
}

/** What a document says it is; where it does not say, what the registry called it. */
function typeOf(found: FetchedManifest): string {
  try {
    const { mediaType } = JSON.parse(Buffer.from(found.bytes).toString('utf8')) as { mediaType?: unknown };
    return typeof mediaType === 'string' ? mediaType : found.descriptor.mediaType;
  } catch {
    return found.descriptor.mediaType;
  }
}

function choose(reference: Reference, found: FetchedManifest, platform: Platform): Descriptor {
  const { manifests } = parseIndex(found.bytes, found.descriptor.mediaType);
  const chosen = matchPlatform(manifests, platform);
  if (chosen !== undefined) return chosen;
  const offered = manifests.flatMap((m) => (m.platform === undefined ? [] : [formatPlatform(m.platform)]));
  throw new LazylayerError(
    'NOT_FOUND',
    `${formatReference(reference)}: expected an image for ${formatPlatform(platform)}, found ${offered.join(', ') || 'none with a platform'}`,
  );
}
