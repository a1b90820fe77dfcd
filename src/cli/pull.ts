import { resolve } from 'node:path';
import { Option, type Command } from 'commander';
import type { DaemonClient } from '../daemon/client.js';
import { LazylayerError } from '../errors.js';
import { parseReference } from '../image/reference.js';
import type { PullInfo, PullRequest } from '../pull/request.js';
import { addImageFlags, configOf, examples, type Cli, type ImageFlags } from './context.js';
import { ProgressView } from './progress.js';
import { humanBytes, plural } from './text.js';

interface Flags extends ImageFlags {
  readonly address: string;
  readonly namespace: string;
  readonly snapshotter: string;
  readonly json?: true;
}

export function addPull(program: Command, cli: Cli): void {
  addImageFlags(program.command('pull <image>'))
    .summary('put an image into containerd, lazily')
    .description(
      'Puts an image into containerd without downloading its layers: a container can be started from it at once. Asks the daemon of `lazylayer serve`, which then knows of the image before containerd does: the quickest start. Prints the name that the image has in containerd.',
    )
    .addOption(
      new Option('-a, --address <socket>', "containerd's socket")
        .env('CONTAINERD_ADDRESS')
        .default('/run/containerd/containerd.sock'),
    )
    .addOption(
      new Option('-n, --namespace <name>', "containerd's namespace").env('CONTAINERD_NAMESPACE').default('default'),
    )
    .addOption(
      new Option('--snapshotter <name>', 'under which containerd knows lazylayer')
        .env('CONTAINERD_SNAPSHOTTER')
        .default('lazylayer'),
    )
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
      const config = await configOf(command, { allowNoVerification: flags.allowNoVerification });
      parseReference(image);
      const request: PullRequest = {
        image,
        platform: flags.platform,
        allowNoVerification: config.allow_no_verification,
        address: resolve(flags.address.replace(/^unix:\/\//, '')),
        namespace: flags.namespace,
        snapshotter: flags.snapshotter,
      };
      const info = await pullShown(cli, new DaemonClient(config.root), request);
      if (flags.json) return cli.terminal.json(info);
      await cli.terminal.write(`${info.image}\n`);
      cli.terminal.say(describePull(info));
    });
}

async function pullShown(cli: Cli, client: DaemonClient, request: PullRequest): Promise<PullInfo> {
  using view = new ProgressView(cli.terminal);
  const { signal } = cli.interrupts;
  try {
    return await client.pull(request, {
      onProgress: (progress) => {
        if (progress.kind === 'download') view.update(progress);
        else cli.terminal.warn(progress.message);
      },
      signal,
    });
  } catch (error) {
    signal.throwIfAborted();
    const { code } = error as NodeJS.ErrnoException;
    if (code !== 'ENOENT' && code !== 'ECONNREFUSED') throw error;
    throw new LazylayerError(
      'FAILED_PRECONDITION',
      'no daemon runs on this root: start `lazylayer serve`, or say which --root it has',
      { cause: error },
    );
  }
}

function describePull({ image, layers, lazyLayers, totalBytes }: PullInfo): string {
  return `${image} is in containerd: ${plural(layers, 'layer')}, ${lazyLayers} lazy; ${humanBytes(totalBytes)} compressed`;
}
