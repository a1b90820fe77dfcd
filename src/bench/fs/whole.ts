import type { CommandOptions } from '../../util/command.js';
import { runPipeline } from '../processes.js';

/**
 * Reads all of a tree on its file system, as tar does with these flags.
 * @throws INTERNAL with what tar said where something cannot be read
 */
export async function readWhole(
  directory: string,
  flags: readonly string[] = [],
  options?: CommandOptions,
): Promise<void> {
  // GNU tar does not read what it would write to /dev/null.
  const script = 'tar -C "$0" --one-file-system "$@" -cf - . | cat >/dev/null';
  await runPipeline(script, [directory, ...flags], options);
}
