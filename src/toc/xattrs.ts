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

/** Interns sets of attributes, so that equal sets are one object. */
export class XattrTable {
  readonly #sets = new Map<string, XattrSet>();

  /** The set of an entry, or undefined for none. A name given twice has its last value; overlayfs's own names are dropped. */
  intern(xattrs: readonly Xattr[]): XattrSet | undefined {
    if (xattrs.length === 0) return undefined;
    const byName = new Map<string, string>();
    for (const { name, value } of xattrs) {
      const key = latin1(name);
      if (!isOverlayOwn(key)) byName.set(key, latin1(value));
    }
    return this.#find([...byName]);
  }

  /** The same set with the marks of an opaque directory for overlayfs mounted by root and with `userxattr`. */
  withOpaque(set: XattrSet | undefined): XattrSet {
    return this.#find([...(set?.records ?? []), ...opaque])!;
  }

  #find(records: (readonly [string, string])[]): XattrSet | undefined {
    if (records.length === 0) return undefined;
    records.sort(([a], [b]) => (a < b ? -1 : 1));
    const key = records.map(([n, v]) => `${n.length}:${v.length}:${n}${v}`).join('');
    let set = this.#sets.get(key);
    if (set === undefined) this.#sets.set(key, (set = { records, word: 0 }));
    return set;
  }
}
