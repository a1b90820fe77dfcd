import { writeFile } from 'node:fs/promises';
import { InvalidArgumentError, Option, type Command } from 'commander';
import type { Candidate, Way } from '../bench/start/engine.js';
import type { CandidateRuns } from '../bench/start/start.js';
import { LazylayerError } from '../errors.js';
import { examples, type Cli } from './context.js';
import {
  addReadyOptions,
  checkCommand,
  checkRoot,
  checkWritable,
  engineOf,
  engineOption,
  networkOption,
  plainHttpOption,
  readyOf,
  wholeNumber,
  type StartFlags,
} from './start-flags.js';

interface Flags extends StartFlags {
  readonly optimized?: string;
  readonly full?: string;
  readonly snapshotter: readonly Other[];
  readonly runs: number;
  readonly json?: true;
  readonly svg?: string;
  readonly html?: string;
}

type Other = Extract<Way, { kind: 'other' }>;

function parseOther(text: string, others: readonly Other[]): Other[] {
  const [, snapshotter, socket, pull] = /^([a-z0-9][a-z0-9._-]*)=(\/[^,]*)(?:,(.+))?$/s.exec(text) ?? [];
  if (snapshotter === undefined) throw new InvalidArgumentError('Expected NAME=SOCKET, with the path of its socket.');
  return [...others, { kind: 'other', snapshotter, socket, pull }];
}

export function addBenchStart(bench: Command, cli: Cli): void {
  const start = bench
    .command('start <image> [command...]')
    .summary('measure a cold start')
    .description(
      'Measures how long a workload takes from "run this image", with nothing local, until it is ready: pulled whole by overlayfs, and lazily. Each run has a containerd and a lazylayer of its own, on empty directories. The registry must speak plain HTTP, such as one on localhost.',
    )
    .option('-n, --runs <count>', 'runs of each column, which take turns', wholeNumber(1, 1000), 3)
    .addOption(networkOption())
    .option('--optimized <image>', 'a column more: lazylayer on this image')
    .option('--full <image>', 'the image that is pulled whole (default: the same)')
    .addOption(
      new Option('--snapshotter <name=socket>', 'a column more: another snapshotter; ",COMMAND" pulls')
        .argParser(parseOther)
        .default([], 'none'),
    )
    .addOption(engineOption('containerd'));
  addReadyOptions(start)
    .addOption(plainHttpOption())
    .option('--json', 'everything as an object, with each request of each run')
    .option('--svg <file>', 'write a chart')
    .option('--html <file>', 'write a page with chart, figures and requests')
    .addHelpText(
      'after',
      `${examples(
        ['lazylayer bench start localhost:5000/app:1 -- python3 -c "print(1)"', 'until it has ended'],
        ['lazylayer bench start --network 40ms,200mbit -n 5 --html a.html localhost:5000/app:1', "the image's command"],
        ['lazylayer bench start --ready-port 8080 localhost:5000/web:1', 'until it listens'],
      )}\n\nThe COMMAND of --snapshotter is run by sh; {image}, {address} (of containerd) and {snapshotter} in it are replaced.`,
    )
    .action(async (image: string, words: string[], flags: Flags, command: Command) => {
      const ready = readyOf(flags);
      checkCommand(flags, words);
      const { parseNetwork, formatNetwork, unshaped } = await import('../bench/network.js');
      const network = flags.network === undefined ? unshaped : parseNetwork(flags.network);
      checkRoot();
      await checkWritable(flags.svg, flags.html);
      const { proxyBefore, throughProxy, toldByName } = await import('../bench/start/registry.js');
      const { benchStart } = await import('../bench/start/start.js');
      const engine = await engineOf(flags.engine, command);
      const candidates = candidatesOf(image, flags);
      await using proxy = await proxyBefore(
        candidates.map((candidate) => candidate.image),
        network,
        flags.plainHttp === true,
      );
      const { describeMachine } = await import('../bench/report.js');
      const tell = async (found: readonly CandidateRuns[]) => {
        for (const { name, runs } of found)
          for (const note of new Set(runs.flatMap((run) => run.notes))) cli.terminal.warn(`${name}: ${note}`);
        const report = {
          title: image,
          command: words,
          network: flags.network === undefined ? undefined : formatNetwork(network),
          engine: flags.engine,
          date: new Date().toISOString(),
          machine: describeMachine(),
          columns: found.map((column, i) => ({ ...column, image: candidates[i].image })),
        };
        if (flags.json) await cli.terminal.json(report);
        else await cli.terminal.write((await import('./bench-table.js')).formatStart(report.columns));
        if (flags.svg !== undefined)
          await writeFile(flags.svg, (await import('../bench/start/chart.js')).startChart(report));
        if (flags.html !== undefined)
          await writeFile(flags.html, (await import('../bench/start/html.js')).startPage(report));
      };
      const columns = await benchStart({
        engine,
        proxy,
        candidates: candidates.map((candidate) => ({ ...candidate, image: throughProxy(candidate.image, proxy) })),
        runs: flags.runs,
        command: words,
        ready,
        signal: cli.interrupts.signal,
        onRun: (run, { name }) => cli.terminal.say(`run ${run} of ${flags.runs}: ${name}`),
        onFailure: async (rounds) => {
          cli.terminal.warn(`only ${rounds[0].runs.length} of ${flags.runs} runs of each column came to an end`);
          await tell(rounds);
        },
      }).catch((error: unknown) => {
        throw toldByName(error, image, proxy);
      });
      await tell(columns);
    });
}

function candidatesOf(image: string, flags: Flags): Candidate[] {
  const lazy = { kind: 'lazy' } as const;
  const candidates: Candidate[] = [{ name: 'lazylayer', image, way: lazy }];
  if (flags.engine !== 'mount')
    candidates.unshift({ name: 'full pull, overlayfs', image: flags.full ?? image, way: { kind: 'full' } });
  else if (flags.full !== undefined)
    throw new LazylayerError('INVALID_ARGUMENT', '--full: the engine "mount" pulls nothing whole');
  if (flags.optimized !== undefined)
    candidates.push({ name: 'lazylayer, optimized', image: flags.optimized, way: lazy });
  for (const way of flags.snapshotter) candidates.push({ name: way.snapshotter, image, way });
  return candidates;
}
