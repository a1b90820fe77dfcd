import { resolve } from 'node:path';
import { Option, type Command } from 'commander';
import { LazylayerError } from '../errors.js';
import { parseReference } from '../image/reference.js';
import type { PullInfo, PullRequest } from '../pull/request.js';
import { addPlatformFlag, configOf, examples, followed, type Cli } from './context.js';
import { humanBytes, plural } from './text.js';

interface Flags {
  readonly platform?: string;
  readonly address: string;
  readonly namespace: string;
  readonly snapshotter: string;
  readonly json?: true;
}

/** Where containerd listens unless it is told otherwise. */
const ADDRESS = '/run/containerd/containerd.sock';

export function addPull(program: Command, cli: Cli): void {
  addPlatformFlag(program.command('pull <image>'))
    .summary('put an image into containerd, lazily')
    .description(
      'Puts an image into containerd without downloading its layers: a container can be started from it at once. Asks the daemon of `lazylayer serve`, which then knows of the image before containerd does: the quickest start. Prints the name that the image has in containerd.',
    )
    .addOption(new Option('-a, --address <socket>', "containerd's socket").env('CONTAINERD_ADDRESS').default(ADDRESS))
    .addOption(
      new Option('-n, --namespace <name>', "containerd's namespace").env('CONTAINERD_NAMESPACE').default('default'),
    )
    .option('--snapshotter <name>', 'under which containerd knows lazylayer', 'lazylayer')
    .option('--json', 'tell of the image as an object')
    .addHelpText(
      'after',
      examples(
        ['lazylayer pull debian:12', 'for ctr run --snapshotter lazylayer'],
        ['lazylayer pull -n k8s.io registry.example/app:1', 'for pods'],
      ),
    )
    .action(async (image: string, flags: Flags, command: Command) => {
      const { DaemonClient } = await import('../daemon/client.js');
      const { root } = await configOf(command);
      parseReference(image);
      checkNamespace(flags.namespace);
      const request: PullRequest = {
        image,
        platform: flags.platform,
        address: resolve(flags.address.replace(/^unix:\/\//, '') || ADDRESS),
        namespace: flags.namespace,
        snapshotter: flags.snapshotter,
      };
      const client = new DaemonClient(root);
      const info = await followed(cli, (options) => client.pull(request, options)).catch(noDaemon);
      if (flags.json) return cli.terminal.json(info);
      await cli.terminal.write(`${info.image}\n`);
      cli.terminal.say(describePull(info));
    });
}

/** As containerd has it: a name of 76 characters at most. */
function checkNamespace(name: string): void {
  if (name.length <= 76 && /^[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*$/.test(name)) return;
  throw new LazylayerError(
    'INVALID_ARGUMENT',
    `namespace: expected letters and digits, with . _ - between them, found ${JSON.stringify(name)}`,
  );
}

/** @throws FAILED_PRECONDITION where nobody listens, else the error itself */
function noDaemon(error: unknown): never {
  const { code } = error as NodeJS.ErrnoException;
  if (code !== 'ENOENT' && code !== 'ECONNREFUSED') throw error;
  throw new LazylayerError(
    'FAILED_PRECONDITION',
    'no daemon runs on this root: start `lazylayer serve`, or say which --root it has',
    { cause: error },
  );
}

function describePull({ image, layers, lazyLayers, totalBytes }: PullInfo): string {
  return `${image} is in containerd: ${plural(layers, 'layer')}, ${lazyLayers} lazy; ${humanBytes(totalBytes)} compressed`;
}
