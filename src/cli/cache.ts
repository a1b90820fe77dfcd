import { existsSync } from 'node:fs';
import { InvalidArgumentError, type Command } from 'commander';
import type { CacheUsage } from '../cache/chunk-cache.js';
import type { Config } from '../config/config.js';
import { parseSize, sizeForm } from '../config/size.js';
import { configOf, examples, type Cli } from './context.js';
import { age, humanBytes, percent, plural, table } from './text.js';

interface PruneFlags {
  readonly all?: true;
  readonly keep?: number;
  readonly json?: true;
}

interface Cache {
  usage(): Promise<CacheUsage>;
  prune(options: { all: boolean; keepBytes?: number }): Promise<{ layers: number; bytes: number }>;
}

export function addCache(program: Command, cli: Cli): void {
  const cache = program
    .command('cache')
    .summary('look at the cache, or clear it')
    .description('Looks at the chunk cache, or clears it.');
  cache
    .command('du')
    .summary('show what takes space')
    .description('Shows what takes space in the cache, the layers used last first.')
    .option('--json', 'an object with sizes in bytes')
    .addHelpText('after', examples(['lazylayer cache du', 'a table']))
    .action(async (flags: { json?: true }, command: Command) => {
      const usage = await withCache(await configOf(command), (c) => c.usage());
      if (flags.json) await cli.terminal.json(usage);
      else await cli.terminal.write(formatUsage(usage, Date.now()));
    });
  cache
    .command('prune')
    .summary('drop layers that are not in use')
    .description(
      'Drops the least recently used layers until the cache is within its limit, or within what --keep says, or until only layers in use are left.',
    )
    .option('-a, --all', 'every layer that is not in use')
    .option('--keep <size>', `leave at most this much: ${sizeForm}`, size)
    .option('--json', 'an object with what was freed')
    .addHelpText(
      'after',
      examples(
        ['lazylayer cache prune --keep 5GiB', 'down to 5 GiB'],
        ['lazylayer cache prune --all', 'all that can go'],
      ),
    )
    .action(async (flags: PruneFlags, command: Command) => {
      const options = { all: flags.all === true, keepBytes: flags.keep };
      const freed = await withCache(await configOf(command), (c) => c.prune(options));
      if (flags.json) await cli.terminal.json(freed);
      else await cli.terminal.write(`${plural(freed.layers, 'layer')} dropped, ${humanBytes(freed.bytes)} freed\n`);
    });
}

function size(text: string): number {
  const bytes = parseSize(text);
  if (bytes === undefined) throw new InvalidArgumentError(`Expected ${sizeForm}.`);
  return bytes;
}

/** By the daemon where one owns the root; else this process owns it meanwhile. */
async function withCache<V>(config: Config, work: (cache: Cache) => Promise<V>): Promise<V> {
  const { findDaemon } = await import('../daemon/client.js');
  const client = await findDaemon(config.root);
  if (client !== undefined) return await work({ usage: () => client.cacheUsage(), prune: (o) => client.cachePrune(o) });
  if (!existsSync(config.root)) {
    const nothing: CacheUsage = { bytes: 0, limitBytes: config.cache.max_bytes, layers: [] };
    return work({ usage: async () => nothing, prune: async () => ({ layers: 0, bytes: 0 }) });
  }
  const { lockRoot } = await import('../workspace/lock.js');
  const { Workspace } = await import('../workspace/workspace.js');
  const lock = lockRoot(config.root);
  try {
    await using workspace = await Workspace.open(config);
    return await work({ usage: () => workspace.cacheUsage(), prune: (o) => workspace.cache.prune(o) });
  } finally {
    lock.release();
  }
}

export function formatUsage(usage: CacheUsage, now: number): string {
  const right = (title: string) => ({ title, right: true });
  const rows = usage.layers.map((layer) => [
    layer.digest,
    humanBytes(layer.bytes),
    `${layer.presentChunks}/${layer.chunks}`,
    percent(layer.presentChunks, layer.chunks),
    layer.inUse ? 'in use' : age(now - new Date(layer.lastUsed).getTime()),
  ]);
  const columns = [{ title: 'LAYER' }, right('SIZE'), right('CHUNKS'), right('CACHED'), { title: 'LAST USED' }];
  const limit = usage.limitBytes === undefined ? '' : ` of ${humanBytes(usage.limitBytes)}`;
  return `${table(columns, rows)}\n${humanBytes(usage.bytes)}${limit} in ${plural(usage.layers.length, 'layer')}\n`;
}
