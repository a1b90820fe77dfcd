import type { Command } from 'commander';
import type { MergedTree } from '../fs/merged.js';
import { addImageFlags, examples, imageOptions, type Cli, type ImageFlags } from './context.js';
import { factsOf, longLines, shownName, type Listed } from './listing.js';

interface Flags extends ImageFlags {
  readonly long?: true;
  readonly recursive?: true;
  readonly json?: true;
}

/** Lines are gathered up to this size before they are written. */
const pieceBytes = 64 * 1024;

export function addLs(program: Command, cli: Cli): void {
  addImageFlags(program.command('ls <image> [path]'))
    .summary('list files of an image')
    .description('Lists files of an image without downloading or mounting it.')
    .option('-l, --long', 'mode, links, owner, group, size or device numbers, time of change (UTC)')
    .option('-R, --recursive', 'everything below, by path')
    .option('--json', 'an array with all that is known of each file')
    .addHelpText(
      'after',
      examples(
        ['lazylayer ls debian:12 /etc', 'names in /etc'],
        ['lazylayer ls -lR alpine', 'every file of the image'],
        ['lazylayer ls --json alpine /bin', 'for programs'],
      ),
    )
    .action(async (reference: string, path: string | undefined, flags: Flags, command: Command) => {
      const { openImage } = await import('../index.js');
      using opening = await imageOptions(cli, command, flags);
      await using image = await openImage(reference, opening.options);
      opening[Symbol.dispose]();
      if (image.warning !== undefined) cli.terminal.warn(image.warning);
      const files = list(image.tree, path ?? '/', flags.recursive === true);
      if (flags.json) await cli.terminal.json(files.map((file) => factsOf(image.tree, file.path, file.node)));
      else await print(cli, image.tree, files, flags.long === true);
    });
}

/** What is in a directory, or the file alone. A symlink that is named itself is followed when it leads to a directory. */
function list(tree: MergedTree, path: string, recursive: boolean): Listed[] {
  let node = tree.resolve(path, { followSymlinks: false });
  if (tree.isSymlink(node)) {
    try {
      const target = tree.resolve(path);
      if (tree.isDirectory(target)) node = target;
    } catch {
      // A link that leads nowhere is listed as itself.
    }
  }
  if (!tree.isDirectory(node)) return [{ path: Buffer.from(path), node }];
  return recursive ? [...tree.walk(node)] : tree.readdir(node).map((entry) => ({ path: entry.name, node: entry.node }));
}

async function print(cli: Cli, tree: MergedTree, files: readonly Listed[], long: boolean): Promise<void> {
  const toTerminal = cli.terminal.out.isTTY;
  const heads = long ? longLines(tree, files) : undefined;
  let lines: Buffer[] = [];
  let size = 0;
  for (const [i, { path, node }] of files.entries()) {
    if (heads !== undefined) lines.push(Buffer.from(`${heads[i]} `));
    lines.push(shownName(path, toTerminal));
    if (long && tree.isSymlink(node)) lines.push(Buffer.from(' -> '), shownName(tree.readlink(node), toTerminal));
    lines.push(newline);
    size += path.length + 80;
    if (size < pieceBytes) continue;
    await cli.terminal.write(Buffer.concat(lines));
    lines = [];
    size = 0;
  }
  await cli.terminal.write(Buffer.concat(lines));
}

const newline = Buffer.from('\n');
