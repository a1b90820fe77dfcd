import { readFileSync } from 'node:fs';
import { Command, CommanderError } from 'commander';
import { codeOf, describeError, exitStatusOf } from '../errors.js';
import { addBench } from './bench.js';
import { addCache } from './cache.js';
import { addCat } from './cat.js';
import { addConfig } from './config.js';
import { addGlobalFlags, examples, type Cli } from './context.js';
import { addExplain } from './explain.js';
import { hintFor } from './hints.js';
import { addInspect } from './inspect.js';
import { addLs } from './ls.js';
import { addMount } from './mount.js';
import { addPs } from './ps.js';
import { addServe } from './serve.js';
import { addStore } from './store.js';
import { addStoreCredential } from './store-credential.js';
import { OutputClosed } from './terminal.js';
import { addTrace } from './trace.js';
import { addUmount } from './umount.js';

const USAGE = 2;

/**
 * The command line with all its verbs. What tells of a verb is imported with its file, what it needs to run only when it runs: help,
 * and verbs that only ask the daemon, wait for no registry client and no cache.
 */
export function createProgram(cli: Cli): Command {
  const { version } = JSON.parse(readFileSync(new URL('../../../package.json', import.meta.url), 'utf8')) as {
    version: string;
  };
  const program = new Command('lazylayer')
    .description('Mounts container images without downloading them first.')
    .version(version, '--version', 'the version')
    .exitOverride()
    .showHelpAfterError('Add --help to see how it is used.')
    .configureHelp({ showGlobalOptions: true, helpWidth: 100 })
    .configureOutput({
      writeOut: (text) => cli.terminal.out.write(text),
      writeErr: (text) => cli.terminal.err.write(text),
      outputError: (text, write) => write(text.replace(/^error: /, 'lazylayer: ')),
    })
    .addHelpText(
      'after',
      examples(
        ['lazylayer mount debian:12 /mnt', 'mount an image; files come when they are read'],
        ['lazylayer ls -l debian:12 /etc', 'look into an image without mounting it'],
        ['lazylayer mount --help', 'everything about a verb'],
      ),
    );
  addGlobalFlags(program);
  for (const add of [
    addMount,
    addUmount,
    addPs,
    addServe,
    addStore,
    addStoreCredential,
    addLs,
    addCat,
    addInspect,
    addExplain,
    addCache,
    addConfig,
    addBench,
    addTrace,
  ])
    add(program, cli);
  return program;
}

/** Runs one command line and gives its exit status: 0, 1 for what failed, 2 for wrong usage, 130 for an interruption. */
export async function runProgram(program: Command, args: readonly string[], { terminal }: Cli): Promise<number> {
  try {
    await program.parseAsync(args, { from: 'user' });
    return typeof process.exitCode === 'number' ? process.exitCode : 0;
  } catch (error) {
    if (error instanceof OutputClosed) return 0;
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : USAGE;
    terminal.fail(describeError(error), hintFor(error));
    if (codeOf(error) === 'INTERNAL' && error instanceof Error && debugging(program)) terminal.say(error.stack ?? '');
    return exitStatusOf(error);
  }
}

function debugging(program: Command): boolean {
  const level = program.opts<{ logLevel?: string }>().logLevel ?? process.env.LAZYLAYER_LOG_LEVEL;
  return level === 'debug' || level === 'trace';
}
