import type { Command } from 'commander';
import { addBenchFs } from './bench-fs.js';
import { addBenchStart } from './bench-start.js';
import type { Cli } from './context.js';

export function addBench(program: Command, cli: Cli): void {
  const bench = program
    .command('bench')
    .summary('measure starts and file systems')
    .description('Measures how long a container takes to start, and how fast files are read.');
  addBenchStart(bench, cli);
  addBenchFs(bench, cli);
}
