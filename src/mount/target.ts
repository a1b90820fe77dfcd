import { isAbsolute } from 'node:path';
import { LazylayerError } from '../errors.js';
import { CommandError, runCommand } from '../util/command.js';

const missing = 2;
const other = 3;
/** Prints where a directory is; paths end at the last newline. */
const find = `[ -e "$0" ] || exit ${missing}; [ -d "$0" ] || exit ${other}; cd -P -- "$0" && pwd -P`;

/**
 * The path of a directory without symlinks and dots. A program looks at it: it may lie in a mount that this process serves.
 * @throws INVALID_ARGUMENT, NOT_FOUND, NOT_A_DIRECTORY; what the program says of a directory that cannot be entered
 */
export async function realDirectory(path: string): Promise<string> {
  if (!isAbsolute(path))
    throw new LazylayerError('INVALID_ARGUMENT', `mount point: expected an absolute path, found ${path}`);
  try {
    return (await runCommand('sh', ['-c', find, path])).replace(/\n$/, '');
  } catch (error) {
    const status = error instanceof CommandError ? error.status : undefined;
    if (status === missing)
      throw new LazylayerError('NOT_FOUND', `mount point ${path}: expected a directory, found nothing: make it first`, {
        cause: error,
      });
    if (status === other)
      throw new LazylayerError(
        'NOT_A_DIRECTORY',
        `mount point ${path}: expected a directory, found another type of file`,
      );
    throw error;
  }
}
