import type { Command } from 'commander';
import { examples, type Cli } from './context.js';
import { wholeNumber } from './start-flags.js';
import { plural } from './text.js';

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
      'Walks a tree, looks at every file, reads small ones, large ones and all of it: warm, after the same was done before, and with --drop-caches also cold. Several trees take turns and are held against the first. P50/P99 are of single operations: an lstat, a small file, a read of 1 MiB or of 4 KiB; what one program does as a whole (find, tar) has none.',
    )
    .option('-n, --runs <count>', 'runs of each part', wholeNumber(1, 1000), 3)
    .option('--drop-caches', 'cold too: drop the page cache before each part; takes root')
    .option('--json', 'everything as an object with each run, in ms and µs')
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
      const { terminal } = cli;
      if (flags.dropCaches !== true)
        terminal.say('only what was read before is measured: cold figures take --drop-caches, and root');
      const trees = await benchFs({
        directories,
        runs: flags.runs,
        dropCaches: flags.dropCaches === true,
        signal: cli.interrupts.signal,
        onRun: (run, what) => terminal.say(`run ${run} of ${flags.runs}: ${what}`),
      });
      for (const { directory, leftOut } of trees)
        if (leftOut > 0)
          terminal.warn(
            `${directory}: ${plural(leftOut, 'file or directory', 'files and directories')} left out that this user may not read`,
          );
      if (flags.json) await terminal.json({ date: new Date().toISOString(), machine: describeMachine(), trees });
      else await terminal.write((await import('./bench-table.js')).formatFs(trees));
    });
}
