import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Command } from 'commander';
import { describeError } from '../errors.js';
import { layerType } from '../image/mediatype.js';
import { formatPlatform } from '../image/platform.js';
import type { LazyImage, OpenImageOptions } from '../index.js';
import { addImageFlags, examples, imageOptions, type Cli, type ImageFlags } from './context.js';
import { humanBytes, plural, shortDigest, table } from './text.js';

interface Flags extends ImageFlags {
  readonly json?: true;
}

/** What is asked of the registry. */
interface Cost {
  readonly requests: number;
  readonly bytes: number;
}

interface LayerReport {
  readonly digest: string;
  readonly mediaType: string;
  /** `eStargz`, or the packing that the media type names. */
  readonly format: string;
  /** Bytes of the blob. */
  readonly size: number;
  readonly lazy: boolean;
  /** Why it is not lazy. */
  readonly reason?: string;
  /** The rest is known only of a lazy layer: names, chunks, bytes of files, compressed bytes fetched first once it is mounted. */
  readonly entries?: number;
  readonly chunks?: number;
  readonly contentBytes?: number;
  readonly prefetchBytes?: number;
  /** What opening it costs where nothing of it is cached. */
  readonly mount: Cost;
}

interface Report {
  readonly reference: string;
  readonly digest: string;
  readonly platform: string;
  /** Manifest and config. */
  readonly resolve: Cost;
  /** Lowest first. */
  readonly layers: readonly LayerReport[];
  /** All of it. */
  readonly mount: Cost;
  readonly size: number;
}

export function addExplain(program: Command, cli: Cli): void {
  addImageFlags(program.command('explain <image>'))
    .summary('tell layer by layer what mounting an image takes')
    .description(
      'Tells of each layer its format, sizes and entries, whether it can be served lazily or why not, and what mounting the image for the first time asks of the registry. Looks at the registry only: the cache plays no part. No layer is downloaded whole.',
    )
    .option('--json', 'an object with sizes in bytes')
    .addHelpText(
      'after',
      examples(
        ['lazylayer explain registry.example/app:1', 'is it worth mounting?'],
        ["lazylayer explain --json debian:12 | jq '.layers[].reason'", 'what keeps layers from being lazy'],
      ),
    )
    .action(async (reference: string, flags: Flags, command: Command) => {
      using opening = await imageOptions(cli, command, flags);
      const directory = await mkdtemp(join(tmpdir(), 'lazylayer-explain-'));
      try {
        const config = { ...opening.options.config, root: directory };
        const report = await explain(reference, { ...opening.options, config });
        if (flags.json) await cli.terminal.json(report);
        else await cli.terminal.write(formatReport(report));
      } finally {
        await rm(directory, { recursive: true, force: true });
      }
    });
}

async function explain(reference: string, options: OpenImageOptions): Promise<Report> {
  const { LazyImage } = await import('../index.js');
  await using image = await LazyImage.resolve(reference, options);
  const resolve = { ...image.transferred };
  const layers: LayerReport[] = [];
  // One after another, so that what each asks for can be told apart, tokens and redirections included.
  for (let index = 0; index < image.manifest.layers.length; index++)
    layers.push(await explainLayer(image, index, options));
  return {
    reference: image.reference,
    digest: image.digest,
    platform: formatPlatform(image.config),
    resolve,
    layers,
    mount: sum([resolve, ...layers.map((layer) => layer.mount)]),
    size: image.manifest.layers.reduce((total, layer) => total + layer.size, 0),
  };
}

/** Opens a layer as a mount would, but leaves at the first byte of a download. */
async function explainLayer(image: LazyImage, index: number, options: OpenImageOptions): Promise<LayerReport> {
  const { digest, mediaType, size } = image.manifest.layers[index];
  const before = image.transferred;
  const asked = () => ({
    requests: image.transferred.requests - before.requests,
    bytes: image.transferred.bytes - before.bytes,
  });
  const plain = (reason: string): LayerReport => ({
    digest,
    mediaType,
    format: packing(mediaType),
    size,
    lazy: false,
    reason,
    mount: { requests: Math.max(1, asked().requests), bytes: size },
  });
  const enough = new AbortController();
  let reason: string | undefined;
  try {
    await using layer = await image.openLayer(index, {
      ...options,
      signal: options.signal === undefined ? enough.signal : AbortSignal.any([options.signal, enough.signal]),
      onDownload: (download) => {
        reason ??= download.reason;
        enough.abort();
      },
    });
    if (!layer.lazy.lazy) return plain(layer.lazy.reason);
    const { counts, facts } = layer.tree;
    return {
      digest,
      mediaType,
      format: 'eStargz',
      size,
      lazy: true,
      entries: counts.dirents,
      chunks: counts.chunks,
      contentBytes: layer.stats.totalBytes,
      prefetchBytes: facts.prefetchBytes,
      mount: asked(),
    };
  } catch (error) {
    if (options.signal?.aborted === true) throw error;
    return plain(reason ?? `it cannot be opened: ${describeError(error)}`);
  }
}

function packing(mediaType: string): string {
  const type = layerType(mediaType);
  if (type === undefined) return mediaType;
  return type.compression === 'none' ? 'tar' : `tar, ${type.compression}`;
}

function sum(costs: readonly Cost[]): Cost {
  return costs.reduce((a, b) => ({ requests: a.requests + b.requests, bytes: a.bytes + b.bytes }));
}

export function formatReport(report: Report): string {
  const { layers, mount, resolve } = report;
  const right = (title: string) => ({ title, right: true });
  const known = (bytes: number | undefined) => (bytes === undefined ? '-' : humanBytes(bytes));
  const rows = layers.map((layer) => [
    shortDigest(layer.digest),
    layer.format,
    humanBytes(layer.size),
    known(layer.contentBytes),
    layer.entries === undefined ? '-' : String(layer.entries),
    layer.lazy ? 'yes' : 'no',
    String(layer.mount.requests),
    humanBytes(layer.mount.bytes),
    known(layer.prefetchBytes),
  ]);
  const columns = [
    { title: 'LAYER' },
    { title: 'FORMAT' },
    right('SIZE'),
    right('CONTENT'),
    right('ENTRIES'),
    { title: 'LAZY' },
    right('REQUESTS'),
    right('BYTES'),
    right('PREFETCH'),
  ];
  const lazy = layers.filter((layer) => layer.lazy).length;
  return [
    `${report.reference}, ${report.platform}\n${report.digest}\n\n`,
    table(columns, rows),
    '\n',
    ...layers
      .filter((layer) => !layer.lazy)
      .map((layer) => `${shortDigest(layer.digest)} is downloaded whole: ${layer.reason}\n`),
    `${lazy} of ${plural(layers.length, 'layer')} can be served lazily.\n`,
    `Mounting asks for ${humanBytes(mount.bytes)} of ${humanBytes(report.size)} in ${plural(mount.requests, 'request')}`,
    ` (${resolve.requests} for manifest and config).\n`,
  ].join('');
}
