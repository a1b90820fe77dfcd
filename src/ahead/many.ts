import { setImmediate as turn, setTimeout as sleep } from 'node:timers/promises';
import type { LRUCache } from 'lru-cache';
import type { MergedNode } from '../fs/merged.js';
import type { Layer } from '../layer/layer.js';
import { PREFETCH } from '../layer/scheduler.js';
import { Serial } from '../util/serial.js';

/** A file that is read as one of many, each of which names others: a module, a header. */
export interface SourceFile {
  /** As whoever reads it has found it. */
  readonly path: string;
  readonly node: MergedNode;
}

/** How files name each other. */
export interface Language {
  /** The files that one names, where the image has them. */
  leadsTo(file: SourceFile, content: Uint8Array): SourceFile[];
  /** Whether a file is a program or library besides, and needs what these need. */
  isProgram(path: string): boolean;
  /** Compressed bytes around a file that are brought along, for each that was followed before. */
  readonly around: number;
}

/** What brings files, and remembers which. */
export interface Bringer {
  readonly layers: readonly Layer[];
  readonly seen: LRUCache<string, true>;
  keyOf(node: MergedNode): string;
  /** Asks for small files of which many are about to be read. */
  bringMany(files: readonly SourceFile[], around: number): void;
  /** Brings a program and all that it needs. */
  follow(node: MergedNode): Promise<void>;
}

/** Files that one walk leads to at most. */
const MAX_FILES = 2048;
/** Bytes of a file that is looked at; larger ones hold data, or are libraries. */
const MAX_FILE_BYTES = 1024 * 1024;
/** The same of all files that one walk leads to. */
const MAX_BYTES = 64 * 1024 * 1024;
/** How long it is waited for more files whose names are asked for at once: what one request brings comes within this. */
const GATHER_MS = 8;
/** Compressed bytes around a file that are brought along, at most. */
const MAX_AROUND_BYTES = 1024 * 1024;

/** Brings small files, all that they name, and what those name: what is found at about the same time by few requests. */
export class ManyFiles {
  readonly #bringer: Bringer;
  #files = 0;
  /** Bytes that may still be looked at. */
  #bytes = MAX_BYTES;
  readonly #parsing = new Serial();

  constructor(bringer: Bringer) {
    this.#bringer = bringer;
  }

  /** Brings files and all that they lead to. */
  async follow(language: Language, files: readonly SourceFile[]): Promise<void> {
    const { seen } = this.#bringer;
    const led = new Set<Promise<unknown>>();
    let found = [...files];
    const lead = (work: Promise<unknown>) => {
      const done: Promise<unknown> = work.catch(() => {}).then(() => led.delete(done));
      led.add(done);
    };
    while (found.length > 0 || led.size > 0) {
      // What comes by one request comes about at once, and what it leads to is asked for together.
      if (found.length === 0) await Promise.race(led);
      await sleep(GATHER_MS);
      const wanted = new Map(found.map((file) => [this.#bringer.keyOf(file.node), file]));
      found = [];
      for (const key of wanted.keys()) if (seen.has(key) || ++this.#files > MAX_FILES) wanted.delete(key);
      this.#bringer.bringMany([...wanted.values()], Math.min(MAX_AROUND_BYTES, language.around * this.#files));
      for (const [key, file] of wanted) {
        if (language.isProgram(file.path)) lead(this.#bringer.follow(file.node));
        seen.set(key, true);
        lead(
          this.namedBy(language, file).then(
            (named) => (found = found.concat(named)), // any number: too many for arguments
            () => seen.delete(key), // it did not come: the next reader tries again
          ),
        );
      }
    }
  }

  /** What one file names; nothing where it is too large to look at. */
  async namedBy(language: Language, file: SourceFile): Promise<SourceFile[]> {
    const { layer: index, inode } = file.node;
    const layer = this.#bringer.layers[index];
    const size = layer.tree.size[inode];
    if (size > Math.min(MAX_FILE_BYTES, this.#bytes)) return [];
    this.#bytes -= size;
    const content = await layer.read(inode, 0, size, { priority: PREFETCH });
    // One after the other, so that whoever waits for anything else is served between them.
    return this.#parsing.run(async () => {
      await turn();
      return language.leadsTo(file, content);
    });
  }
}
