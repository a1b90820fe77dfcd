import { endOfMember, firstOfMember } from '../toc/members.js';
import { NONE, type Tree } from '../toc/tree.js';
import { kindOf, Places } from './places.js';

/** Chunks [first, end). */
export interface ChunkSpan {
  readonly first: number;
  readonly end: number;
}

interface Neighbourhood extends ChunkSpan {
  /** Compressed bytes of it that are not known yet. */
  readonly bytes: number;
}

/** What a program that starts has missed until now. */
interface Burst {
  /** Small files. */
  misses: number;
  /** Of its files: see `Places.kind`. */
  readonly kinds: Set<number>;
  /** How often, by directory. */
  readonly directories: Map<number, number>;
}

/** The misses of small files in a burst, over all layers: a program that starts reads in several. */
export interface Misses {
  count: number;
  /** When something was missed last, in milliseconds. */
  at: number;
}

/** Reading in order: it has been asked for up to `end`, by windows of `bytes`. */
interface Run {
  end: number;
  bytes: number;
  /** Windows after the first. Two in order may be chance, three are not. */
  steps: number;
}

const KIB = 1024;
const MIB = 1024 * KIB;
/** A file up to so many compressed bytes is brought along with its neighbours; a larger one is worth a request of its own. */
const SMALL_BYTES = 128 * KIB;
/** The same of a file in the directory of the one that is read. */
const OWN_BYTES = 512 * KIB;
/** Compressed bytes to bring with a small file from a place where nothing was read before: some 25 ms of transfer, within bounds. */
const FIRST_WINDOW = 512 * KIB;
const LEAST_WINDOW = 128 * KIB;
const WINDOW_SECONDS = 0.025;
/** The same, at most, of neighbours that are read in no order. */
const NEAR_WINDOW = MIB;
/** First windows that the second miss of a burst in one directory brings of it. */
const AGAIN_WINDOWS = 5;
/** Compressed bytes to bring with a large file. */
const BESIDE_BYTES = 256 * KIB;
/** Compressed bytes up to which a directory and all below it are one package. */
const PACKAGE_BYTES = 2 * MIB;
/** Compressed bytes of a window that may lie outside of the package. */
const BEYOND_BYTES = 384 * KIB;
/** Misses that follow on each other within so many milliseconds belong to one program that starts. */
const BURST_MS = 5000;
/** Compressed bytes between two wanted members that are taken along, at most, rather than that a second request is sent. */
export const GAP_BYTES = 64 * KIB;
/** The same between spans that are asked for at once. */
export const JOIN_BYTES = 128 * KIB;
/** The same where many small files are asked for, step by step: what lies between them is likely to be asked for soon. */
export const MANY_JOIN_BYTES = 384 * KIB;
/** Misses after which the first one in another layer belongs to a burst. */
const UNDER_WAY = 2;
/** Share of a window that lies before the place that is read. */
const BEHIND = 0.4;
/** Windows of reading in order grow up to this, in compressed bytes. */
const MAX_WINDOW = 4 * MIB;
/** Steps after which a run is taken for reading in order. */
const LASTING = 2;
/** Files up to this, compressed, are brought whole once a part is missed. */
const WHOLE_FILE_BYTES = 8 * MIB;
/** The same of programs, which are mapped and read here and there, and of files of which a second part is missed. */
const WHOLE_PROGRAM_BYTES = 16 * MIB;
/** Programs and libraries of which it is known how much of them is loaded. */
const MAX_LOADED = 4096;
const LIBRARY = kindOf(Buffer.from('.so'));
/** Chunks that a look over what is known takes in at most. */
const MAX_LOOK = 2048;
/** Runs and files that are remembered. */
const MEMORY = 64;

/**
 * What the readers of one layer are likely to read next, from where they have read. Tools put a layer's files in the order of their
 * names, so neighbours in the blob are neighbours in a directory, or belong to the same package: the more reads a program makes in a
 * burst, the more of the neighbourhood comes with the next one. Of the neighbours, those count whose names end as those of files that it
 * has missed: who reads modules or headers leaves the sources and manuals between them alone, and who runs a program leaves the others
 * alone that it lies among. Reading in order goes on in order, by windows that double.
 * All sizes are compressed bytes, as that is what the network is asked for.
 */
export class ReadAhead {
  readonly #tree: Tree;
  readonly #known: (chunk: number) => boolean;
  readonly #rate: () => number;
  readonly #misses: Misses;
  #burst: Burst = newBurst();
  /** When something was missed last, in milliseconds. */
  #missedAt = -Infinity;
  readonly #runs: Run[] = [];
  /** Files of several chunks that were missed, and where first. */
  readonly #files = new Map<number, number>();
  /** Programs and libraries, by inode, and the chunk behind what is loaded of them. */
  readonly #loaded = new Map<number, number>();
  #places: Places | undefined;

  /** `known`: whether a chunk is there, or on its way. `rate`: bytes per second, of late. `misses`: those in all layers. */
  constructor(
    tree: Tree,
    known: (chunk: number) => boolean,
    rate: () => number,
    misses: Misses = { count: 0, at: -Infinity },
  ) {
    this.#misses = misses;
    this.#tree = tree;
    this.#known = known;
    this.#rate = rate;
  }

  /** What to bring when a reader misses the small or large members of chunks [first, end); holds them. */
  window(first: number, end: number): ChunkSpan {
    const tree = this.#tree;
    const from = firstOfMember(tree, first);
    let run = this.#runs.find((one) => this.#leadsTo(one, from));
    if (run === undefined && this.#knownBehind(from) >= MAX_WINDOW) {
      // So much without a gap is no burst's doing: somebody goes through the layer, if not in the very order of the blob.
      run = { end: from, bytes: MAX_WINDOW / 2, steps: LASTING };
      remember(this.#runs, run);
    }
    if (run !== undefined && ++run.steps >= LASTING) {
      run.bytes = Math.min(MAX_WINDOW, Math.max(2 * run.bytes, FIRST_WINDOW));
      run.end = this.#forward(from, end, run.bytes);
      return { first: from, end: run.end };
    }
    const span = this.#neighbourhood(from, end);
    const bytes = tree.compressedBytes(from, span.end);
    if (run === undefined) remember(this.#runs, { end: span.end, bytes, steps: 0 });
    else Object.assign(run, { end: span.end, bytes });
    return { first: span.first, end: span.end };
  }

  /**
   * What to bring before it is missed, for a reader that has come to `chunk` in order and still finds what it reads; undefined where
   * enough is on its way.
   */
  next(chunk: number): ChunkSpan | undefined {
    const { chunkOffset, counts } = this.#tree;
    const run = this.#lastingAt(chunk);
    if (run === undefined || run.end >= counts.chunks || chunk >= counts.chunks) return undefined;
    if (chunkOffset[run.end] - chunkOffset[chunk] >= run.bytes / 2) return undefined;
    const first = run.end;
    run.bytes = Math.min(MAX_WINDOW, 2 * run.bytes);
    run.end = this.#forward(first, first, run.bytes);
    return { first, end: run.end };
  }

  /** A reader goes through a file in order, by its own word: what follows on `chunk` is brought ahead by `next` from now on. */
  inOrder(chunk: number): void {
    if (this.#lastingAt(chunk) !== undefined) return;
    remember(this.#runs, { end: chunk, bytes: FIRST_WINDOW, steps: LASTING });
  }

  /** The whole of a file of which chunk `missed` was missed, where the rest of it is likely to be wanted too. */
  wholeFile(inode: number, missed: number): ChunkSpan | undefined {
    const file = this.#file(inode);
    if (file.end - file.first < 2) return undefined;
    const bytes = this.#tree.compressedBytes(file.first, file.end);
    if (bytes <= WHOLE_FILE_BYTES || (bytes <= WHOLE_PROGRAM_BYTES && this.#isMapped(inode))) return file;
    if (bytes > WHOLE_PROGRAM_BYTES) return undefined;
    const before = this.#files.get(inode);
    if (before !== undefined) return before === missed ? undefined : file;
    if (this.#files.size >= MEMORY) this.#files.clear();
    this.#files.set(inode, missed);
    return undefined;
  }

  /** What to bring of a program or library that is about to be run: all of it, of a very large one the beginning. */
  program(inode: number): ChunkSpan {
    return wholeOrBeginning(this.#tree, this.#file(inode));
  }

  /** What to bring of a small file that is about to be read as one of many, such as a module: with it, those like it around it. */
  oneOfMany(inode: number, around: number): ChunkSpan {
    const places = (this.#places ??= new Places(this.#tree));
    const file = this.program(inode);
    if (file.first === file.end || this.#known(file.first)) return { first: file.first, end: file.first };
    const [directory, kind] = [places.directory(file.first), places.kind(file.first)];
    const alone = { ...file, bytes: this.#tree.compressedBytes(file.first, file.end) };
    const like = (chunk: number) =>
      places.directory(chunk) === directory && places.kind(chunk) === kind && !this.#known(chunk);
    // Libraries are larger, and more of them are not read.
    const most = kind === LIBRARY ? Math.min(around, OWN_BYTES) : around;
    const span = this.#grow(alone, alone.bytes + most, OWN_BYTES, like);
    // A short rest of the directory would soon be asked for by itself. By more than this, it would have grown if more were left.
    const whole = this.#grow(span, span.bytes + most + OWN_BYTES, OWN_BYTES, like);
    return whole.bytes - span.bytes <= most ? whole : span;
  }

  /**
   * Libraries that are brought, with what is left of a row of them that lies together: what a layer's packages brought with them is of use
   * together. Nothing, where more is left than half of what is brought: then the row is a system's.
   */
  withRow({ first, end }: ChunkSpan): ChunkSpan {
    const tree = this.#tree;
    const places = (this.#places ??= new Places(tree));
    if (places.kind(end - 1) !== LIBRARY) return { first, end };
    const within = places.parent(places.directory(end - 1));
    const most = tree.compressedBytes(first, end) / 2;
    const belongs = (chunk: number) =>
      places.kind(chunk) === LIBRARY && places.isBelow(chunk, within) && !this.#known(chunk);
    let stop = end;
    while (stop < tree.counts.chunks && belongs(stop)) {
      stop = endOfMember(tree, stop, tree.counts.chunks);
      if (tree.compressedBytes(end, stop) > most) return { first, end };
    }
    return { first, end: stop };
  }

  /**
   * Only the first `bytes` of a program or library are loaded: what lies behind them, such as what debuggers read, is not wanted with the rest.
   * Gives the first chunk of that.
   */
  loads(inode: number, bytes: number): number {
    const { end } = this.#tree.chunksOf(inode, 0, bytes);
    if (this.#loaded.size >= MAX_LOADED) this.#loaded.clear();
    this.#loaded.set(inode, end);
    return end;
  }

  /** The chunks of a file that are likely to be wanted at all. */
  #file(inode: number): ChunkSpan {
    const { first, end } = this.#tree.chunksOf(inode, 0, this.#tree.size[inode]);
    return { first, end: Math.min(end, this.#loaded.get(inode) ?? end) };
  }

  /** Whether a file is mapped, and read here and there: a program, or a library, which need not be executable. */
  #isMapped(inode: number): boolean {
    const tree = this.#tree;
    return (tree.mode[inode] & 0o111) !== 0 || (this.#places ??= new Places(tree)).kind(tree.first[inode]) === LIBRARY;
  }

  /** Whether a run has come to a chunk: over what is known, without a gap. */
  #leadsTo(run: Run, chunk: number): boolean {
    if (chunk < run.end || chunk - run.end > MAX_LOOK) return false;
    for (let at = run.end; at < chunk; at++) if (!this.#known(at)) return false;
    return true;
  }

  /** Compressed bytes that are known without a gap up to a chunk, as far as is looked. */
  #knownBehind(chunk: number): number {
    const { chunkOffset } = this.#tree;
    const floor = Math.max(0, chunk - MAX_LOOK);
    let back = chunk;
    while (back > floor && chunkOffset[chunk] - chunkOffset[back] < MAX_WINDOW && this.#known(back - 1)) back--;
    return back === floor && floor > 0 ? MAX_WINDOW : chunkOffset[chunk] - chunkOffset[back];
  }

  /** The reading in order whose last window holds a chunk, or ends with it. */
  #lastingAt(chunk: number): Run | undefined {
    const { chunkOffset, counts, facts } = this.#tree;
    return this.#runs.find(({ steps, end, bytes }) => {
      if (steps < LASTING || chunk > end) return false;
      return (end < counts.chunks ? chunkOffset[end] : facts.contentEnd) - chunkOffset[chunk] <= bytes;
    });
  }

  /** The end of a window that begins at `from` and takes in [from, end). */
  #forward(from: number, end: number, bytes: number): number {
    const tree = this.#tree;
    const offset = tree.chunkOffset[from];
    let at = from;
    while (at < tree.counts.chunks && (at < end || tree.chunkEnd(at) - offset <= bytes))
      at = endOfMember(tree, at, tree.counts.chunks);
    return at;
  }

  /**
   * Files around a missed one: first those of its directory, then of its package, then whatever lies around. A second miss in a directory
   * brings most of it.
   */
  #neighbourhood(first: number, end: number): ChunkSpan {
    const tree = this.#tree;
    const places = (this.#places ??= new Places(tree));
    const now = performance.now();
    if (now - this.#missedAt >= BURST_MS) this.#burst = newBurst();
    this.#missedAt = now;
    const { kinds, directories } = this.#burst;
    kinds.add(places.kind(first));
    const directory = places.directory(first);
    const alike = (chunk: number) => kinds.has(places.kind(chunk)) && !this.#known(chunk);
    const own = (chunk: number) => places.directory(chunk) === directory && alike(chunk);
    const alone = { first, end, bytes: tree.compressedBytes(first, end) };

    const program = places.isProgram(first);
    const largest = program ? SMALL_BYTES : OWN_BYTES;
    if (Math.max(places.fileBytes(first), this.#sizeOf(first)) > largest)
      return program ? alone : this.#grow(alone, alone.bytes + BESIDE_BYTES, largest, own);

    const least = Math.max(LEAST_WINDOW, Math.min(FIRST_WINDOW, this.#rate() * WINDOW_SECONDS));
    if (now - this.#misses.at >= BURST_MS) this.#misses.count = 0;
    this.#misses.at = now;
    // Whoever has come so far in other layers goes on in this one: its own modules, after those of what runs it.
    const goesOn = this.#misses.count++ >= UNDER_WAY && this.#burst.misses === 0;
    const window = goesOn ? NEAR_WINDOW : Math.min(NEAR_WINDOW, least * 2 ** this.#burst.misses);
    const before = directories.get(directory) ?? 0;
    directories.set(directory, before + 1);
    const again = before === 1 && !program;
    let span = this.#grow(alone, again ? Math.max(window, AGAIN_WINDOWS * least) : window, largest, own);
    const enclosing = places.enclosing(directory, PACKAGE_BYTES);
    if (enclosing !== NONE)
      span = this.#grow(span, window, largest, (chunk) => places.isBelow(chunk, enclosing) && alike(chunk));
    if (this.#burst.misses++ === 0 && !goesOn) return span;
    const beyond = goesOn ? window : Math.min(window, span.bytes + BEYOND_BYTES);
    return this.#grow(span, beyond, SMALL_BYTES, alike);
  }

  /**
   * Takes in members of files up to `largest` bytes that belong, to both sides, and short gaps between them, until `most` compressed bytes
   * are to be fetched.
   */
  #grow(from: Neighbourhood, most: number, largest: number, belongs: (chunk: number) => boolean): Neighbourhood {
    const { chunkOffset, counts } = this.#tree;
    let { first, end, bytes } = from;
    // How far it was looked, and the bytes from the span up to there.
    const down = { at: first, gap: 0, taken: 0, open: true };
    const up = { at: end, gap: 0, taken: 0, open: true };
    while (down.open || up.open) {
      const side = up.open && (!down.open || down.taken >= up.taken * (BEHIND / (1 - BEHIND))) ? up : down;
      const chunk = side === up ? up.at : down.at - 1;
      const apart =
        chunk >= 0 && chunk < counts.chunks
          ? side === up
            ? chunkOffset[chunk] - this.#tree.chunkEnd(end - 1)
            : chunkOffset[first] - this.#tree.chunkEnd(chunk)
          : Infinity;
      side.open = apart <= GAP_BYTES && Math.max(this.#sizeOf(chunk), this.#places!.fileBytes(chunk)) <= largest;
      if (!side.open) continue;
      if (!this.#known(chunk)) side.gap += this.#sizeOf(chunk);
      side.open = bytes + side.gap <= most;
      if (!side.open) continue;
      side.at = side === up ? endOfMember(this.#tree, chunk, counts.chunks) : firstOfMember(this.#tree, chunk);
      if (!belongs(chunk)) continue;
      if (side === up) end = side.at;
      else first = side.at;
      side.taken += side.gap;
      bytes += side.gap;
      side.gap = 0;
    }
    return { first, end, bytes };
  }

  /** Compressed bytes of the member that a chunk lies in. */
  #sizeOf(chunk: number): number {
    return this.#tree.compressedBytes(chunk, chunk + 1);
  }
}

const newBurst = (): Burst => ({ misses: 0, kinds: new Set(), directories: new Map() });

/** All of a file, of a very large one the beginning. */
export function programSpan(tree: Tree, inode: number): ChunkSpan {
  return wholeOrBeginning(tree, tree.chunksOf(inode, 0, tree.size[inode]));
}

function wholeOrBeginning(tree: Tree, file: ChunkSpan): ChunkSpan {
  if (tree.compressedBytes(file.first, file.end) <= WHOLE_PROGRAM_BYTES) return file;
  return { first: file.first, end: endOfMember(tree, file.first, file.end) };
}

function remember<V>(list: V[], value: V): void {
  list.push(value);
  if (list.length > MEMORY) list.shift();
}
