import { hash } from 'node:crypto';
import { bufferOf } from '../util/bytes.js';
import type { Xattr } from './entry.js';

/** One set of extended attributes, held once however many inodes have it. */
export interface XattrSet {
  /** Name and value as latin1 text, in the order of the names' bytes. */
  readonly records: readonly (readonly [name: string, value: string])[];
  /** Word in the tree's xattr section; given when the tree is laid out. */
  word: number;
}

const latin1 = (bytes: Uint8Array): string => bufferOf(bytes).toString('latin1');

/** What overlayfs reads as its own instructions (redirects, opaque marks): a layer may not give them, only its whiteouts may. */
const isOverlayOwn = (name: string): boolean => name.startsWith('trusted.overlay.') || name.startsWith('user.overlay.');

const opaque = [
  ['trusted.overlay.opaque', 'y'],
  ['user.overlay.opaque', 'y'],
] as const;

/**
 * What Linux has of one file at most, in bytes (XATTR_NAME_MAX, XATTR_SIZE_MAX and XATTR_LIST_MAX of limits.h): nobody could extract
 * more. In a list, a NUL follows on each name.
 */
const MAX_XATTR_NAME = 255;
const MAX_XATTR_VALUE = 65536;
const MAX_XATTR_LIST = 65536;

/** What an attribute takes beside its bytes: of time whenever it is given, of memory where its set is a new one. As in bytes of text, roughly. */
const ATTRIBUTE_COST = 64;
const NEW_ATTRIBUTE_COST = 128;
/** Keys beyond this stand for themselves by their digest: what is large is not held twice. */
const MAX_KEY_LENGTH = 1024;

/** Interns sets of attributes, so that equal sets are one object. */
export class XattrTable {
  readonly #sets = new Map<string, XattrSet>();
  readonly #opaque = new Map<XattrSet | undefined, XattrSet>();
  // A global header of a tar gives the same list for each entry.
  #lastGiven: readonly Xattr[] | undefined;
  #last: XattrSet | undefined;
  /** What all that was looked at has cost, as in bytes of text. Whoever fills the table bounds it. */
  cost = 0;

  /**
   * The set of an entry, or undefined where none is left. A name given twice has its last value; overlayfs's own names are dropped.
   * @param refuse throws for what no file can have
   */
  intern(xattrs: readonly Xattr[], refuse: (expected: string, found: string) => never): XattrSet | undefined {
    if (xattrs === this.#lastGiven) return this.#last;
    const byName = new Map<string, string>();
    let list = 0;
    for (const { name, value } of xattrs) {
      if (name.byteLength > MAX_XATTR_NAME || value.byteLength > MAX_XATTR_VALUE)
        refuse(
          `xattrs of at most ${MAX_XATTR_NAME} bytes of name and ${MAX_XATTR_VALUE} of value`,
          `${name.byteLength} and ${value.byteLength}`,
        );
      list += name.byteLength + 1;
      this.cost += name.byteLength + value.byteLength + ATTRIBUTE_COST;
      const key = latin1(name);
      if (!isOverlayOwn(key)) byName.set(key, latin1(value));
    }
    if (list > MAX_XATTR_LIST) refuse(`names of xattrs of at most ${MAX_XATTR_LIST} bytes in all`, `${list}`);
    this.#lastGiven = xattrs;
    return (this.#last = this.#find([...byName]));
  }

  /** The same set with the marks of an opaque directory for overlayfs mounted by root and with `userxattr`. */
  withOpaque(set: XattrSet | undefined): XattrSet {
    let marked = this.#opaque.get(set);
    if (marked === undefined) this.#opaque.set(set, (marked = this.#find([...(set?.records ?? []), ...opaque])!));
    return marked;
  }

  #find(records: (readonly [string, string])[]): XattrSet | undefined {
    if (records.length === 0) return undefined;
    records.sort(([a], [b]) => (a < b ? -1 : 1));
    const text = records.map(([n, v]) => `${n.length}:${v.length}:${n}${v}`).join('');
    const key = text.length > MAX_KEY_LENGTH ? hash('sha256', text) : text;
    let set = this.#sets.get(key);
    if (set === undefined) {
      this.#sets.set(key, (set = { records, word: 0 }));
      this.cost += records.length * NEW_ATTRIBUTE_COST;
    }
    return set;
  }
}
