import { posix } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Serial } from '../util/serial.js';
import { Proc } from './proc.js';

/** What a process was started with. */
export interface CommandLine {
  readonly arguments: readonly string[];
  /** Its working directory, from its own root on. */
  readonly directory: string;
  /** It sees this machine's files as we do: its programs are none of an image. */
  readonly isOutside: boolean;
}

/** The pid of a process that the mount cannot see, or of none. */
const NOBODY = 0;
/** Processes whose command lines are to be looked at, and readers that are followed, at a time. */
const MAX_WAITING = 256;
/** When an answer is out, so much later a program that was being loaded has its arguments, in milliseconds. */
const LOADED_MS = 3;
/** A look takes less than this, in milliseconds, or hangs. */
const HANGS_MS = 1000;

/**
 * Looks at the command lines of processes, by `/proc/<pid>/cmdline` and by where the links `cwd` and `root` beside it lead.
 *
 * One after the other: the kernel takes a process's lock for that (mmap_lock), which that may hold while it waits for a file of ours. Then it
 * is one thread of the pool that waits, and the others bring that file.
 */
export class CommandLines {
  readonly #proc: Proc;
  /** Looks that have not begun. */
  readonly #waiting = new Map<number, Promise<CommandLine | undefined>>();
  readonly #looks = new Serial();
  #hangs = false;
  /** Processes that are followed. */
  #followed = 0;

  constructor(proc?: string) {
    this.#proc = new Proc(proc);
  }

  /** Undefined where nothing can be seen: the process is gone, or is being loaded. Never rejects. */
  look(pid: number): Promise<CommandLine | undefined> {
    const waiting = this.#waiting.get(pid);
    if (waiting !== undefined) return waiting;
    if (pid === NOBODY || this.#waiting.size >= MAX_WAITING) return Promise.resolve(undefined);
    const look = this.#looks.run(() => {
      this.#waiting.delete(pid);
      return this.#lookInTime(pid);
    });
    this.#waiting.set(pid, look);
    return look;
  }

  /** Gives up a look that hangs, and looks at nobody until it ends: it has a thread of the pool, and shall be the only one. */
  async #lookInTime(pid: number): Promise<CommandLine | undefined> {
    if (this.#hangs) return undefined;
    const look = this.#look(pid).catch(() => undefined);
    const gaveUp = new AbortController();
    const late = sleep(HANGS_MS, 'late' as const, { signal: gaveUp.signal, ref: false }).catch(() => undefined);
    const first = await Promise.race([look, late]);
    gaveUp.abort();
    if (first !== 'late') return first;
    this.#hangs = true;
    void look.then(() => (this.#hangs = false));
    return undefined;
  }

  /**
   * Tells of the command line of a process that waits for a read: the one that it has, and the one that it has soon after the read was
   * answered. For the first page of a program is read before the process becomes that program: until then it is what started it. Never rejects
   * unless `tell` does.
   */
  async follow(pid: number, answered: Promise<unknown>, tell: (line: CommandLine) => Promise<void>): Promise<void> {
    if (pid === NOBODY || this.#followed >= MAX_WAITING) return;
    const lookAndTell = async () => {
      const line = await this.look(pid);
      if (line !== undefined) await tell(line);
    };
    const again = async () => {
      await answered.catch(() => {});
      await sleep(LOADED_MS);
      await lookAndTell();
    };
    this.#followed++;
    try {
      await Promise.all([lookAndTell(), again()]);
    } finally {
      this.#followed--;
    }
  }

  async #look(pid: number): Promise<CommandLine | undefined> {
    const { bytes, cut } = await this.#proc.read(pid, 'cmdline');
    if (bytes.byteLength === 0) return undefined;
    const words = bytes.toString().split('\0');
    // Each ends with a zero, but where a program has written a title in their place. What is cut off is none.
    if (words.at(-1) === '' || cut) words.pop();
    const [cwd, root] = await Promise.all(['cwd', 'root'].map((name) => this.#proc.link(pid, name).catch(() => '/')));
    return {
      arguments: words,
      directory: within(root, cwd),
      isOutside: root === '/' && (await this.#proc.sharesMounts(pid)),
    };
  }
}

/** A path from another root on; of what lies outside of that, the root itself. */
function within(root: string, path: string): string {
  const relative = posix.relative(root, path);
  return relative === '..' || relative.startsWith('../') ? '/' : posix.join('/', relative);
}
