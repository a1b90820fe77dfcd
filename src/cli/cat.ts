import type { Command } from 'commander';
import { codeOf, describeError, exitStatusOf, LazylayerError } from '../errors.js';
import type { LazyImage } from '../index.js';
import { addImageFlags, examples, imageOptions, type Cli, type ImageFlags } from './context.js';
import { OutputClosed } from './terminal.js';

export function addCat(program: Command, cli: Cli): void {
  addImageFlags(program.command('cat <image> <path...>'))
    .summary('write files of an image to standard output')
    .description(
      'Writes files of an image to standard output, fetching only what they are made of. Symbolic links are followed within the image.',
    )
    .addHelpText(
      'after',
      examples(
        ['lazylayer cat debian:12 /etc/os-release', 'one file'],
        ['lazylayer cat alpine /bin/busybox > busybox', 'bytes, as they are'],
      ),
    )
    .action(async (reference: string, paths: string[], flags: ImageFlags, command: Command) => {
      const { openImage } = await import('../index.js');
      using opening = await imageOptions(cli, command, flags);
      await using image = await openImage(reference, opening.options);
      opening[Symbol.dispose]();
      if (image.warning !== undefined) cli.terminal.warn(image.warning);
      for (const path of paths) await catFile(cli, image, path);
    });
}

/** A path that cannot be read does not keep the others from being written. */
async function catFile(cli: Cli, image: LazyImage, path: string): Promise<void> {
  const { signal } = cli.interrupts;
  try {
    if (image.tree.isDirectory(image.tree.resolve(path)))
      throw new LazylayerError('FAILED_PRECONDITION', `${path}: is a directory`);
    for await (const piece of image.createReadStream(path, { signal })) await cli.terminal.write(piece);
  } catch (error) {
    if (error instanceof OutputClosed || codeOf(error) === 'ABORTED') throw error;
    cli.terminal.fail(describeError(error));
    process.exitCode = exitStatusOf(error);
  }
}
