import { constants } from 'node:os';
import { LazylayerError } from '../errors.js';
import { ROOT } from '../toc/tree.js';
import { LayerNodes, sleepingNodes, statisticsOf, type LayerView, type SleepingLayer } from './layer-nodes.js';
import { MAX_SLOT, nodeNumber, UPPER, UPPER_ROOT } from './nodes.js';
import type { Attributes, CachedRange, DirectoryEntry, NodeOperations, Statistics } from './nodes.js';
import { UpperTree } from './upper-tree.js';

const { ENAMETOOLONG, ESTALE } = constants.errno;

/** One layer of a reference in the store view. */
export interface ReferenceLayer {
  /** Layer digest, or the digest of its TOC: the name of the directory. */
  readonly digest: string;
  readonly slot: number;
  /** Absolute path of its tree where that is mounted apart; else it is in this one. */
  readonly path?: string;
  /** Bytes of the files `info` and `blob` beside `diff`; neither is there without it. */
  readonly files?: { readonly info: number; readonly blob: number };
}

/** References as users write them, with their layers. */
export type References = readonly { readonly reference: string; readonly layers: readonly ReferenceLayer[] }[];

export interface ServedTreeOptions {
  /** Where the `pool` symlink leads; none is made without it. */
  readonly pool?: string;
  /** References, and layers of references, that are not there are DEFERRED: somebody can add them when they are asked for. */
  readonly resolves?: boolean;
  /** Hears of each directory of the upper tree whose entries changed, by its inode. */
  readonly changed?: (directory: number) => void;
  /** Hears of each name that a directory of the upper tree, by its inode, has no more, or that became another node's. */
  readonly gone?: (directory: number, name: string) => void;
}

/** The directory of all layers. */
export const LAYERS = 'l';
/** Bytes of a name. */
export const NAME_MAX = 255;

/**
 * All layers in one tree:
 *
 *     l/<slot>/                          the root of one layer
 *     <base64 reference>/<digest>/diff   a symlink to ../../l/<slot>, or to where the layer is mounted apart
 *     <base64 reference>/<digest>/info   what the layer is, in JSON; of layers that the additional layer store has
 *     <base64 reference>/<digest>/blob   the layer as it is in the registry; likewise
 *     pool                               a symlink
 *
 * Nodes are (slot, inode) pairs. Those of layers never change, those of the upper tree do. An operation on a slot that has no
 * layer gives -ESTALE, on one whose layer sleeps ASLEEP.
 */
export class ServedTree {
  readonly #upper: UpperTree;
  readonly #layers: number;
  readonly #slots: (NodeOperations | undefined)[];
  /** Of every layer, awake or not, by slot. */
  readonly #statistics = new Map<number, Statistics>();
  /** See `ServedTreeOptions`. */
  readonly resolves: boolean;

  constructor(options: ServedTreeOptions = {}) {
    this.#upper = new UpperTree(options.changed, options.gone);
    this.#slots = [this.#upper];
    this.#layers = this.#upper.addDirectory(UPPER_ROOT, LAYERS);
    this.resolves = options.resolves ?? false;
    if (this.resolves) this.#upper.deferUnknown(UPPER_ROOT);
    if (options.pool !== undefined) this.#upper.addSymlink(UPPER_ROOT, 'pool', options.pool);
  }

  /**
   * Puts a layer in a slot, or wakes the one that sleeps there.
   * @throws ALREADY_EXISTS where a layer is awake in the slot, INVALID_ARGUMENT where it is out of range.
   */
  attach(view: LayerView): void {
    const { slot } = view;
    if (this.#statistics.has(slot) && !this.asleep(slot))
      throw new LazylayerError('ALREADY_EXISTS', `slot ${slot} already has a layer`);
    this.#know(slot, statisticsOf(view.tree));
    this.#slots[slot] = new LayerNodes(view);
  }

  /** Keeps the slot's name, and of its layer nothing: from now on its operations give ASLEEP. @throws INVALID_ARGUMENT */
  sleep({ slot, statistics }: SleepingLayer): void {
    this.#know(slot, statistics);
    this.#slots[slot] = sleepingNodes;
  }

  asleep(slot: number): boolean {
    return this.#slots[slot] === sleepingNodes;
  }

  #know(slot: number, statistics: Statistics): void {
    if (!Number.isInteger(slot) || slot <= UPPER || slot > MAX_SLOT)
      throw new LazylayerError('INVALID_ARGUMENT', `slot: expected a number from 1 to ${MAX_SLOT}, found ${slot}`);
    if (!this.#statistics.has(slot)) this.#upper.addForeign(this.#layers, String(slot), nodeNumber(slot, ROOT));
    this.#statistics.set(slot, statistics);
  }

  /** Nodes of the slot are stale from now on. Does nothing where there is no layer. */
  detach(slot: number): void {
    if (!this.#statistics.delete(slot)) return;
    this.#slots[slot] = undefined;
    this.#upper.remove(this.#layers, String(slot));
  }

  /**
   * Shows these layers of a reference, and no others; undefined takes it away. Left out: a reference whose base64 has a `/`, which no
   * file name can hold; clients look such a name up as several, and never find it in any store.
   */
  setReference(reference: string, layers: readonly ReferenceLayer[] | undefined): void {
    const name = Buffer.from(reference).toString('base64');
    if (name.includes('/')) return;
    if (layers === undefined) return this.#upper.remove(UPPER_ROOT, name);
    const directory = this.#upper.addDirectory(UPPER_ROOT, name);
    if (this.resolves) this.#upper.deferUnknown(directory);
    this.#setLayers(directory, layers);
  }

  #setLayers(directory: number, layers: readonly ReferenceLayer[]): void {
    const wanted = new Map(layers.map((l) => [l.digest, l]));
    for (const digest of this.#upper.names(directory)) if (!wanted.has(digest)) this.#upper.remove(directory, digest);
    for (const [digest, { slot, path, files }] of wanted) {
      const layer = this.#upper.addDirectory(directory, digest);
      if (this.resolves) this.#upper.deferUnknown(layer);
      const inside = `../../${LAYERS}/${slot}`;
      const target = path ?? inside;
      const diff = this.#upper.child(layer, 'diff');
      if (diff === undefined || String(this.#upper.readlink(diff)) !== target)
        this.#upper.addSymlink(layer, 'diff', target);
      for (const name of ['info', 'blob'] as const) this.#setFile(layer, name, files?.[name], inside);
    }
  }

  #setFile(layer: number, name: string, size: number | undefined, identity: string): void {
    const file = this.#upper.child(layer, name);
    if (size === undefined) return this.#upper.remove(layer, name);
    if (file === undefined || this.#upper.sizeOf(file) !== size)
      this.#upper.addFile(layer, name, size, `${identity}\0${size}`);
  }

  /** Names from the root to a directory or a file of the upper tree; undefined for what is none, or is gone. */
  pathOf(inode: number): string[] | undefined {
    return this.#upper.pathOf(inode);
  }

  lookup(slot: number, directory: number, bytes: Uint8Array, start: number, end: number): number {
    if (end - start > NAME_MAX) return -ENAMETOOLONG;
    return this.#slots[slot]?.lookup(directory, bytes, start, end) ?? -ESTALE;
  }

  getattr(slot: number, inode: number, into: Attributes): number {
    return this.#slots[slot]?.getattr(inode, into) ?? -ESTALE;
  }

  readlink(slot: number, inode: number): Uint8Array | number {
    return this.#slots[slot]?.readlink(inode) ?? -ESTALE;
  }

  readdir(slot: number, directory: number, offset: number, into: DirectoryEntry): number {
    return this.#slots[slot]?.readdir(directory, offset, into) ?? -ESTALE;
  }

  getxattr(slot: number, inode: number, bytes: Uint8Array, start: number, end: number): Uint8Array | number {
    return this.#slots[slot]?.getxattr(inode, bytes, start, end) ?? -ESTALE;
  }

  listxattr(slot: number, inode: number): Uint8Array | number {
    return this.#slots[slot]?.listxattr(inode) ?? -ESTALE;
  }

  read(slot: number, inode: number, offset: number, length: number, into: CachedRange): number {
    return this.#slots[slot]?.read(inode, offset, length, into) ?? -ESTALE;
  }

  /** Of every layer together. */
  statfs(into: Statistics): void {
    into.bytes = 0;
    into.files = this.#upper.size;
    for (const { bytes, files } of this.#statistics.values()) {
      into.bytes += bytes;
      into.files += files;
    }
  }
}
