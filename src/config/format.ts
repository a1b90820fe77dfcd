import { stringify } from 'smol-toml';
import type { Config } from './config.js';
import { exactSize } from './size.js';

type Table = 'fuse' | 'cache' | 'fetch' | 'pool' | 'snapshotter' | 'store' | 'metrics' | 'registry';

/** What stands above each key, in the order of the file. */
const topKeys = {
  version: 'Version of this format.',
  root: 'Where everything is kept: cache, mounts, control socket, log. One daemon at a time owns it. An absolute path.\nFlag --root, variable LAZYLAYER_ROOT. For users other than root the default is $XDG_DATA_HOME/lazylayer.',
  log_level:
    'How much the daemon tells its log: "trace", "debug", "info", "warn", "error" or "silent".\nFlag --log-level, variable LAZYLAYER_LOG_LEVEL.',
  allow_no_verification:
    'Serve eStargz layers also where the manifest does not tell the digest of their TOC: nothing in them can be verified, so\nthey are refused otherwise. Flag --allow-no-verification.',
} as const;

const tables: { readonly [T in Table]: { readonly about: string; readonly keys: Record<string, string> } } = {
  fuse: {
    about: 'How files are served.',
    keys: {
      backend:
        '"kernel": /dev/fuse itself, served by a thread of its own. "fuse-native": by libfuse 2, which must be installed; slower.\nFlag --backend.',
      layer_idle_sec:
        'A layer of which nothing was asked for this long, in seconds, leaves memory. The next request brings it back from disk.',
      stay_awake:
        'While requests follow each other closely, look for the next one some microseconds before going to sleep. In a virtual machine of at\nmost 8 processors that halt as soon as they are idle (cpuidle\'s haltpoll with polling switched off), the kernel is also asked to have\nthem poll for as long: each request would wait for two of them to be woken otherwise. With backend "kernel" only.',
      erofs:
        'A layer all of whose content is in the cache is mounted by the kernel itself (EROFS over the cache file) for whatever is mounted from\nthen on, which is as fast as a local disk and asks nothing of the daemon. Takes Linux 6.12 (at its best 6.15) and root; else all layers\nstay with FUSE.',
    },
  },
  cache: {
    about: 'File content on disk, every chunk verified before it is kept.',
    keys: {
      max_bytes:
        'Above this, content of the least recently used layers is dropped, never that of layers in use. A number of bytes, or a\nstring with one of B, KiB, MiB, GiB, TiB (powers of 1024), kB, MB, GB, TB (powers of 1000).',
    },
  },
  fetch: {
    about: 'What is asked of registries, and when.',
    keys: {
      prefetch:
        "Fetch what is needed at a start before it is read: what an image marks so (its prefetch landmark) as soon as it is asked for; what a\ncontainer is going to run, by whoever makes it, by the image's config, or by the command lines of its processes; what programs need and\nopen: the loader, libraries, interpreters, modules and headers; and some files that are looked up and not read at once.",
      background:
        'Fetch everything else of a mounted image while nothing more urgent is under way. Flag --no-background-fetch.',
      background_quiet_sec:
        'How long nobody must have read what is not cached, in seconds, before everything else is fetched: a program that starts\nneeds all of the network.',
      max_concurrency: 'Ranges that are fetched at the same time.',
      max_memory: 'Bytes of fetched content that may be in memory at the same time.',
      connect_timeout_sec: 'Time limit for a connection to be there.',
      headers_timeout_sec: 'Time limit for an answer to begin.',
      body_timeout_sec: 'Time limit between two pieces of an answer.',
      max_retries: 'Tries after the first for a request that fails in a way that may pass.',
      min_wait_msec: 'The first wait between tries is at most this long; it doubles with each try ...',
      max_wait_msec: '... up to this.',
      max_retry_after_sec: 'A registry that asks for a longer pause than this (Retry-After) is not tried again.',
    },
  },
  pool: {
    about: 'Manifest and config of references, kept so that a second mount asks the registry nothing.',
    keys: {
      max_entries: 'References that are kept although nothing uses them.',
      hold_sec: 'How long a reference that was just loaded is kept in any case.',
    },
  },
  snapshotter: {
    about:
      "containerd's snapshots, offered by `lazylayer serve`. `lazylayer config containerd` tells what containerd has to know.",
    keys: {
      address:
        'Socket for containerd, which its owner and group can open. "" offers no snapshots. Flag --address of serve.',
      remap_ids:
        'Let the kernel change owners for containers in user namespaces, by id-mapped mounts: for containerd 2.0 and later. Layers that\nare served lazily need Linux 6.12 and the kernel backend. Where this is false, containerd changes the owners of each file\nitself, which fetches all of them.',
      prefetch_label:
        'Where fetch.prefetch is true and a layer has no landmark, fetch as many bytes from its start as the client says (label\ncontainerd.io/snapshot/remote/stargz.prefetch). ctr-remote asks for 10 MiB of each layer unasked, so that this is off by default.',
    },
  },
  store: {
    about:
      'The additional layer store of Podman, Buildah and CRI-O, shown by `lazylayer serve` too. Needs the kernel backend.',
    keys: {
      mount_point:
        'An existing directory, named in storage.conf as additionallayerstores = ["MOUNT_POINT:ref"]. "" shows no store.',
    },
  },
  metrics: {
    about: 'Numbers for Prometheus, while `lazylayer serve` runs.',
    keys: {
      address:
        'Where /metrics and /healthz are: HOST:PORT, or the path of a socket. "" for nowhere. Nobody is asked for a password\nthere: 127.0.0.1 keeps it on this machine.',
    },
  },
  registry: {
    about: 'Registries and their mirrors.',
    keys: { certs_dir: 'Directories of HOST/hosts.toml files. They are read again when they change.' },
  },
};

const hostsHelp = `
# A host may also be configured here, which goes before certs_dir. The keys are those of hosts.toml;
# paths are relative to the directory of this file:
#
# [registry.hosts."docker.io"]
# server = "https://registry-1.docker.io"
#
# [registry.hosts."docker.io".host."https://mirror.example"]
# capabilities = ["pull", "resolve"]
# ca = "/etc/ssl/mirror.pem"
# client = [["/etc/ssl/client.cert", "/etc/ssl/client.key"]]
# skip_verify = false
# override_path = false
# dial_timeout = "3s"
# header = { "x-team" = "blue" }
`;

/** A commented config.toml that reads back as the same configuration. */
export function formatConfig(config: Config): string {
  const parts = ['# Configuration of lazylayer. Every key may be left out; the values here are those in force.\n'];
  for (const [key, about] of Object.entries(topKeys))
    parts.push(entry(key, about, config[key as keyof typeof topKeys]));
  for (const [name, { about, keys }] of Object.entries(tables)) {
    parts.push(`\n${comment(about)}[${name}]\n`);
    const values = config[name as Table] as Readonly<Record<string, unknown>>;
    for (const [key, help] of Object.entries(keys)) parts.push(entry(key, help, values[key]));
  }
  parts.push(hostsHelp);
  parts.push(hostTables(config));
  return parts.join('');
}

const sizes = new Set(['max_bytes', 'max_memory']);

function entry(key: string, about: string, value: unknown): string {
  const shown = sizes.has(key) ? exactSize(value as number) : value;
  return `\n${comment(about)}${stringify({ [key]: shown })}`;
}

function comment(text: string): string {
  return text.replace(/^/gm, '# ') + '\n';
}

function hostTables(config: Config): string {
  const hosts: Record<string, object> = {};
  for (const [name, { hosts: mirrors, ...own }] of Object.entries(config.registry.hosts))
    hosts[name] = {
      ...own,
      ...(mirrors && { host: Object.fromEntries(mirrors.map(({ url, ...settings }) => [url, settings])) }),
    };
  return Object.keys(hosts).length === 0 ? '' : `\n${stringify({ registry: { hosts } })}`;
}
