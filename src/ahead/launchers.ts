import { constants } from 'node:fs';
import { open, readFile } from 'node:fs/promises';
import { isAbsolute, join, normalize } from 'node:path';
import * as v from 'valibot';
import { parseDocument } from '../image/json.js';
import { anyOf, invocationOf, type Invocation } from './arguments.js';
import { parseMountinfo } from '../util/mountinfo.js';
import type { CommandLines } from './command-lines.js';

/** Bytes of a bundle's configuration that are read. */
const MAX_CONFIG = 1024 * 1024;
/** The same of what the kernel tells of a process. */
const MAX_STATUS = 4096;

/** What a client that starts a container from an image is told to do. Others browse an image by programs of this machine. */
const VERBS = new Set(['run', 'create']);

/** OCI runtime-spec, config.md, Process. */
const bundle = v.object({
  process: v.object({ args: v.array(v.string()), cwd: v.string(), env: v.optional(v.array(v.string()), []) }),
});

/** See proc_pid_status(5). */
interface Status {
  readonly parent: number;
  readonly users: readonly number[];
  /** In the process namespace of `/proc`, and in each one nested in it. */
  readonly pids: readonly number[];
}

/**
 * Tells what a container is about to run while it is still made, by who makes it:
 * - an OCI runtime, or its child that becomes the container, was told by `--bundle` where the container's configuration lies, as all runtimes are
 *   that have runc's command line;
 * - a client such as ctr or podman, which looks into the image before that, was given the command itself: any word behind `run` may be that.
 *
 * Only a process of this machine, not of a container, that is root's or our own user's is believed when it names a file of this machine. All of it
 * is a guess: what it leads to is files of the image.
 */
export class Launchers {
  readonly #commandLines: CommandLines;
  readonly #proc: string;
  readonly #users: ReadonlySet<number>;

  constructor(commandLines: CommandLines, proc = '/proc', user = process.getuid?.() ?? 0) {
    this.#commandLines = commandLines;
    this.#proc = proc;
    this.#users = new Set([0, user]);
  }

  /** Undefined of whoever launches nothing. Never rejects. */
  async invocation(pid: number): Promise<Invocation | undefined> {
    try {
      const status = await this.#status(pid);
      const isOutside = status.pids.length === 1;
      const isFirst = status.pids.at(-1) === 1;
      if (!isOutside && !isFirst) return undefined;
      for (const maker of [pid, status.parent]) {
        const directory = await this.#bundleOf(maker);
        if (directory !== undefined) return (await this.#isServed(directory)) ? undefined : await read(directory);
      }
      const words = (isOutside ? (await this.#commandLines.look(pid))?.arguments : undefined) ?? [];
      const verb = words.findIndex((word) => VERBS.has(word));
      return verb < 0 ? undefined : anyOf(words.slice(verb + 1));
    } catch {
      return undefined; // it is gone, or nothing can be seen of it
    }
  }

  /** The directory that a runtime was given, if that is what the process is. */
  async #bundleOf(pid: number): Promise<string | undefined> {
    const { users, pids } = await this.#status(pid);
    if (pids.length > 1 || !users.every((user) => this.#users.has(user))) return undefined;
    const words = (await this.#commandLines.look(pid))?.arguments ?? [];
    const at = words.findIndex((word) => /^(--bundle|-b)(=|$)/.test(word));
    if (at < 0) return undefined;
    const [, value = words[at + 1]] = /=(.*)$/s.exec(words[at]) ?? [];
    return value !== undefined && isAbsolute(value) ? normalize(value) : undefined;
  }

  /** Whether a directory may lie in what this process serves, itself or below an overlay: it is never opened then. */
  async #isServed(directory: string): Promise<boolean> {
    let served = { target: '', type: '' };
    for (const mount of parseMountinfo(await readFile(`${this.#proc}/self/mountinfo`, 'utf8'))) {
      const holds = `${directory}/`.startsWith(mount.target === '/' ? '/' : `${mount.target}/`);
      if (holds && mount.target.length >= served.target.length) served = mount;
    }
    return served.type === 'overlay' || served.type.startsWith('fuse');
  }

  async #status(pid: number): Promise<Status> {
    await using file = await open(`${this.#proc}/${pid}/status`);
    const { buffer, bytesRead } = await file.read(Buffer.alloc(MAX_STATUS), 0, MAX_STATUS, 0);
    const lines = new Map(
      buffer
        .toString('latin1', 0, bytesRead)
        .split('\n')
        .map((line) => line.split(':\t', 2) as [string, string | undefined]),
    );
    const numbers = (name: string) => (lines.get(name) ?? '').split('\t').map(Number);
    return { parent: numbers('PPid')[0], users: numbers('Uid'), pids: numbers('NStgid') };
  }
}

async function read(directory: string): Promise<Invocation | undefined> {
  const path = join(directory, 'config.json');
  await using file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  const stat = await file.stat();
  if (!stat.isFile() || stat.size > MAX_CONFIG) return undefined;
  const { process } = parseDocument('bundle', await file.readFile(), bundle, MAX_CONFIG);
  return invocationOf([process.args], process.env, process.cwd);
}
