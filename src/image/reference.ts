import { isDigest, type Digest } from '../digest/digest.js';
import { LazylayerError } from '../errors.js';

/** Where an image is: a registry, a repository there, and a tag or a digest or both (then the digest decides). */
export interface Reference {
  /** Host with its port where one was given: `docker.io`, `localhost:5000`, `[::1]:5000`. Not a URL. */
  readonly host: string;
  /** Path of the repository on that host, without a leading slash. */
  readonly repository: string;
  readonly tag?: string;
  readonly digest?: Digest;
}

/** The host that a reference without one means. */
export const defaultHost = 'docker.io';
/** Where repositories of a single name live on the default host. */
const officialNamespace = 'library';
const defaultTag = 'latest';
const maxNameLength = 255;
const externalTocSuffix = '-esgztoc';

const hostLabel = '[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?';
const hostPattern = new RegExp(`^(?:${hostLabel}(?:\\.${hostLabel})*|\\[[a-fA-F0-9:]+\\])(?::[0-9]+)?$`);
const componentPattern = /^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*$/;
const tagPattern = /^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$/;

/**
 * Reads a reference as Docker's users write it, by the grammar of distribution/reference: the first component is a host when it
 * holds `.` or `:` or an upper-case letter or is `localhost`; else the host is `docker.io`, where a single name gets `library/`.
 * Without tag and digest the tag is `latest`.
 * @throws INVALID_ARGUMENT
 */
export function parseReference(text: string): Reference {
  let rest = text;
  let digest: Digest | undefined;
  const at = rest.indexOf('@');
  if (at >= 0) {
    const found = rest.slice(at + 1);
    if (!isDigest(found)) throw invalid(text, 'sha256: and 64 lower-case hex digits after "@"', JSON.stringify(found));
    digest = found;
    rest = rest.slice(0, at);
  }
  let tag: string | undefined;
  const colon = rest.lastIndexOf(':');
  if (colon > rest.lastIndexOf('/')) {
    tag = rest.slice(colon + 1);
    if (!tagPattern.test(tag))
      throw invalid(text, 'a tag of at most 128 letters, digits, "_", "." and "-"', JSON.stringify(tag));
    rest = rest.slice(0, colon);
  }
  const name = parseName(text, rest);
  if (tag === undefined && digest === undefined) tag = defaultTag;
  return { ...name, ...(tag !== undefined && { tag }), ...(digest !== undefined && { digest }) };
}

function parseName(text: string, name: string): { host: string; repository: string } {
  if (/^[0-9a-f]{64}$/.test(name)) throw invalid(text, 'a repository name', 'an image id of 64 hex digits');
  const slash = name.indexOf('/');
  const first = slash < 0 ? '' : name.slice(0, slash);
  const hasHost = /[.:]/.test(first) || first === 'localhost' || first !== first.toLowerCase();
  let host = hasHost ? first : defaultHost;
  let repository = hasHost ? name.slice(slash + 1) : name;
  if (!hostPattern.test(host)) throw invalid(text, 'a host name with or without a port', JSON.stringify(host));
  if (host === `index.${defaultHost}`) host = defaultHost;
  if (host === defaultHost && repository !== '' && !repository.includes('/'))
    repository = `${officialNamespace}/${repository}`;
  for (const component of repository.split('/')) {
    if (componentPattern.test(component)) continue;
    if (component !== component.toLowerCase() && componentPattern.test(component.toLowerCase()))
      throw invalid(text, 'a repository name in lower case', JSON.stringify(component));
    throw invalid(
      text,
      'repository components of lower-case letters and digits, parted by ".", "_", "__" or "-"',
      JSON.stringify(component),
    );
  }
  const length = host.length + 1 + repository.length;
  if (length > maxNameLength) throw invalid(text, `a name of at most ${maxNameLength} characters`, `${length}`);
  return { host, repository };
}

function invalid(text: string, expected: string, found: string): LazylayerError {
  const shown = text.length > 300 ? `${text.slice(0, 300)}...` : text;
  return new LazylayerError(
    'INVALID_ARGUMENT',
    `reference ${JSON.stringify(shown)}: expected ${expected}, found ${found}`,
  );
}

/** The full name, `docker.io/library/python:3.12`, with tag and digest where both are there. Parsing it gives the same reference. */
export function formatReference(reference: Reference): string {
  const tag = reference.tag === undefined ? '' : `:${reference.tag}`;
  const digest = reference.digest === undefined ? '' : `@${reference.digest}`;
  return `${reference.host}/${reference.repository}${tag}${digest}`;
}

/**
 * The image that holds the TOCs of an eStargz image with external TOCs: the same name, its tag followed by `-esgztoc`.
 * @throws UNSUPPORTED where the reference has no tag: the TOC image has no name then.
 */
export function externalTocReference(reference: Reference): Reference {
  if (reference.tag === undefined)
    throw new LazylayerError(
      'UNSUPPORTED',
      `${formatReference(reference)}: expected a tag, by which the image with the external TOC is found, found a digest alone`,
    );
  return parseReference(`${reference.host}/${reference.repository}:${reference.tag}${externalTocSuffix}`);
}
