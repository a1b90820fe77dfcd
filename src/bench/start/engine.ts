/** What says that a workload is ready: its end, the last of its output once it has ended, a line of its output, or a TCP port on this host. */
export type Ready =
  | { readonly kind: 'exit' }
  | { readonly kind: 'output' }
  | { readonly kind: 'line'; readonly pattern: RegExp }
  | { readonly kind: 'port'; readonly port: number };

/** How an image gets to be used in one column of the report. */
export type Way =
  /** Pulled whole and unpacked. */
  | { readonly kind: 'full' }
  /** By lazylayer, made lazily available; `pull` as below, where its own client is not to do that. containerd only. */
  | { readonly kind: 'lazy'; readonly pull?: string }
  /** By a snapshotter that runs already. `pull` is a shell command with `{image}`, `{address}` (of containerd) and `{snapshotter}`. */
  | { readonly kind: 'other'; readonly snapshotter: string; readonly socket: string; readonly pull?: string };

/** One column of the report. */
export interface Candidate {
  readonly name: string;
  /** As it is asked for in a run: where a proxy is before the registry, with its address. */
  readonly image: string;
  readonly way: Way;
}

export const phases = ['pull', 'create', 'run', 'ready'] as const;
export type Phase = (typeof phases)[number];

/**
 * When a start came how far, in milliseconds since 1970. `begin` to `pull` is asking for the image until the tool says that it is there;
 * to `create`, until the container exists; to `run`, until its first process runs; to `ready`, until it was ready.
 */
export type Moments = Readonly<Record<'begin' | Phase, number>>;

export interface Started {
  readonly moments: Moments;
  /** What the workload wrote until it was ready: the end of it. */
  readonly output: string;
}

export interface StartOptions {
  /** The image's own where it is empty. */
  readonly command: readonly string[];
  readonly ready: Ready;
  readonly signal: AbortSignal;
}

/** Daemons of one run, started on empty directories. Disposing ends everything that they and the run have started. */
export interface Place extends AsyncDisposable {
  /** Of lazylayer's daemon; undefined in columns without it. */
  readonly root: string | undefined;
  start(options: StartOptions): Promise<Started>;
  /** Ends the workload where it did not end by itself, once all figures are taken. */
  stop(): Promise<void>;
  /** Peak of lazylayer's resident memory in bytes, all its processes; undefined in columns without it. */
  peakMemory(): Promise<number | undefined>;
  /** What the reader of the figures has to know, such as layers that were not lazy. */
  notes(): string[];
}

export interface Engine {
  /** @throws FAILED_PRECONDITION where a program is not installed */
  check(candidates: readonly Candidate[]): void;
  /** `directory` is empty and this run's own. */
  open(candidate: Candidate, directory: string, signal: AbortSignal): Promise<Place>;
}

/** What starts lazylayer itself, and the configuration file that it is given. */
export interface Lazylayer {
  readonly command: readonly [file: string, ...args: string[]];
  readonly config: string | undefined;
}
