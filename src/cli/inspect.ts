import { Option, type Command } from 'commander';
import type { LazyImage } from '../index.js';
import { addImageFlags, examples, imageOptions, type Cli, type ImageFlags } from './context.js';

interface Flags extends ImageFlags {
  readonly raw?: 'manifest' | 'config';
}

export function addInspect(program: Command, cli: Cli): void {
  addImageFlags(program.command('inspect <image>'))
    .summary("show an image's manifest and config")
    .description(
      "Shows an image's manifest and config as JSON, by the names that docker inspect and podman inspect use.",
    )
    .addOption(new Option('--raw <what>', 'the bytes as the registry has them').choices(['manifest', 'config']))
    .option('--json', 'is how it is written in any case')
    .addHelpText(
      'after',
      examples(
        ['lazylayer inspect nginx', 'everything'],
        ["lazylayer inspect nginx | jq '.[0].Config.Env'", 'one part'],
        ['lazylayer inspect --raw manifest nginx | sha256sum', "the manifest's digest"],
      ),
    )
    .action(async (reference: string, flags: Flags, command: Command) => {
      const { LazyImage } = await import('../index.js');
      using opening = await imageOptions(cli, command, flags);
      await using image = await LazyImage.resolve(reference, opening.options);
      if (image.warning !== undefined) cli.terminal.warn(image.warning);
      if (flags.raw === 'manifest') await cli.terminal.write(image.manifestBytes);
      else if (flags.raw === 'config') await cli.terminal.write(image.configBytes);
      else await cli.terminal.json([describeImage(image)]);
    });
}

/** The registry's own documents, so that members this program has no use for are shown too. */
function describeImage(image: LazyImage) {
  const manifest = parse(image.manifestBytes);
  const { rootfs, config, created, author, architecture, os, variant, history } = parse(image.configBytes);
  const at = image.reference.indexOf('@');
  const name = at < 0 ? image.reference : image.reference.slice(0, at);
  const colon = name.lastIndexOf(':');
  const tagged = colon > name.lastIndexOf('/');
  const { type, diff_ids } = rootfs as { type: string; diff_ids: string[] };
  return {
    Id: image.manifest.config.digest,
    RepoTags: tagged ? [name] : [],
    RepoDigests: [`${tagged ? name.slice(0, colon) : name}@${image.digest}`],
    Digest: image.digest,
    Created: created,
    Author: author,
    Architecture: architecture,
    Variant: variant,
    Os: os,
    Size: image.manifest.layers.reduce((sum, layer) => sum + layer.size, 0),
    Config: config,
    RootFS: { Type: type, Layers: diff_ids },
    History: history,
    Manifest: manifest,
  };
}

function parse(bytes: Uint8Array): Record<string, unknown> {
  return JSON.parse(Buffer.from(bytes).toString()) as Record<string, unknown>;
}
