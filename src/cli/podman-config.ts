import { homedir } from 'node:os';
import { join } from 'node:path';
import type { Config } from '../config/config.js';
import { LazylayerError } from '../errors.js';

export interface PodmanPlaces {
  /** Where the daemon's root is unless it is told otherwise. */
  readonly defaultRoot: string;
  /** Directories of containers-storage: a file that names none of its own is no good to it. */
  readonly graphroot: string;
  readonly runroot: string;
}

/** Where things are for who owns this process: root of the machine, or somebody else, also under `podman unshare`. */
export function podmanPlaces(
  owner: number,
  env: Readonly<Record<string, string | undefined>>,
): Pick<PodmanPlaces, 'graphroot' | 'runroot'> {
  if (owner === 0) return { graphroot: '/var/lib/containers/storage', runroot: '/run/containers/storage' };
  const data = env.XDG_DATA_HOME ?? join(env.HOME ?? homedir(), '.local', 'share');
  return {
    graphroot: join(data, 'containers', 'storage'),
    runroot: join(env.XDG_RUNTIME_DIR ?? `/run/user/${owner}`, 'containers'),
  };
}

/**
 * What containers-storage has to be told to look for layers here, as TOML for storage.conf: the same for Podman, Buildah and CRI-O.
 * @throws FAILED_PRECONDITION where the configuration shows no store
 */
export function podmanConfig(
  { root, store: { mount_point } }: Config,
  { defaultRoot, graphroot, runroot }: PodmanPlaces,
): string {
  if (mount_point === '')
    throw new LazylayerError(
      'FAILED_PRECONDITION',
      'the configuration shows no layer store: name its mount point, or set it as store.mount_point',
    );
  return [
    '# For /etc/containers/storage.conf, which Podman, Buildah and CRI-O read. Start `lazylayer store`, or `lazylayer serve`, before them.',
    '[storage]',
    'driver = "overlay"',
    `graphroot = ${JSON.stringify(graphroot)}`,
    `runroot = ${JSON.stringify(runroot)}`,
    '',
    '[storage.options]',
    `additionallayerstores = [${JSON.stringify(`${mount_point}:ref`)}]`,
    '',
    '# Logins are found where `podman login` puts them for root. Clients since Podman 5.2 also hand over those that they were given otherwise,',
    "# such as Kubernetes' pull secrets, by this line at the top of /etc/containers/registries.conf:",
    '#     additional-layer-store-auth-helper = "lazylayer-store-credential"',
    ...(root === defaultRoot ? [] : [`# with LAZYLAYER_ROOT=${root} in the environment of the client.`]),
    '',
  ].join('\n');
}
