import type { Command } from 'commander';
import { configOf, directoryOf, examples, type Cli } from './context.js';
import { runDaemon } from './serve.js';

export function addStore(program: Command, cli: Cli): void {
  program
    .command('store')
    .summary('run the daemon that gives Podman, Buildah and CRI-O their layers')
    .description(
      'Shows layers of images in registries at a directory, as an additional layer store: with additionallayerstores = ["MOUNTPOINT:ref"] in storage.conf, containers start from layers that were never pulled whole. Stays until SIGTERM or Ctrl-C. Logs JSON lines to standard output.',
    )
    .argument('<mountpoint>', 'an existing directory')
    .addHelpText(
      'after',
      examples(
        ['lazylayer store /var/lib/lazylayer-store', 'as storage.conf names it'],
        ['lazylayer --log-level debug store /mnt', 'with every request to a registry'],
      ),
    )
    .action(async (mountpoint: string, _flags: object, command: Command) => {
      await runDaemon(cli, await configOf(command, { address: '', storeMountPoint: directoryOf(mountpoint) }));
    });
}
