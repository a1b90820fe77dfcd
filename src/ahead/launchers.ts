import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import { basename, isAbsolute, join, normalize } from 'node:path';
import * as v from 'valibot';
import { parseDocument } from '../image/json.js';
import { Serial } from '../util/serial.js';
import { behindImage, invocationOf, type Invocation } from './arguments.js';
import type { CommandLines } from './command-lines.js';
import { Proc, type Status } from './proc.js';

/** Bytes of a bundle's configuration that are read. */
const MAX_CONFIG = 1024 * 1024;

/** Nothing is followed, and nothing waited for. */
const READ_NOW = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;
/** OCI runtimes that have runc's command line, and what they are told when they make a container. */
const RUNTIMES = new Set(['runc', 'crun', 'youki', 'runsc', 'kata-runtime']);
const MAKES = new Set(['create', 'run', 'restore']);
/** Bundles that wait to be read. */
const MAX_WAITING = 16;

/** OCI runtime-spec, config.md, Process. */
const bundle = v.object({
  process: v.object({ args: v.array(v.string()), cwd: v.string(), env: v.optional(v.array(v.string()), []) }),
});

/**
 * Tells what a container is about to run while it is still made, by who makes it:
 * - an OCI runtime, or its child that becomes the container, was told by `--bundle` where the container's configuration lies;
 * - a client such as ctr or podman, which looks into the image before that, was given the command itself, behind the image's reference.
 *
 * A runtime is believed if it is a program of that name that shares our mounts and is root's or our own user's, through and through: it names a file
 * that is then opened here. All of it is a guess nevertheless: what it leads to is files of the image.
 */
export class Launchers {
  readonly #commandLines: CommandLines;
  readonly #proc: Proc;
  readonly #users: ReadonlySet<number>;
  readonly #reads = new Serial();
  #waiting = 0;

  constructor(commandLines: CommandLines, proc?: string, user = process.getuid?.() ?? 0) {
    this.#commandLines = commandLines;
    this.#proc = new Proc(proc);
    this.#users = new Set([0, user]);
  }

  /** Undefined of whoever launches nothing. Never rejects. */
  async invocation(pid: number): Promise<Invocation | undefined> {
    try {
      const status = await this.#proc.status(pid);
      const isOutside = status.pids.length === 1;
      const isFirst = status.pids.at(-1) === 1;
      if (!isOutside && !isFirst) return undefined;
      const directory = (await this.#bundleOf(pid, status)) ?? (await this.#bundleOf(status.parent));
      if (directory !== undefined) return await this.#inTurn(() => this.#read(directory));
      const words = isOutside ? behindImage(await this.#words(pid)) : [];
      return words.length === 0 ? undefined : invocationOf([words]);
    } catch {
      return undefined; // it is gone, or nothing can be seen of it
    }
  }

  /** The directory that a runtime was given, if that is what the process is. */
  async #bundleOf(pid: number, known?: Status): Promise<string | undefined> {
    const status = known ?? (await this.#proc.status(pid).catch(() => undefined));
    if (status === undefined || !(await this.#isRuntime(pid, status))) return undefined;
    const words = await this.#words(pid);
    const at = words.findIndex((word) => /^(--bundle|-b)(=|$)/.test(word));
    if (at < 0 || !words.some((word) => MAKES.has(word))) return undefined;
    const [, value = words[at + 1]] = /=(.*)$/s.exec(words[at]) ?? [];
    return value !== undefined && isAbsolute(value) ? normalize(value) : undefined;
  }

  async #isRuntime(pid: number, { users, pids }: Status): Promise<boolean> {
    if (pids.length > 1 || !users.every((user) => this.#users.has(user))) return false;
    const program = await this.#proc.link(pid, 'exe').catch(() => '');
    return RUNTIMES.has(basename(program)) && this.#proc.sharesMounts(pid);
  }

  async #words(pid: number): Promise<readonly string[]> {
    return (await this.#commandLines.look(pid))?.arguments ?? [];
  }

  /** One after the other: should one ever hang, it holds one thread of the pool, and no more. */
  #inTurn<V>(read: () => Promise<V | undefined>): Promise<V | undefined> {
    if (this.#waiting >= MAX_WAITING) return Promise.resolve(undefined);
    this.#waiting++;
    return this.#reads.run(read).finally(() => this.#waiting--);
  }

  async #read(directory: string): Promise<Invocation | undefined> {
    if (await this.#isServed(directory)) return undefined;
    await using file = await open(join(directory, 'config.json'), READ_NOW);
    const stat = await file.stat();
    if (!stat.isFile() || stat.size > MAX_CONFIG) return undefined;
    const { process } = parseDocument('bundle', await file.readFile(), bundle, MAX_CONFIG);
    return invocationOf([process.args], process.env, process.cwd);
  }

  /** Whether a directory may lie in what this process serves, itself or below an overlay: it is never opened then. */
  async #isServed(directory: string): Promise<boolean> {
    let served = { target: '', type: '' };
    for (const mount of await this.#proc.mounts()) {
      const holds = `${directory}/`.startsWith(mount.target === '/' ? '/' : `${mount.target}/`);
      if (holds && mount.target.length >= served.target.length) served = mount;
    }
    return served.type === 'overlay' || served.type.startsWith('fuse');
  }
}
