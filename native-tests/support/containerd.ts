import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { eventually, requirePrograms, run, startDaemon, type Cleanup } from './tools.js';

export interface Containerd {
  readonly socket: string;
  readonly ctr: (...args: string[]) => Promise<string>;
  readonly ctrRemote: (...args: string[]) => Promise<string>;
  /** `ctr images push` over plain HTTP, with whatever else it takes. */
  readonly push: (...args: string[]) => Promise<void>;
}

export interface ContainerdOptions {
  /** Also as a runtime for Kubernetes, whose pods are made of this image. */
  readonly sandboxImage?: string;
}

/** Lines of containerd's configuration for a snapshotter `lazylayer` on a socket. */
export const lazylayerPlugin = (address: string): string[] => [
  '[proxy_plugins.lazylayer]',
  'type = "snapshot"',
  `address = "${address}"`,
];

/** Debian's containerd with its own root, state and socket. `extra` are lines for its configuration. */
export async function startContainerd(
  cleanup: Cleanup,
  extra: readonly string[] = [],
  { sandboxImage }: ContainerdOptions = {},
): Promise<Containerd> {
  requirePrograms('containerd', 'ctr', 'ctr-remote');
  const directory = await mkdtemp(join(tmpdir(), 'lazylayer-containerd-'));
  cleanup.teardown(() => rm(directory, { recursive: true, force: true }));
  const socket = join(directory, 'containerd.sock');
  const config = [
    'version = 2',
    `root = "${directory}/root"`,
    `state = "${directory}/state"`,
    ...(sandboxImage === undefined ? ['disabled_plugins = ["io.containerd.grpc.v1.cri"]'] : []),
    '[grpc]',
    `address = "${socket}"`,
    ...(sandboxImage === undefined ? [] : criConfig(directory, sandboxImage)),
    ...extra,
  ];
  await writeFile(join(directory, 'config.toml'), config.join('\n'));
  const daemon = startDaemon(cleanup, 'containerd', ['--config', join(directory, 'config.toml')]);
  const client =
    (program: string) =>
    async (...args: string[]) =>
      run(program, ['--address', socket, ...args]);
  const ctr = client('ctr');
  await eventually('containerd answers', async () => {
    if (daemon.child.exitCode !== null) throw new Error(`containerd ended: ${daemon.said()}`);
    return ctr('version');
  });
  const push = (...args: string[]) => pushAgain(() => ctr('images', 'push', '--plain-http', ...args));
  return { socket, ctr, ctrRemote: client('ctr-remote'), push };
}

/**
 * On a busy machine ctr now and then loses the stream by which it reads containerd's own content, before it has sent that (containerd issue
 * 5734). What the registry has by then it does not send again.
 */
async function pushAgain(push: () => Promise<unknown>): Promise<void> {
  for (let left = 2; ; left--)
    try {
      await push();
      return;
    } catch (error) {
      if (left === 0 || !String(error).includes('failed to copy: rpc error: code = Internal desc = unexpected EOF'))
        throw error;
    }
}

/** CRI on a machine that is no node of a cluster: no network plugins, and nobody may be kept from being killed when memory is short. */
function criConfig(directory: string, sandboxImage: string): string[] {
  return [
    '[plugins."io.containerd.grpc.v1.cri"]',
    `sandbox_image = "${sandboxImage}"`,
    'restrict_oom_score_adj = true',
    'stream_server_port = "0"',
    '[plugins."io.containerd.grpc.v1.cri".cni]',
    `bin_dir = "${directory}/cni/bin"`,
    `conf_dir = "${directory}/cni/conf"`,
  ];
}
