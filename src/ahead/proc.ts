import { open, readFile, readlink } from 'node:fs/promises';
import { join } from 'node:path';
import { parseMountinfo, type MountEntry } from '../util/mountinfo.js';

/** Bytes of a file about a process that are read. */
const MAX_BYTES = 4096;

/** See proc_pid_status(5). */
export interface Status {
  readonly parent: number;
  readonly users: readonly number[];
  /** In the process namespace of `/proc`, and in each one nested in it. */
  readonly pids: readonly number[];
}

/**
 * What the kernel tells of processes, see proc(5). Nothing is ever opened, or asked for its attributes, through the links: they may lead to
 * files that this process serves itself.
 */
export class Proc {
  constructor(private readonly directory = '/proc') {}

  /** The beginning of a file; `cut` where there may be more of it. */
  async read(pid: number, name: string): Promise<{ bytes: Buffer; cut: boolean }> {
    await using file = await open(this.#path(pid, name));
    const { buffer, bytesRead } = await file.read(Buffer.alloc(MAX_BYTES), 0, MAX_BYTES, 0);
    return { bytes: buffer.subarray(0, bytesRead), cut: bytesRead === MAX_BYTES };
  }

  /** Where a link leads. */
  link(pid: number | 'self', name: string): Promise<string> {
    return readlink(this.#path(pid, name));
  }

  async status(pid: number): Promise<Status> {
    const { bytes } = await this.read(pid, 'status');
    const lines = new Map(
      bytes
        .toString('latin1')
        .split('\n')
        .map((line) => line.split(':\t', 2) as [string, string | undefined]),
    );
    const numbers = (name: string) => (lines.get(name) ?? '').split('\t').map(Number);
    return { parent: numbers('PPid')[0], users: numbers('Uid'), pids: numbers('NStgid') };
  }

  /** Whether a process is in our mount namespace; not where that cannot be seen. */
  async sharesMounts(pid: number): Promise<boolean> {
    const namespaces = [this.link('self', 'ns/mnt'), this.link(pid, 'ns/mnt')];
    const [own, its] = await Promise.all(namespaces).catch(() => ['', undefined]);
    return own === its;
  }

  /** Every mount that we see. */
  async mounts(): Promise<MountEntry[]> {
    return parseMountinfo(await readFile(this.#path('self', 'mountinfo'), 'utf8'));
  }

  #path(pid: number | 'self', name: string): string {
    return join(this.directory, String(pid), name);
  }
}
