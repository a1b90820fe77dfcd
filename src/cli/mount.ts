import { realpath, stat } from 'node:fs/promises';
import { resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Command } from 'commander';
import type { DaemonClient, MountInfo } from '../daemon/client.js';
import { codeOf, LazylayerError } from '../errors.js';
import { parseReference } from '../image/reference.js';
import { plain } from '../mount/overlay.js';
import { addImageFlags, configOf, directoryOf, examples, followed, type Cli, type ImageFlags } from './context.js';
import { humanBytes, plural } from './text.js';

interface Flags extends ImageFlags {
  readonly detach?: true;
  readonly rw?: true;
  readonly upper?: string;
  readonly backend?: string;
  /** False for --no-background-fetch. */
  readonly backgroundFetch: boolean;
  readonly json?: true;
}

/** How often a mount that is in use is tried again, in milliseconds. */
const retryMs = 500;

export function addMount(program: Command, cli: Cli): void {
  addImageFlags(program.command('mount <image> <dir>'))
    .summary('mount an image')
    .description(
      'Mounts an image at a directory after a few requests; files are fetched and verified when they are read. Stays until Ctrl-C, which unmounts, or until the mount is gone.',
    )
    .option('-d, --detach', 'return once it is mounted')
    .option('--rw', 'writable; what is written lies in a temporary directory and goes with the mount')
    .option('--upper <dir>', 'writable; what is written is kept in this directory, made if missing')
    .option('--backend <name>', 'kernel or fuse-native; one for all mounts of a root')
    .option('--no-background-fetch', 'fetch only what is read')
    .option('--json', 'tell of the mount as an object')
    .addHelpText(
      'after',
      examples(
        ['lazylayer mount debian:12 /mnt', 'until Ctrl-C'],
        ['lazylayer mount -d --rw python:3.12 /mnt', 'writable, in the background'],
        ['lazylayer mount --platform linux/arm64 alpine /mnt', "another machine's image"],
      ),
    )
    .action(async (image: string, dir: string, flags: Flags, command: Command) => {
      const { connectDaemon } = await import('../daemon/client.js');
      const config = await configOf(command, {
        backend: flags.backend,
        backgroundFetch: flags.backgroundFetch ? undefined : false,
        allowNoVerification: flags.allowNoVerification,
      });
      if (process.geteuid!() !== 0)
        throw new LazylayerError(
          'PERMISSION_DENIED',
          'only root can mount; ls, cat, inspect and explain work for any user',
        );
      const { signal } = cli.interrupts;
      // What is wrong with the command line is found before a daemon is started for it.
      parseReference(image);
      const target = directoryOf(dir);
      await checkDirectory(dir);
      await checkOutside(config.root, dir);
      const upper = flags.upper === undefined ? undefined : plain(directoryOf(flags.upper));
      const client = await connectDaemon(config, { signal });
      const request = {
        image,
        target,
        platform: flags.platform,
        rw: flags.rw === true || upper !== undefined,
        upper,
        backend: flags.backend,
        backgroundFetch: config.fetch.background,
        allowNoVerification: config.allow_no_verification,
      };
      const info = await followed(cli, (options) => client.mount(request, options));
      if (flags.json) await cli.terminal.json(info);
      else if (flags.detach) await cli.terminal.write(`${info.target}\n`);
      if (flags.detach) return;
      cli.terminal.say(describeMount(info));
      await stay(cli, client, info.target);
    });
}

async function checkDirectory(path: string): Promise<void> {
  const found = await stat(path).catch((error: unknown) => {
    // What a dead daemon has left there is taken away by the next.
    if ((error as NodeJS.ErrnoException).code === 'ENOTCONN') return undefined;
    if (codeOf(error) !== 'NOT_FOUND') throw error;
    throw new LazylayerError('NOT_FOUND', `${path}: expected a directory, found nothing: make it first`);
  });
  if (found?.isDirectory() === false)
    throw new LazylayerError('NOT_A_DIRECTORY', `${path}: expected a directory, found another type of file`);
}

/** A mount over what the daemon keeps there would take it away from the daemon. */
async function checkOutside(root: string, dir: string): Promise<void> {
  const real = (path: string) => realpath(path).catch(() => resolve(path));
  const [outer, inner] = await Promise.all([real(root), real(dir)]);
  if (inner === outer || inner.startsWith(`${outer}/`))
    throw new LazylayerError(
      'INVALID_ARGUMENT',
      `mount point ${dir}: expected a directory outside of lazylayer's own root, found one in ${root}: use another`,
    );
}

function describeMount(info: MountInfo): string {
  const how = info.readOnly
    ? 'read-only'
    : info.upper === undefined
      ? 'writable'
      : `writable, changes in ${info.upper}`;
  return (
    `${info.image} is at ${info.target} (${how}): ${plural(info.layers, 'layer')}, ${info.lazyLayers} lazy; ` +
    `${humanBytes(info.fetchedBytes)} of ${humanBytes(info.totalBytes)} fetched so far. Ctrl-C unmounts it.`
  );
}

/** Until the mount is gone, by Ctrl-C or by somebody else. */
async function stay(cli: Cli, client: DaemonClient, target: string): Promise<void> {
  const { terminal, interrupts } = cli;
  const atAnyPrice = interrupts.takeSecond();
  try {
    await client.waitGone(target, interrupts.signal);
    terminal.say(`${target} was unmounted`);
    return;
  } catch (error) {
    if (!interrupts.signal.aborted) throw error;
  }
  for (let told = false; !atAnyPrice.aborted;) {
    try {
      await client.umount(target);
      return;
    } catch (error) {
      if (codeOf(error) === 'NOT_FOUND') return;
      if (codeOf(error) !== 'BUSY') throw error;
    }
    if (!told) terminal.say(`${target} is in use: waiting for that to end; Ctrl-C again takes it away from its users`);
    told = true;
    await sleep(retryMs, undefined, { signal: atAnyPrice }).catch(() => {});
  }
  await client.umount(target, { lazy: true });
}
