import type { Command } from 'commander';
import type { MountInfo } from '../mount/request.js';
import { configOf, examples, type Cli } from './context.js';
import { age, humanBytes, percent, table } from './text.js';

export function addPs(program: Command, cli: Cli): void {
  program
    .command('ps')
    .summary('list mounted images')
    .description(
      'Lists mounted images: how much was fetched from the registry, and how much of their content is in the cache.',
    )
    .option('--json', 'an array with sizes in bytes')
    .addHelpText(
      'after',
      examples(['lazylayer ps', 'a table'], ["lazylayer ps --json | jq '.[].target'", 'mount points']),
    )
    .action(async (flags: { json?: true }, command: Command) => {
      const { findDaemon } = await import('../daemon/client.js');
      const config = await configOf(command);
      const client = await findDaemon(config.root);
      const mounts = client === undefined ? [] : await client.list();
      if (flags.json) await cli.terminal.json(mounts);
      else await cli.terminal.write(formatMounts(mounts, Date.now()));
    });
}

export function formatMounts(mounts: readonly MountInfo[], now: number): string {
  const columns = [
    { title: 'MOUNT POINT' },
    { title: 'IMAGE' },
    { title: 'MODE' },
    { title: 'LAYERS' },
    { title: 'FETCHED' },
    { title: 'CACHED' },
    { title: 'MOUNTED' },
  ];
  const rows = mounts.map((m) => [
    m.target,
    m.image,
    m.readOnly ? 'ro' : 'rw',
    m.lazyLayers === m.layers ? String(m.layers) : `${m.layers} (${m.lazyLayers} lazy)`,
    `${humanBytes(m.fetchedBytes)} of ${humanBytes(m.totalBytes)} (${percent(m.fetchedBytes, m.totalBytes)})`,
    `${humanBytes(m.presentBytes)} (${percent(m.presentBytes, m.contentBytes)})`,
    age(now - Date.parse(m.since)),
  ]);
  return table(columns, rows);
}
