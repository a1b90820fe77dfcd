import { writeFile } from 'node:fs/promises';
import { InvalidArgumentError, Option, type Command } from 'commander';
import { parseDuration } from '../bench/duration.js';
import type { TraceReport } from '../bench/trace/report.js';
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
  type StartFlags,
} from './start-flags.js';

interface Flags extends StartFlags {
  readonly stall: number;
  readonly json?: true;
  readonly html?: string;
}

function parseStall(text: string): number {
  const ms = parseDuration(text);
  if (ms === undefined) throw new InvalidArgumentError('Expected a time such as 20ms (us, ms, s).');
  return ms;
}

export function addTrace(program: Command, cli: Cli): void {
  const trace = program
    .command('trace <image> [command...]')
    .summary('see what a cold start reads and waits for')
    .description(
      'Starts a workload once, with nothing of the image local, and tells what it read when, whether that came from the cache, from what was prefetched or from the network, and what it waited for. What the page cache gives is not seen.',
    )
    .option('--html <file>', 'write a page with the timeline')
    .addOption(
      new Option('--stall <time>', 'reads that take this long are stalls').argParser(parseStall).default(20, '20ms'),
    )
    .addOption(networkOption())
    .addOption(engineOption('mount'));
  addReadyOptions(trace)
    .addOption(plainHttpOption())
    .option('--json', 'everything as an object, with each read and each request')
    .addHelpText(
      'after',
      `${examples(
        ['lazylayer trace --html a.html python:3.12 -- python3 -c "print(1)"', 'until it has ended'],
        ['lazylayer trace --network 40ms,200mbit localhost:5000/app:1 -- /app', 'over an imitated network'],
        ['lazylayer trace --engine containerd localhost:5000/web:1 --ready-port 80', "the image's command"],
      )}\n\nWith --network, and with containerd or Podman, the registry must speak plain HTTP, such as one on localhost.`,
    )
    .action(async (image: string, words: string[], flags: Flags, command: Command) => {
      const ready = readyOf(flags);
      checkCommand(flags, words);
      const { parseNetwork, formatNetwork, unshaped } = await import('../bench/network.js');
      const { parseReference, formatReference } = await import('../image/reference.js');
      const network = flags.network === undefined ? undefined : parseNetwork(flags.network);
      const reference = formatReference(parseReference(image));
      checkRoot();
      await checkWritable(flags.html);
      const { proxyBefore, throughProxy, toldByName } = await import('../bench/start/registry.js');
      const { traceStart } = await import('../bench/trace/trace.js');
      const { traceReport } = await import('../bench/trace/report.js');
      const { describeMachine } = await import('../bench/report.js');
      await using proxy =
        network === undefined && flags.engine === 'mount'
          ? undefined
          : await proxyBefore([reference], network ?? unshaped, flags.plainHttp === true);
      const asked = proxy === undefined ? reference : throughProxy(reference, proxy);
      const engine = await engineOf(flags.engine, command);
      const { trace, moments, notes } = await traceStart(
        engine,
        { name: 'lazylayer', image: asked, way: { kind: 'lazy' } },
        { command: words, ready, signal: cli.interrupts.signal },
      ).catch((error: unknown) => {
        throw proxy === undefined ? error : toldByName(error, image, proxy);
      });
      for (const note of notes) cli.terminal.warn(note);
      const report: TraceReport = traceReport(trace, moments, flags.stall, {
        image,
        command: words,
        network: network && formatNetwork(network),
        engine: flags.engine,
        date: new Date().toISOString(),
        machine: describeMachine(),
        notes,
      });
      if (flags.json) await cli.terminal.json(report);
      else await cli.terminal.write((await import('./trace-table.js')).formatTrace(report));
      if (flags.html !== undefined)
        await writeFile(flags.html, (await import('../bench/trace/page.js')).tracePage(report));
    });
}
