import { posix } from 'node:path';
import type { ImageConfig } from '../image/config.js';

/** What is started, by which the files that it begins with are found. */
export interface Invocation {
  readonly commands: readonly Command[];
  /** Directories that programs are looked for in. */
  readonly path: readonly string[];
  /** That relative paths count from. */
  readonly directory: string;
}

export interface Command {
  /** Name or path of what seems to be run. */
  readonly program: string | undefined;
  /** All words, the program among them. */
  readonly words: readonly string[];
}

export const DEFAULT_PATH = ['/usr/local/sbin', '/usr/local/bin', '/usr/sbin', '/usr/bin', '/sbin', '/bin'];

/** Whoever starts a program can give it any number of words, and an image can name any number of directories. */
const MAX_COMMANDS = 32;
const MAX_WORDS = 256;
const MAX_PATH = 64;

/** Programs, and words of a shell, behind which another command begins. */
const LEADS_ON = new Set([
  ...['env', 'exec', 'nice', 'nohup', 'setsid', 'stdbuf', 'sudo', 'time', 'tini', 'dumb-init'],
  ...['!', '{', 'if', 'then', 'elif', 'else', 'while', 'until', 'do'],
]);
/** What may stand before a program: options of what leads on to it, and its environment. */
const NO_PROGRAM = /^(-|[A-Za-z_]\w*=)/;

/** What an image's config says: the entrypoint, and a command that it may hand over to. */
export function configured({ Entrypoint, Cmd, Env, WorkingDir }: NonNullable<ImageConfig['config']>): Invocation {
  return invocationOf([Entrypoint ?? [], Cmd ?? []], Env, WorkingDir);
}

/** Lists of arguments, with what the environment and the working directory are known to be. */
export function invocationOf(
  lists: readonly (readonly string[])[],
  environment: readonly string[] = [],
  directory = '/',
): Invocation {
  const path = environment.find((word) => word.startsWith('PATH='))?.slice('PATH='.length);
  return { commands: commandsOf(...lists), path: path?.split(':', MAX_PATH) ?? DEFAULT_PATH, directory };
}

/** The arguments of a client that runs an image: any word may be the program that it is to run there, and most are none. */
export function anyOf(words: readonly string[]): Invocation {
  return invocationOf(words.slice(-MAX_COMMANDS).map((word) => [word]));
}

/**
 * The commands that lists of arguments name: each list itself, and what an argument with blanks seems to hold, as the text behind `sh -c` does.
 * Quotes and redirections are left out, nothing is expanded: what a word does not name is not found.
 */
export function commandsOf(...lists: readonly (readonly string[])[]): Command[] {
  const commands: Command[] = [];
  let words: string[] = [];
  let count = 0;
  const end = () => {
    if (words.length > 0) commands.push({ program: words.find((word) => !NO_PROGRAM.test(word)), words });
    words = [];
  };
  const add = (word: string) => {
    if (word === '' || commands.length >= MAX_COMMANDS || ++count > MAX_WORDS) return;
    const leads = LEADS_ON.has(posix.basename(word)) && words.every((before) => NO_PROGRAM.test(before));
    words.push(word);
    if (leads || word === '--') end();
  };
  for (const list of lists) {
    const scripts: string[] = [];
    for (const argument of list.slice(0, MAX_WORDS)) {
      if (/\s/.test(argument)) scripts.push(argument);
      else add(argument);
    }
    end();
    for (const script of scripts)
      for (const command of script.split(/[;|&()`\n]/, MAX_WORDS)) {
        for (const word of command.replace(/["'\\]/g, '').split(/[\s<>]+/, MAX_WORDS)) add(word);
        end();
      }
  }
  return commands;
}
