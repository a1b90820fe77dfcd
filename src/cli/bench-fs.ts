import type { Command } from 'commander';
import { examples, type Cli } from './context.js';
import { wholeNumber } from './start-flags.js';

interface Flags {
  readonly runs: number;
  readonly dropCaches?: true;
  readonly json?: true;
}

export function addBenchFs(bench: Command, cli: Cli): void {
  bench
    .command('fs <dir...>')
    .summary('measure how fast files are read')
    .description(
      'Walks a tree, looks at every file, reads small ones, large ones and all of it, the first time and again. Several trees take turns and are held against the first.',
    )
    .option('-n, --runs <count>', 'runs of each part', wholeNumber(1, 1000), 3)
    .option('--drop-caches', 'drop the page cache before each first time; takes root')
    .option('--json', 'everything as an object, times in ms and µs')
    .addHelpText(
      'after',
      examples(
        ['lazylayer bench fs /mnt', 'a mounted image'],
        ['lazylayer bench fs --drop-caches /var/tmp/unpacked /mnt', 'the same files on disk, and mounted'],
      ),
    )
    .action(async (directories: string[], flags: Flags) => {
      const { benchFs } = await import('../bench/fs/fs.js');
      const { describeMachine } = await import('../bench/report.js');
      const trees = await benchFs({
        directories,
        runs: flags.runs,
        dropCaches: flags.dropCaches === true,
        signal: cli.interrupts.signal,
        onRun: (run, what) => cli.terminal.say(`run ${run} of ${flags.runs}: ${what}`),
      });
      if (flags.json) await cli.terminal.json({ date: new Date().toISOString(), machine: describeMachine(), trees });
      else await cli.terminal.write((await import('./bench-table.js')).formatFs(trees));
    });
}
