import type { Config } from '../config/config.js';
import { LazylayerError } from '../errors.js';

/** containerd's major version: 1.x reads `version = 2` of its format, 2.x `version = 3`. */
export type ContainerdVersion = '1' | '2';

interface Dialect {
  readonly format: number;
  /** The plugin's table that names the snapshotter of CRI. */
  readonly cri: string;
}

const dialects: Readonly<Record<ContainerdVersion, Dialect>> = {
  1: { format: 2, cri: '[plugins."io.containerd.grpc.v1.cri".containerd]' },
  2: { format: 3, cri: '[plugins."io.containerd.cri.v1.images"]' },
};

/** A list in the file replaces the built-in one, so it names what that has, too. */
const transfer = [
  '',
  '# For clients of the transfer service, such as ctr: the snapshotters that it may unpack for.',
  ...['overlayfs', 'lazylayer'].flatMap((name) => [
    '[[plugins."io.containerd.transfer.v1.local".unpack_config]]',
    'platform = "linux"',
    `snapshotter = "${name}"`,
  ]),
];

/**
 * What containerd has to be told to start containers from lazily served images, as TOML for its config.toml.
 * @throws FAILED_PRECONDITION where the configuration offers no snapshots
 */
export function containerdConfig(config: Config, version: ContainerdVersion): string {
  const { address, remap_ids } = config.snapshotter;
  if (address === '')
    throw new LazylayerError(
      'FAILED_PRECONDITION',
      'the configuration offers no snapshots: expected a socket as snapshotter.address, found ""',
    );
  const { format, cri } = dialects[version];
  const second = version === '2';
  return [
    `# For /etc/containerd/config.toml of containerd ${version}.x; restart containerd then.`,
    `version = ${format}`,
    '',
    '# The snapshotter, which `lazylayer serve` offers.',
    '[proxy_plugins.lazylayer]',
    'type = "snapshot"',
    `address = ${JSON.stringify(address)}`,
    ...(second && remap_ids ? ['capabilities = ["remap-ids"]'] : []),
    ...(second ? exportsOf(config) : []),
    '',
    '# For Kubernetes (CRI): the snapshotter of every pod, and the annotations that tell it where layers come from.',
    cri,
    'snapshotter = "lazylayer"',
    'disable_snapshot_annotations = false',
    ...(second ? transfer : []),
    '',
  ].join('\n');
}

/** What containerd 2 is told of a snapshotter beside its address: where its disk is, and that it takes the labels of remote layers. */
function exportsOf({ root }: Config): string[] {
  return [
    '',
    '[proxy_plugins.lazylayer.exports]',
    `root = ${JSON.stringify(root)}`,
    'enable_remote_snapshot_annotations = "true"',
  ];
}
