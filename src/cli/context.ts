import { resolve } from 'node:path';
import type { Command } from 'commander';
import type { Config, ConfigFlags } from '../config/config.js';
import { LazylayerError } from '../errors.js';
import { parsePlatform } from '../image/platform.js';
import type { ProgressOptions } from '../daemon/client.js';
import type { OpenImageOptions } from '../index.js';
import type { Interrupts } from './interrupts.js';
import { ProgressView } from './progress.js';
import type { Terminal } from './terminal.js';

/** What every verb is given. */
export interface Cli {
  readonly terminal: Terminal;
  readonly interrupts: Interrupts;
}

/** Flags that every verb understands, before it or behind it. */
interface GlobalFlags {
  readonly config?: string;
  readonly root?: string;
  readonly logLevel?: string;
}

/** Flags of the verbs that open an image. */
export interface ImageFlags {
  readonly platform?: string;
  readonly allowNoVerification?: true;
}

export function addGlobalFlags(program: Command): void {
  program
    .option('--config <file>', 'configuration file (default: /etc/lazylayer/config.toml; variable LAZYLAYER_CONFIG)')
    .option('--root <dir>', 'directory of cache and daemon (variable LAZYLAYER_ROOT)')
    .option('--log-level <level>', 'trace, debug, info, warn, error or silent (variable LAZYLAYER_LOG_LEVEL)');
}

/** A directory's absolute path. @throws INVALID_ARGUMENT for an empty one, by which a variable that is unset would name the current directory */
export function directoryOf(argument: string): string {
  if (argument === '') throw new LazylayerError('INVALID_ARGUMENT', "expected a directory, found ''");
  return resolve(argument);
}

export function addPlatformFlag(command: Command): Command {
  const what = "platform of the image, such as linux/arm64 (default: this machine's)";
  return command.option('--platform <os/arch>', what, (text) => {
    parsePlatform(text);
    return text;
  });
}

export function addImageFlags(command: Command): Command {
  return addPlatformFlag(command).option(
    '--allow-no-verification',
    'serve eStargz layers whose TOC nothing vouches for',
  );
}

export async function configOf(command: Command, flags: ConfigFlags = {}): Promise<Config> {
  const { loadConfig } = await import('../config/config.js');
  const { config, root, logLevel } = command.optsWithGlobals<GlobalFlags>();
  return loadConfig(config, { flags: { root, logLevel, ...flags } });
}

export function configFile(command: Command): string | undefined {
  return command.optsWithGlobals<GlobalFlags>().config;
}

/** How images are opened in this process: by the configuration, with downloads shown and Ctrl-C heard. Dispose it to end the show. */
export async function imageOptions(cli: Cli, command: Command, flags: ImageFlags) {
  const config = await configOf(command, { allowNoVerification: flags.allowNoVerification });
  const view = new ProgressView(cli.terminal);
  const options: OpenImageOptions & { readonly config: Config } = {
    config,
    platform: flags.platform,
    allowNoVerification: config.allow_no_verification,
    onDownload: (download) => view.update(download),
    signal: cli.interrupts.signal,
  };
  return { options, [Symbol.dispose]: () => view[Symbol.dispose]() };
}

/** What the daemon does for a verb: with its progress shown, and ended by Ctrl-C. */
export async function followed<V>(
  { terminal, interrupts }: Cli,
  work: (options: ProgressOptions) => Promise<V>,
): Promise<V> {
  using view = new ProgressView(terminal);
  return await work({
    onProgress: (progress) => {
      if (progress.kind === 'download') view.update(progress);
      else terminal.warn(progress.message);
    },
    signal: interrupts.signal,
  });
}

/** Examples at the end of a verb's help, each a command line with what it does. */
export function examples(...lines: readonly [command: string, does: string][]): string {
  const width = Math.max(...lines.map(([command]) => command.length));
  return `\nExamples:\n${lines.map(([command, does]) => `  ${command.padEnd(width)}  # ${does}`).join('\n')}`;
}
