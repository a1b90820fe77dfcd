import { mkdir, mkdtemp, readdir, readFile, readlink, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { MountInfo } from '../../src/mount/request.js';
import { listMounts } from '../../src/util/mountinfo.js';
import { eventually, outcomeOf, projectRoot, run, type Cleanup, type Outcome, type RunOptions } from './tools.js';

export const program = join(projectRoot, 'dist', 'src', 'cli', 'main.js');

/** Mount points of the layers that the kernel reads by itself, of one root. */
export async function mountedWhole(root: string): Promise<string[]> {
  const mounts = await listMounts();
  return mounts.filter((m) => m.type === 'erofs' && m.target.startsWith(join(root, 'whole/'))).map((m) => m.target);
}

/** The serving process and its parent, of one root. */
export interface DaemonProcesses {
  readonly holder?: number;
  readonly serving?: number;
}

/**
 * A place of its own for one test: a root, a config file and mount points. Its cleanup takes away every mount below it, ends every
 * daemon of its root, removes the directory, and fails the test where something of ours is left in the mount table.
 */
export class Scene {
  private constructor(
    readonly directory: string,
    readonly root: string,
    readonly config: string,
  ) {}

  /** `config` is the text of config.toml. */
  static async open(cleanup: Cleanup, config = ''): Promise<Scene> {
    const directory = await mkdtemp(join(tmpdir(), 'lazylayer-test-'));
    const scene = new Scene(directory, join(directory, 'root'), join(directory, 'config.toml'));
    cleanup.teardown(() => scene.#close());
    await writeFile(scene.config, config);
    return scene;
  }

  async mountPoint(name = 'mnt'): Promise<string> {
    const path = join(this.directory, name);
    await mkdir(path, { recursive: true });
    return path;
  }

  /** Runs a verb on this scene's root and gives what came of it, also when it fails. */
  async lazylayer(verb: string, args: readonly string[] = [], options: RunOptions = {}): Promise<Outcome> {
    const place = ['--root', this.root, '--config', this.config];
    return outcomeOf(process.execPath, [program, verb, ...place, ...args], { timeout: 60_000, ...options });
  }

  /** Runs a verb that must succeed and gives its standard output. */
  async succeed(verb: string, ...args: string[]): Promise<string> {
    const { status, stdout, stderr } = await this.lazylayer(verb, args);
    if (status !== 0) throw new Error(`lazylayer ${verb} ${args.join(' ')} ended with ${status}: ${stderr}`);
    return stdout.toString();
  }

  /** Mounts in the background and gives what was said on standard error. */
  async mount(image: string, target: string, ...flags: string[]): Promise<string> {
    const { status, stderr } = await this.lazylayer('mount', ['--detach', ...flags, image, target]);
    if (status !== 0) throw new Error(`lazylayer mount ${image} ended with ${status}: ${stderr}`);
    return stderr;
  }

  async umount(target: string): Promise<void> {
    await this.succeed('umount', target);
  }

  async ps(): Promise<MountInfo[]> {
    return JSON.parse(await this.succeed('ps', '--json')) as MountInfo[];
  }

  /** Resolves when no process has this root open any more: after the last umount the daemon ends by itself. */
  async daemonGone(): Promise<void> {
    await eventually('the daemon ends after its last mount', async () =>
      (await this.#pids()).length === 0 ? true : undefined,
    );
  }

  /** The holder is the one process of the root whose parent is none of them. */
  async processes(): Promise<DaemonProcesses> {
    const pids = await this.#pids();
    const found: { holder?: number; serving?: number } = {};
    for (const pid of pids) {
      const status = await readFile(`/proc/${pid}/status`, 'utf8').catch(() => '');
      const parent = Number(/^PPid:\s+(\d+)/m.exec(status)?.[1]);
      found[pids.includes(parent) ? 'serving' : 'holder'] = pid;
    }
    return found;
  }

  /** SIGKILL to every process of this root at once. */
  async killAll(): Promise<void> {
    const { holder, serving } = await this.processes();
    // The holder first, so that it starts no new serving process.
    for (const pid of [holder, serving]) if (pid !== undefined) end(pid, 'SIGKILL');
    await eventually('killed processes are gone', async () => ((await this.#pids()).length === 0 ? true : undefined));
  }

  /** Every process that has the root's lock file open: that is what belonging to a daemon means. */
  async #pids(): Promise<number[]> {
    const lock = join(this.root, 'lock');
    const pids: number[] = [];
    for (const name of await readdir('/proc')) {
      if (!/^\d+$/.test(name)) continue;
      for (const fd of await readdir(`/proc/${name}/fd`).catch(() => []))
        if ((await readlink(`/proc/${name}/fd/${fd}`).catch(() => '')) === lock) {
          pids.push(Number(name));
          break;
        }
    }
    return pids;
  }

  /** Targets of mounts in this scene, innermost last. */
  async mounted(): Promise<string[]> {
    return (await listMounts()).map((m) => m.target).filter((target) => target.startsWith(`${this.directory}/`));
  }

  async #close(): Promise<void> {
    const { holder } = await this.processes();
    if (holder !== undefined) end(holder, 'SIGTERM');
    // A daemon that is told to end takes its mounts along; what a failed test left hanging goes by force.
    await this.daemonGone().catch(() => this.killAll().catch(() => undefined));
    const mounted = await this.mounted();
    // What is mounted below another goes along with it.
    for (const target of mounted.filter((t) => !mounted.some((above) => t.startsWith(`${above}/`))).reverse())
      await run('umount', ['-f', '-l', target]);
    await rm(this.directory, { recursive: true, force: true, maxRetries: 3 });
    const left = await this.mounted();
    if (left.length > 0) throw new Error(`mounts left behind: ${left.join(', ')}`);
  }
}

function end(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}
