import { posix } from 'node:path';
import type { BoundedTree } from './bounded-tree.js';

/** An installation of GCC: what its driver starts and links, and its own headers, lie in directories by target and version. */
export interface Gcc {
  /** `/usr`, `/usr/local`. */
  readonly prefix: string;
  /** `x86_64-linux-gnu`. */
  readonly triplet: string;
  /** As its directory is called: `12`, `13.2.0`. */
  readonly version: string;
}

/** Below the prefix. Programs may lie apart from the rest. */
const PLACES = ['libexec/gcc', 'lib/gcc', 'lib64/gcc'];
const PREFIXES = ['/usr/local', '/usr'];
/** Entries of a directory that is looked through, at most. */
const MAX_ENTRIES = 16;

/** The patterns of a target's name and of a version. */
export const TARGET = String.raw`\w+-(?:\w+-)?linux(?:-\w+)?`;
const NUMBERS = String.raw`\d+(?:\.\d+)*`;
const TRIPLET = new RegExp(`^${TARGET}$`);
const VERSION = new RegExp(`^${NUMBERS}$`);
const DRIVER = new RegExp(String.raw`^(?:(${TARGET})-)?(?:gcc|cc|g\+\+|c\+\+)(?:-(${NUMBERS}))?$`);
const PROPER = new RegExp(`^(.*)/(?:${PLACES.join('|')})/([^/]+)/([^/]+)/[^/]+$`);

/** Directories of an installation that may be there. */
export const directoriesOf = ({ prefix, triplet, version }: Gcc): string[] =>
  PLACES.map((place) => `${prefix}/${place}/${triplet}/${version}`);

/** The installation that a driver belongs to, by its path: of the target and version that it is called by, or else the newest. */
export function gccOfDriver(tree: BoundedTree, driver: string): Gcc | undefined {
  const [, triplet, version] = DRIVER.exec(posix.basename(driver)) ?? [];
  const prefix = posix.dirname(posix.dirname(driver)).replace(/^\/$/, '');
  const fits = (gcc: Gcc) =>
    (triplet === undefined || gcc.triplet === triplet) &&
    (version === undefined ||
      `${gcc.version}.`.startsWith(`${version}.`) ||
      `${version}.`.startsWith(`${gcc.version}.`));
  return installed(tree, [...new Set([prefix, ...PREFIXES])]).find(fits);
}

/** The installation that a file lies in. */
export function gccOfFile(path: string): Gcc | undefined {
  const [, prefix, triplet, version] = PROPER.exec(path) ?? [];
  return prefix === undefined ? undefined : { prefix, triplet, version };
}

/** All installations below these prefixes; of each prefix the newest first. */
export function installed(tree: BoundedTree, prefixes: readonly string[] = PREFIXES): Gcc[] {
  return prefixes.flatMap((prefix) => {
    const found = PLACES.flatMap((place) =>
      namesIn(tree, `${prefix}/${place}`, TRIPLET).flatMap((triplet) =>
        namesIn(tree, `${prefix}/${place}/${triplet}`, VERSION).map((version) => ({ prefix, triplet, version })),
      ),
    );
    return found.sort((a, b) => newerFirst(a.version, b.version));
  });
}

function newerFirst(a: string, b: string): number {
  const [one, other] = [a, b].map((version) => version.split('.').map(Number));
  for (let at = 0; at < Math.max(one.length, other.length); at++)
    if (one[at] !== other[at]) return (other[at] ?? -1) - (one[at] ?? -1);
  return 0;
}

/** Names of a form in a directory. */
function namesIn(tree: BoundedTree, path: string, form: RegExp): string[] {
  return tree
    .list(path, MAX_ENTRIES)
    .map(({ name }) => name.toString())
    .filter((name) => form.test(name));
}
