import type { Presence } from '../cache/presence.js';
import { kindOf } from '../layer/places.js';
import type { Tree } from '../toc/tree.js';

const KIB = 1024;
/** What is read at once is read within this, in milliseconds: whoever waits for it asks for more than the file, and must not be forestalled. */
const DELAY_MS = 10;
/** Files that are looked at within that time. More of them are a walk, which looks at everything and reads nothing. */
const MAX_WAITING = 32;
/** Compressed bytes up to which a file is small, and comes whole. */
const SMALL_BYTES = 128 * KIB;
/** The same of the beginning of a larger one. */
const BEGINNING_BYTES = 2048 * KIB;
/** What a file counts at least, as its request costs more than its bytes. */
const LEAST_BYTES = 16 * KIB;
/** Compressed bytes of small files that were brought of a layer and that nobody has read yet: of one kind, and of all. */
const KIND_CREDIT = 128 * KIB;
const LAYER_CREDIT = 512 * KIB;
/** Of modules in Python the time is looked at, and another file is read that was compiled from them. */
const ONLY_LOOKED_AT: ReadonlySet<number> = new Set([kindOf(Buffer.from('module.py'))]);

/** What is looked at: a layer that is awake. */
interface View {
  readonly slot: number;
  readonly tree: Tree;
  readonly presence: Presence;
}

/** Files of one layer that should come. */
export interface Wanted {
  /** Small ones, by their inodes. */
  readonly whole: number[];
  /** Larger ones, of which only the beginning is asked for. */
  readonly beginnings: number[];
}

interface Found {
  readonly layer: LayerCredit;
  readonly inode: number;
  readonly kind: number;
}

/** What a layer may cost, and what it has brought that nobody has read yet: what it counts and its kind, by inode. */
interface LayerCredit {
  view: View | undefined;
  /** A bit a directory that was listed, by inode. */
  listed: Uint32Array | undefined;
  readonly unread: Map<number, { readonly kind: number; readonly bytes: number }>;
  readonly kinds: Map<number, number>;
  bytes: number;
  /** The one larger file. */
  large: number | undefined;
}

/**
 * Files that a program has found by name and not read yet, of those whose beginning is missing: it is likely to read them soon, as a
 * compiler looks for what it links before it starts the linker. Whoever only looks is given a small credit, which it gets back as it
 * reads: of each layer, so many bytes are unread at most, of each kind of name, and of all. Programs are looked for in many places and
 * seldom run. A layer with a landmark says itself what a start needs. Told of every LOOKUP and READ, it does little for most of them.
 */
export class LookedUp {
  /** By slot. Kept while a layer sleeps, so that it does not cost again when it wakes. */
  readonly #layers: (LayerCredit | undefined)[] = [];
  #waiting: Found[] = [];
  /** `later` was asked. */
  #timed = false;
  #isWalk = false;
  /** Files in `unread`, of all layers. */
  #unread = 0;
  readonly #bring: (slot: number, wanted: Wanted) => void;
  readonly #later: (work: () => void) => void;

  /** `bring` hears of the files of one layer that should come. `later` runs what is to be done when readers had their time. */
  constructor(bring: (slot: number, wanted: Wanted) => void, later: (work: () => void) => void = afterReaders) {
    this.#bring = bring;
    this.#later = later;
  }

  /** A layer is there, or awake again. */
  attach(view: View): void {
    if (view.tree.isMarked) return;
    const layer = this.#layers[view.slot];
    if (layer !== undefined) layer.view = view;
    else
      this.#layers[view.slot] = {
        view,
        listed: undefined,
        unread: new Map(),
        kinds: new Map(),
        bytes: 0,
        large: undefined,
      };
  }

  /** Nothing of the layer is in memory any more. */
  sleep(slot: number): void {
    const layer = this.#layers[slot];
    if (layer === undefined) return;
    layer.view = undefined;
    this.#waiting = this.#waiting.filter((file) => file.layer !== layer);
  }

  detach(slot: number): void {
    this.sleep(slot);
    this.#unread -= this.#layers[slot]?.unread.size ?? 0;
    this.#layers[slot] = undefined;
  }

  /** Somebody lists a directory: it is walked, or its files are known without being looked for. */
  listed(slot: number, directory: number): void {
    const layer = this.#layers[slot];
    if (layer?.view === undefined) return;
    layer.listed ??= new Uint32Array(Math.ceil(layer.view.tree.counts.inodes / 32));
    layer.listed[directory >>> 5] |= 1 << (directory & 31);
  }

  /** Somebody found a file in a directory, by the name at `[start, end)` of `bytes`. */
  found(slot: number, directory: number, inode: number, bytes: Uint8Array, start: number, end: number): void {
    const layer = this.#layers[slot];
    if (layer?.view === undefined || layer.bytes + LEAST_BYTES > LAYER_CREDIT) return;
    if (layer.listed !== undefined && (layer.listed[directory >>> 5] & (1 << (directory & 31))) !== 0) return;
    const { tree } = layer.view;
    if (!tree.isRegular(inode) || !isMissing(layer.view, inode)) return;
    if (this.#waiting.length === MAX_WAITING) {
      this.#isWalk = true;
      return;
    }
    const kind = kindOf(bytes.subarray(start, end));
    if (ONLY_LOOKED_AT.has(kind) || (kind === 0 && (tree.mode[inode] & 0o111) !== 0)) return;
    if (layer.unread.has(inode)) return;
    this.#waiting.push({ layer, inode, kind });
    if (this.#timed) return;
    this.#timed = true;
    this.#later(() => this.#look());
  }

  /** Somebody reads a file. */
  read(slot: number, inode: number): void {
    if (this.#unread > 0) this.#giveBack(this.#layers[slot], inode);
    if (this.#waiting.length === 0) return;
    const layer = this.#layers[slot];
    const at = this.#waiting.findIndex((file) => file.layer === layer && file.inode === inode);
    if (at >= 0) this.#waiting.splice(at, 1);
  }

  #giveBack(layer: LayerCredit | undefined, inode: number): void {
    const file = layer?.unread.get(inode);
    if (layer === undefined || file === undefined) return;
    layer.unread.delete(inode);
    this.#unread--;
    layer.bytes -= file.bytes;
    layer.kinds.set(file.kind, layer.kinds.get(file.kind)! - file.bytes);
    if (layer.large === inode) layer.large = undefined;
  }

  /** Readers had their time: what is still unread, and missing, is asked for. */
  #look(): void {
    const waiting = this.#waiting;
    const isWalk = this.#isWalk;
    this.#waiting = [];
    this.#timed = false;
    this.#isWalk = false;
    if (isWalk) return;
    const bySlot = new Map<number, Wanted>();
    for (const { layer, inode, kind } of waiting) {
      const { view } = layer;
      if (view === undefined || !isMissing(view, inode) || !charge(layer, view.tree, inode, kind)) continue;
      this.#unread++;
      const wanted = bySlot.get(view.slot) ?? { whole: [], beginnings: [] };
      bySlot.set(view.slot, wanted);
      (layer.large === inode ? wanted.beginnings : wanted.whole).push(inode);
    }
    for (const [slot, wanted] of bySlot) this.#bring(slot, wanted);
  }
}

/** Also where the thread had no processor meanwhile, READs that have come are answered first. */
function afterReaders(work: () => void): void {
  setTimeout(() => setImmediate(work), DELAY_MS);
}

/** False where the credit does not reach, or the file is there twice. */
function charge(layer: LayerCredit, tree: Tree, inode: number, kind: number): boolean {
  const first = tree.first[inode];
  const whole = tree.compressedBytes(first, first + tree.count[inode]);
  const small = whole <= SMALL_BYTES;
  if (!small && (layer.large !== undefined || tree.compressedBytes(first, first + 1) > BEGINNING_BYTES)) return false;
  const bytes = small ? Math.max(LEAST_BYTES, whole) : LEAST_BYTES;
  const ofKind = layer.kinds.get(kind) ?? 0;
  if (layer.unread.has(inode) || ofKind + bytes > KIND_CREDIT || layer.bytes + bytes > LAYER_CREDIT) return false;
  layer.unread.set(inode, { kind, bytes });
  layer.kinds.set(kind, ofKind + bytes);
  layer.bytes += bytes;
  if (!small) layer.large = inode;
  return true;
}

/** Whether a file has a beginning, and it is not in the cache. */
function isMissing({ tree, presence }: View, inode: number): boolean {
  return tree.count[inode] > 0 && !presence.has(tree.first[inode]);
}
