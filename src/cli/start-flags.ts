import { access, constants, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { InvalidArgumentError, Option, type Command } from 'commander';
import type { Engine, Ready } from '../bench/start/engine.js';
import { LazylayerError } from '../errors.js';
import { configFile } from './context.js';

const engines = ['containerd', 'podman', 'mount'] as const;
export type EngineName = (typeof engines)[number];

/** Flags of verbs that start a workload in a place of its own. */
export interface StartFlags {
  readonly engine: EngineName;
  readonly network?: string;
  readonly readyOutput?: true;
  readonly readyLine?: RegExp;
  readonly readyPort?: number;
  readonly plainHttp?: true;
}

export const engineOption = (byDefault: EngineName) =>
  new Option('--engine <name>', 'what runs it').choices(engines).default(byDefault);
export const networkOption = () =>
  new Option('--network <rtt,rate>', 'imitate a network before the registry, such as 40ms,200mbit');
/** What says that the workload is ready; by default its end does. */
export const addReadyOptions = (command: Command): Command =>
  command
    .option('--ready-output', 'ready with the last of its output (default: when it ends)')
    .option('--ready-line <regex>', 'ready with a line of its output', parsePattern)
    .option('--ready-port <port>', 'ready when this TCP port answers', wholeNumber(1, 65_535));
export const plainHttpOption = () =>
  new Option('--plain-http', 'the registry speaks plain HTTP, though it is not on localhost');

/** A whole number for an option; commander tells which one was wrong. */
export const wholeNumber = (from: number, to: number) => (text: string) => {
  const value = Number(text);
  if (!/^\d+$/.test(text) || value < from || value > to)
    throw new InvalidArgumentError(`Expected a whole number from ${from} to ${to}.`);
  return value;
};

function parsePattern(text: string): RegExp {
  try {
    return new RegExp(text);
  } catch (error) {
    throw new InvalidArgumentError(`Expected a regular expression: ${(error as Error).message}.`);
  }
}

export function checkRoot(): void {
  if (process.geteuid!() !== 0)
    throw new LazylayerError('PERMISSION_DENIED', 'only root can start containers and mount images');
}

/**
 * Before what takes long: where each of these files would be written, it can be.
 * @throws what opening such a file would
 */
export async function checkWritable(...paths: (string | undefined)[]): Promise<void> {
  for (const path of paths) {
    if (path === undefined) continue;
    const found = await stat(path).catch(() => undefined);
    if (found?.isDirectory() === true)
      throw new LazylayerError('INVALID_ARGUMENT', `${path}: expected a file to write, found a directory`);
    await access(found === undefined ? dirname(path) : path, constants.W_OK);
  }
}

export function checkCommand({ engine }: StartFlags, command: readonly string[]): void {
  if (engine === 'mount' && command.length === 0)
    throw new LazylayerError('INVALID_ARGUMENT', 'the engine "mount" needs a command: add it behind --');
}

/** Of our own program, with the configuration that it was given. */
export async function engineOf(name: EngineName, command: Command): Promise<Engine> {
  const program = [process.execPath, fileURLToPath(new URL('main.js', import.meta.url))] as const;
  const lazylayer = { command: program, config: configFile(command) };
  if (name === 'containerd') return new (await import('../bench/start/containerd.js')).ContainerdEngine(lazylayer);
  if (name === 'podman') return new (await import('../bench/start/podman.js')).PodmanEngine(lazylayer);
  return new (await import('../bench/start/mount.js')).MountEngine(lazylayer);
}

export function readyOf({ readyOutput, readyLine, readyPort }: StartFlags): Ready {
  const given = Object.entries({ output: readyOutput, line: readyLine, port: readyPort }).filter(([, value]) => value);
  if (given.length > 1) {
    const names = given.map(([name]) => `--ready-${name}`).join(' and ');
    throw new LazylayerError('INVALID_ARGUMENT', `${names}: expected one of them, found ${given.length}`);
  }
  if (readyOutput === true) return { kind: 'output' };
  if (readyLine !== undefined) return { kind: 'line', pattern: readyLine };
  if (readyPort !== undefined) return { kind: 'port', port: readyPort };
  return { kind: 'exit' };
}
