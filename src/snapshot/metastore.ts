import { statfs } from 'node:fs/promises';
import { open, type Database, type RootDatabase } from 'lmdb';
import { LazylayerError } from '../errors.js';
import { keptLabels } from './labels.js';
import type { Kind, Labels, Usage } from './snapshotter.js';

/** What is kept of a lazily served layer. */
export interface RemoteRecord {
  /** Whatever brings the layer back after a restart; JSON. */
  readonly record: unknown;
}

export interface SnapshotRecord {
  /** Never given twice, and the name of the snapshot's directory. */
  readonly id: number;
  /** Key or name. */
  readonly name: string;
  readonly kind: Kind;
  readonly parent: string;
  readonly labels: Labels;
  /** Milliseconds since 1970, as `updated`. */
  readonly created: number;
  readonly updated: number;
  /** Of a committed snapshot that is not remote. */
  readonly usage?: Usage;
  readonly remote?: RemoteRecord;
}

/** lmdb takes keys of at most 1978 bytes. */
const nameBytes = 1900;
/** Room for the pages that a transaction copies, many times over; less for removals, which are how room comes back. */
const changeBytes = 1024 * 1024;
const removalBytes = 256 * 1024;

interface Change {
  /** Records to keep, and names to forget. */
  readonly put: readonly SnapshotRecord[];
  readonly remove: readonly string[];
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

/**
 * What is known of every snapshot: in memory for answers, in lmdb for good. A change is checked and made in memory in one turn, so
 * that no two of them cross, and resolves once it is on disk. Changes that come while others are being written go out as one
 * transaction, with one fdatasync. Where a write fails, memory goes back to what the disk has and every change in flight fails.
 */
export class Metastore implements AsyncDisposable {
  readonly #path: string;
  readonly #root: RootDatabase;
  readonly #snapshots: Database<SnapshotRecord, Buffer>;
  readonly #counters: Database<number, string>;
  readonly #records = new Map<string, SnapshotRecord>();
  /** How many snapshots have the committed one of this name as parent. */
  readonly #children = new Map<string, number>();
  #nextId = 1;
  #queue: Change[] = [];
  #writing: Promise<void> | undefined;
  #closed = false;

  /** Opens or makes the store in a directory. One process at a time may have it open. */
  constructor(path: string) {
    this.#path = path;
    // mmap'ed pages are shared with the page cache: what a committed transaction wrote survives SIGKILL.
    this.#root = open({ path, maxDbs: 2, noSubdir: false });
    this.#snapshots = this.#root.openDB({ name: 'snapshots', encoding: 'json', keyEncoding: 'binary' });
    this.#counters = this.#root.openDB({ name: 'counters', encoding: 'json' });
    this.#load();
  }

  #load(): void {
    this.#records.clear();
    this.#children.clear();
    for (const { value } of this.#snapshots.getRange()) {
      this.#records.set(value.name, value);
      this.#count(value.parent, 1);
    }
    this.#nextId = Math.max(this.#nextId, this.#counters.get('next id') ?? 1);
  }

  #count(parent: string, by: 1 | -1): void {
    if (parent === '') return;
    const count = (this.#children.get(parent) ?? 0) + by;
    if (count === 0) this.#children.delete(parent);
    else this.#children.set(parent, count);
  }

  get size(): number {
    return this.#records.size;
  }

  /** Every record as of now; safe against changes during the walk. */
  all(): SnapshotRecord[] {
    return [...this.#records.values()];
  }

  find(name: string): SnapshotRecord | undefined {
    return this.#records.get(name);
  }

  /** @throws NOT_FOUND */
  get(name: string): SnapshotRecord {
    const found = this.#records.get(name);
    if (found === undefined) throw new LazylayerError('NOT_FOUND', `snapshot ${name} does not exist`);
    return found;
  }

  hasChildren(name: string): boolean {
    return this.#children.has(name);
  }

  /** The committed snapshots from `parent` down to the one that starts empty. */
  chain(parent: string): SnapshotRecord[] {
    const chain: SnapshotRecord[] = [];
    for (let name = parent; name !== ''; name = chain[chain.length - 1].parent) chain.push(this.get(name));
    return chain;
  }

  /** A number that no snapshot of this store ever had. */
  takeId(): number {
    return this.#nextId++;
  }

  /** Makes ids go on above `id`, which is in use although no record tells so. */
  skipId(id: number): void {
    this.#nextId = Math.max(this.#nextId, id + 1);
  }

  /** @throws ALREADY_EXISTS, NOT_FOUND and INVALID_ARGUMENT for the parent */
  checkNew(name: string, parent: string): void {
    if (name === '' || Buffer.byteLength(name) > nameBytes)
      throw new LazylayerError(
        'INVALID_ARGUMENT',
        `snapshot key or name: expected 1 to ${nameBytes} bytes, found ${Buffer.byteLength(name)}`,
      );
    if (this.#records.has(name)) throw new LazylayerError('ALREADY_EXISTS', `snapshot ${name} exists already`);
    this.#checkParent(name, parent);
  }

  #checkParent(name: string, parent: string): void {
    if (parent === '') return;
    const { kind } = this.get(parent);
    if (kind !== 'committed')
      throw new LazylayerError(
        'INVALID_ARGUMENT',
        `parent of snapshot ${name}: expected a committed snapshot, found ${parent}, which is ${kind}`,
      );
  }

  /** Fails as `checkNew` does. */
  async create(
    fields: Pick<SnapshotRecord, 'id' | 'name' | 'kind' | 'parent' | 'labels' | 'usage' | 'remote'>,
  ): Promise<void> {
    this.checkNew(fields.name, fields.parent);
    const now = Date.now();
    await this.#change([{ ...fields, labels: keptLabels(fields.labels), created: now, updated: now }], []);
  }

  /** @throws NOT_FOUND, ALREADY_EXISTS, FAILED_PRECONDITION, INVALID_ARGUMENT; see `Snapshotter.commit` */
  async commit(key: string, name: string, fields: { labels: Labels; usage: Usage; parent: string }): Promise<void> {
    const active = this.checkCommit(key, name, fields.parent);
    const now = Date.now();
    const parent = active.parent === '' ? fields.parent : active.parent;
    const { labels, usage } = fields;
    await this.#change(
      [{ ...active, name, kind: 'committed', parent, labels: keptLabels(labels), usage, created: now, updated: now }],
      [key],
    );
  }

  /** The active snapshot that may be committed so; fails as `commit` does. */
  checkCommit(key: string, name: string, parent: string): SnapshotRecord {
    this.checkNew(name, parent);
    const active = this.get(key);
    if (active.kind !== 'active')
      throw new LazylayerError(
        'FAILED_PRECONDITION',
        `commit of ${key}: expected an active snapshot, found one that is ${active.kind}`,
      );
    if (active.parent !== '' && parent !== '' && parent !== active.parent)
      throw new LazylayerError(
        'INVALID_ARGUMENT',
        `commit of ${key}: expected no parent or its own, ${active.parent}, found ${parent}`,
      );
    return active;
  }

  /** @throws NOT_FOUND */
  async setLabels(name: string, labels: Labels): Promise<SnapshotRecord> {
    const changed = { ...this.get(name), labels: keptLabels(labels), updated: Date.now() };
    await this.#change([changed], []);
    return changed;
  }

  /** @throws NOT_FOUND, FAILED_PRECONDITION where it has children */
  async remove(name: string): Promise<SnapshotRecord> {
    const record = this.get(name);
    if (this.hasChildren(name))
      throw new LazylayerError(
        'FAILED_PRECONDITION',
        `cannot remove snapshot ${name}: it is the parent of ${this.#children.get(name)} others, which have to go first`,
      );
    await this.#change([], [name]);
    return record;
  }

  #change(put: readonly SnapshotRecord[], remove: readonly string[]): Promise<void> {
    if (this.#closed) throw new LazylayerError('FAILED_PRECONDITION', 'the snapshotter is closed');
    for (const name of remove) {
      this.#count(this.get(name).parent, -1);
      this.#records.delete(name);
    }
    for (const record of put) {
      const old = this.#records.get(record.name);
      if (old !== undefined) this.#count(old.parent, -1);
      this.#records.set(record.name, record);
      this.#count(record.parent, 1);
    }
    return new Promise((resolve, reject) => {
      this.#queue.push({ put, remove, resolve, reject });
      this.#writing ??= this.#write();
    });
  }

  async #write(): Promise<void> {
    while (this.#queue.length > 0) {
      const changes = this.#queue;
      this.#queue = [];
      try {
        await this.#checkSpace(changes.every(({ put }) => put.length === 0));
        // Writes of one turn are one transaction, and each of them tells how it went.
        const writes: Promise<unknown>[] = [this.#counters.put('next id', this.#nextId)];
        for (const { put, remove } of changes) {
          for (const name of remove) writes.push(this.#snapshots.remove(Buffer.from(name)));
          for (const record of put) writes.push(this.#snapshots.put(Buffer.from(record.name), record));
        }
        await Promise.all(writes);
        await this.#root.flushed;
        for (const change of changes) change.resolve();
      } catch (error) {
        // lmdb has a promise of its own for the transaction, which nobody else would hear.
        void this.#root.committed.then(undefined, () => undefined);
        const cause = await reasonOf(error);
        // What waits was checked against what did not get written.
        const failed = [...changes, ...this.#queue];
        this.#queue = [];
        this.#load();
        const told =
          cause instanceof LazylayerError
            ? cause
            : new LazylayerError('INTERNAL', 'the metadata of snapshots could not be written', { cause });
        for (const change of failed) change.reject(told);
      }
    }
    // In the turn that found the queue empty: a change that comes later starts another run.
    this.#writing = undefined;
  }

  /** A transaction that the disk has no room for breaks lmdb, and may take the process along: none is begun without room. */
  async #checkSpace(onlyRemoves: boolean): Promise<void> {
    const { bfree, bsize } = await statfs(this.#path);
    const needed = onlyRemoves ? removalBytes : changeBytes;
    if (bfree * bsize < needed)
      throw new LazylayerError(
        'RESOURCE_EXHAUSTED',
        `metadata of snapshots: expected ${needed} free bytes at ${this.#path}, found ${bfree * bsize}: make room there`,
      );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.#writing;
    await this.#root.close();
  }
}

/** lmdb tells of a failed commit by an error that has the reason as a promise, which rejects. */
async function reasonOf(error: unknown): Promise<unknown> {
  try {
    await (error as { commitError?: Promise<unknown> }).commitError;
    return error;
  } catch (reason) {
    return reason;
  }
}
