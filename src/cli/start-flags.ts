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
  readonly readyLine?: RegExp;
  readonly readyPort?: number;
  readonly plainHttp?: true;
}

export const engineOption = (byDefault: EngineName) =>
  new Option('--engine <name>', 'what runs it').choices(engines).default(byDefault);
export const networkOption = () =>
  new Option('--network <rtt,rate>', 'imitate a network before the registry, such as 40ms,200mbit');
export const readyLineOption = () =>
  new Option('--ready-line <regex>', 'ready with a line of its output (default: when it ends)').argParser(parsePattern);
export const readyPortOption = () =>
  new Option('--ready-port <port>', 'ready when this TCP port answers').argParser(wholeNumber(1, 65_535));
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

export function readyOf({ readyLine, readyPort }: StartFlags): Ready {
  if (readyLine !== undefined && readyPort !== undefined)
    throw new LazylayerError('INVALID_ARGUMENT', '--ready-line and --ready-port: expected one of them, found both');
  if (readyLine !== undefined) return { kind: 'line', pattern: readyLine };
  if (readyPort !== undefined) return { kind: 'port', port: readyPort };
  return { kind: 'exit' };
}
