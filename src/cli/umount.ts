import type { Command } from 'commander';
import { describeError, exitStatusOf, LazylayerError } from '../errors.js';
import { configOf, directoryOf, examples, type Cli } from './context.js';
import { releaseDead } from './dead-mounts.js';
import { hintFor } from './hints.js';

interface Flags {
  readonly lazy?: true;
}

export function addUmount(program: Command, cli: Cli): void {
  program
    .command('umount <dir...>')
    .summary('unmount images')
    .description('Unmounts images. The cache keeps what was fetched.')
    .option('-l, --lazy', 'take the mount away now, though it is in use')
    .addHelpText(
      'after',
      examples(['lazylayer umount /mnt', 'one'], ['lazylayer umount -l /mnt /srv/image', 'two, at any price']),
    )
    .action(async (dirs: string[], flags: Flags, command: Command) => {
      const { findDaemon } = await import('../daemon/client.js');
      const config = await configOf(command);
      const released = new Set<string>();
      for (const dir of dirs) {
        try {
          const target = directoryOf(dir);
          if (released.has(target)) continue;
          // Asked for each: the daemon ends with its last mount.
          const client = await findDaemon(config.root);
          if (client !== undefined) await client.umount(target, { lazy: flags.lazy === true });
          else {
            for (const dead of await releaseDead(config.root, target)) released.add(dead);
            if (!released.has(target))
              throw new LazylayerError(
                'NOT_FOUND',
                `${target} has no image mounted: no daemon runs over ${config.root}`,
              );
          }
        } catch (error) {
          // One that stays does not keep the others from going.
          cli.terminal.fail(describeError(error), hintFor(error));
          process.exitCode = exitStatusOf(error);
        }
      }
    });
}
