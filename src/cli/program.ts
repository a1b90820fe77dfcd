import { readFileSync } from 'node:fs';
import { Command, CommanderError } from 'commander';
import { codeOf, describeError, exitStatusOf } from '../errors.js';
import { addGlobalFlags, examples, type Cli } from './context.js';
import { hintFor } from './hints.js';
import { OutputClosed } from './terminal.js';

const USAGE = 2;

type AddVerb = (program: Command, cli: Cli) => void;

/** In the order of the help. */
const verbs: Readonly<Record<string, () => Promise<AddVerb>>> = {
  mount: async () => (await import('./mount.js')).addMount,
  umount: async () => (await import('./umount.js')).addUmount,
  ps: async () => (await import('./ps.js')).addPs,
  serve: async () => (await import('./serve.js')).addServe,
  pull: async () => (await import('./pull.js')).addPull,
  store: async () => (await import('./store.js')).addStore,
  'store-credential': async () => (await import('./store-credential.js')).addStoreCredential,
  ls: async () => (await import('./ls.js')).addLs,
  cat: async () => (await import('./cat.js')).addCat,
  inspect: async () => (await import('./inspect.js')).addInspect,
  explain: async () => (await import('./explain.js')).addExplain,
  cache: async () => (await import('./cache.js')).addCache,
  config: async () => (await import('./config.js')).addConfig,
  bench: async () => (await import('./bench.js')).addBench,
  trace: async () => (await import('./trace.js')).addTrace,
};

/** The verb of a command line, which global flags may come before; undefined where it names none. */
function verbIn(program: Command, args: readonly string[]): string | undefined {
  const takesValue = new Set(program.options.filter(({ required }) => required).map(({ long }) => long));
  const first = args.findIndex((arg, i) => !arg.startsWith('-') && !takesValue.has(args[i - 1]));
  return first >= 0 && Object.hasOwn(verbs, args[first]) ? args[first] : undefined;
}

/**
 * The command line with the verb that `args` name, or with all. What tells of a verb is imported with its file, what it needs to run only
 * when it runs: who starts a container waits for nothing that another verb needs.
 */
export async function createProgram(cli: Cli, args: readonly string[]): Promise<Command> {
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
  const verb = verbIn(program, args);
  const wanted = verb === undefined ? Object.values(verbs) : [verbs[verb]];
  for (const add of await Promise.all(wanted.map((load) => load()))) add(program, cli);
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
