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
/** Bytes of a word, as of any path (PATH_MAX), and of an argument that is taken for several. */
const MAX_WORD = 4096;
const MAX_SCRIPT = 64 * 1024;

/** Programs, and words of a shell, behind which another command begins. */
const LEADS_ON = new Set([
  ...['env', 'exec', 'nice', 'nohup', 'setsid', 'stdbuf', 'sudo', 'time', 'tini', 'dumb-init'],
  ...['!', '{', 'if', 'then', 'elif', 'else', 'while', 'until', 'do'],
]);
/** What a client is told to do that starts a container, and clients that are given its name between image and command. */
const RUNS = new Set(['run', 'create']);
const NAMES_CONTAINER = new Set(['ctr', 'ctr-remote']);
/** A reference with a path; what options have has other forms. */
const REFERENCE = /^[a-z0-9][\w.-]*(?::\d+)?(?:\/[\w.-]+)+(?::[\w.-]+)?(?:@sha256:[0-9a-f]{64})?$/;
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
  const fits = (word: string) => word.length <= MAX_WORD;
  return {
    commands: commandsOf(...lists),
    path: path?.split(':', MAX_PATH).filter(fits) ?? DEFAULT_PATH,
    directory: fits(directory) ? directory : '/',
  };
}

/** What is behind an image in the arguments of a client that runs it: `podman run [OPTIONS] IMAGE COMMAND…`; none where it names no image in full. */
export function behindImage(words: readonly string[]): readonly string[] {
  const verb = words.findIndex((word) => RUNS.has(word));
  const image = verb < 0 ? -1 : words.findIndex((word, index) => index > verb && REFERENCE.test(word));
  if (image < 0) return [];
  return words.slice(image + (NAMES_CONTAINER.has(posix.basename(words[0])) ? 2 : 1));
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
    if (word === '' || word.length > MAX_WORD || commands.length >= MAX_COMMANDS || ++count > MAX_WORDS) return;
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
      for (const command of script.slice(0, MAX_SCRIPT).split(/[;|&()`\n]/, MAX_WORDS)) {
        for (const word of command.replace(/["'\\]/g, '').split(/[\s<>]+/, MAX_WORDS)) add(word);
        end();
      }
  }
  return commands;
}
