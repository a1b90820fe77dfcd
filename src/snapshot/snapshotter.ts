/**
 * The words, as containerd uses them:
 *
 * - A **snapshot** is a directory tree. It is active, a view, or committed.
 * - An **active** snapshot can be written through its mounts. It is made by `prepare` and known by its **key**.
 * - A **view** is the tree of its parent, read-only. It is made by `view` and known by its **key**.
 * - A **committed** snapshot never changes again. It is made of an active one by `commit` and known by its **name**; the key is free
 *   again. Only committed snapshots are parents.
 * - The **parent** of a snapshot is the name of the committed one that it starts from, or '' where it starts empty.
 * - A **remote** snapshot is a committed one whose tree nobody unpacked: a layer, served lazily.
 *
 * Keys and names share one namespace.
 */
export type Kind = 'active' | 'view' | 'committed';

export type Labels = Readonly<Record<string, string>>;

export interface Info {
  /** Key or name. */
  readonly name: string;
  readonly parent: string;
  readonly kind: Kind;
  readonly labels: Labels;
  /** Milliseconds since 1970. */
  readonly created: number;
  /** Milliseconds since 1970. */
  readonly updated: number;
}

/** What a snapshot takes on disk beyond its parent. */
export interface Usage {
  /** Bytes in allocated blocks; a hardlinked inode counts once. */
  readonly size: number;
  readonly inodes: number;
}

/** One call of mount(2) that a client makes to see a snapshot. */
export interface Mount {
  readonly type: string;
  readonly source: string;
  readonly target: string;
  readonly options: readonly string[];
}

export interface CreateOptions {
  readonly labels?: Labels;
  readonly signal?: AbortSignal;
}

export interface CommitOptions {
  readonly labels?: Labels;
  /** The parent of a snapshot that was prepared without one. */
  readonly parent?: string;
}

/** What is known of snapshots outlives a crash of the machine once the promise of a change has resolved. */
export interface Snapshotter extends AsyncDisposable {
  /** @throws NOT_FOUND */
  stat(key: string): Promise<Info>;

  /**
   * Takes over the fields of `info` that `fields` name: `labels` or `labels.<key>`, where a label that `info` lacks is removed; all
   * that may change where it names none.
   * @throws NOT_FOUND, INVALID_ARGUMENT for a field that never changes
   */
  update(info: Pick<Info, 'name' | 'labels'>, fields: readonly string[]): Promise<Info>;

  /** @throws NOT_FOUND */
  usage(key: string): Promise<Usage>;

  /**
   * The mounts of an active snapshot or a view, as `prepare` and `view` gave them.
   * @throws NOT_FOUND, FAILED_PRECONDITION for a committed one, UNAVAILABLE where a lazy layer below it cannot be reached
   */
  mounts(key: string, options?: { signal?: AbortSignal }): Promise<Mount[]>;

  /**
   * Makes an active snapshot. With the label `containerd.io/snapshot.ref` the caller also says under which name it is going to
   * commit what the labels describe: where that can be served as it is, there is nothing to unpack, and ALREADY_EXISTS tells so.
   * @throws ALREADY_EXISTS, NOT_FOUND for the parent, INVALID_ARGUMENT for a parent that is not committed, UNAVAILABLE
   */
  prepare(key: string, parent: string, options?: CreateOptions): Promise<Mount[]>;

  /** Makes a view. Fails as `prepare` does. */
  view(key: string, parent: string, options?: CreateOptions): Promise<Mount[]>;

  /**
   * Makes the active snapshot `key` the committed snapshot `name`. Its labels are replaced.
   * @throws NOT_FOUND, ALREADY_EXISTS, FAILED_PRECONDITION where the key is not active, INVALID_ARGUMENT for another parent
   */
  commit(name: string, key: string, options?: CommitOptions): Promise<void>;

  /**
   * Forgets a snapshot. Its key is free at once; its files go in the background.
   * @throws NOT_FOUND, FAILED_PRECONDITION where it has children
   */
  remove(key: string): Promise<void>;

  /**
   * Every snapshot that any of the filters takes, all without filters (see `parseFilters`). The snapshotter may be used, and
   * changed, meanwhile.
   * @throws INVALID_ARGUMENT for a filter that cannot be read
   */
  walk(filters?: readonly string[]): AsyncIterable<Info>;

  /** Resolves when the files of removed snapshots are gone. */
  cleanup(): Promise<void>;

  /** Ends the use of the snapshotter; a second time does nothing. Mounts that clients made stay. */
  close(): Promise<void>;
}
