import { readFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { parse, TomlError } from 'smol-toml';
import * as v from 'valibot';
import { codeOf, LazylayerError } from '../errors.js';
import type { HostsConfig } from '../registry/hosts.js';
import { KeyLines } from '../util/toml-lines.js';
import { absoluteHosts } from './host-paths.js';
import { ConfigError, problemOf } from './problems.js';
import { configSchema, settings } from './schema.js';
import { ownerId } from '../util/user-namespace.js';

type Valid = v.InferOutput<typeof configSchema>;

/**
 * Settings as config.toml names them, units in the names; sizes are in bytes. Plain data: it goes through JSON unchanged.
 * config.example.toml tells what each one does.
 */
export type Config = Omit<Valid, 'root' | 'registry'> & {
  readonly root: string;
  readonly registry: { readonly certs_dir: readonly string[]; readonly hosts: HostsConfig };
};

/** What a file says: without `root`, it follows from who runs. */
type Parsed = Omit<Config, 'root'> & { readonly root?: string };

/** What a command line may set in place of the file. */
export interface ConfigFlags {
  readonly root?: string;
  readonly logLevel?: string;
  readonly backend?: string;
  /** Of the snapshotter's socket. */
  readonly address?: string;
  /** Of the layer store. */
  readonly storeMountPoint?: string;
  readonly metricsAddress?: string;
  readonly backgroundFetch?: boolean;
  readonly allowNoVerification?: boolean;
}

/** Who runs, as the machine knows it: what default paths follow from. */
export interface ConfigContext {
  readonly env?: Readonly<Record<string, string | undefined>>;
  readonly uid?: number;
}

export interface LoadOptions extends ConfigContext {
  readonly flags?: ConfigFlags;
}

/** The configuration of a machine without a file. */
export function defaultConfig(context: ConfigContext = {}): Config {
  return complete(v.parse(configSchema, {}), context);
}

/** `/etc/lazylayer/config.toml` for root, `$XDG_CONFIG_HOME/lazylayer/config.toml` for others. */
export function defaultConfigPath({ env = process.env, uid = ownerId() }: ConfigContext = {}): string {
  return uid === 0 ? '/etc/lazylayer/config.toml' : join(xdg(env.XDG_CONFIG_HOME, '.config'), 'lazylayer/config.toml');
}

function defaultRoot({ env = process.env, uid = ownerId() }: ConfigContext): string {
  return uid === 0 ? '/var/lib/lazylayer' : join(xdg(env.XDG_DATA_HOME, '.local/share'), 'lazylayer');
}

/** XDG base directories count only when they are absolute. */
function xdg(value: string | undefined, fallback: string): string {
  return value?.startsWith('/') === true ? value : join(homedir(), fallback);
}

/** Which file `loadConfig` reads, and whether it must be there. */
export function configPath(
  path: string | undefined,
  context: ConfigContext = {},
): { readonly path: string; readonly required: boolean } {
  const named = path ?? emptyIsUnset((context.env ?? process.env).LAZYLAYER_CONFIG);
  return named === undefined
    ? { path: defaultConfigPath(context), required: false }
    : { path: resolve(named), required: true };
}

/**
 * The settings in force: flags, then LAZYLAYER_ROOT and LAZYLAYER_LOG_LEVEL, then the file (`path`, or LAZYLAYER_CONFIG, or the
 * default one, which may be missing), then defaults.
 * @throws ConfigError that names file, line and key of everything that is wrong; NOT_FOUND
 */
export async function loadConfig(path?: string, options: LoadOptions = {}): Promise<Config> {
  const file = configPath(path, options);
  let config = complete(await readConfig(file), options);
  const env = options.env ?? process.env;
  config = override(config, {
    root: ['LAZYLAYER_ROOT', emptyIsUnset(env.LAZYLAYER_ROOT)],
    logLevel: ['LAZYLAYER_LOG_LEVEL', emptyIsUnset(env.LAZYLAYER_LOG_LEVEL)],
  });
  const { root, logLevel, backend, address, storeMountPoint, metricsAddress, backgroundFetch, allowNoVerification } =
    options.flags ?? {};
  config = override(config, {
    root: ['--root', root],
    logLevel: ['--log-level', logLevel],
    backend: ['--backend', backend],
    address: ['--address', address],
    mountPoint: ['mount point', storeMountPoint],
    metricsAddress: ['--metrics', metricsAddress],
  });
  return {
    ...config,
    allow_no_verification: allowNoVerification ?? config.allow_no_verification,
    fetch: { ...config.fetch, background: backgroundFetch ?? config.fetch.background },
  };
}

async function readConfig(file: { path: string; required: boolean }): Promise<Parsed> {
  let text: string;
  try {
    text = await readFile(file.path, 'utf8');
  } catch (error) {
    if (codeOf(error) !== 'NOT_FOUND')
      throw new LazylayerError(
        codeOf(error),
        `${file.path}: expected a configuration file, found what cannot be read`,
        {
          cause: error,
        },
      );
    if (!file.required) return v.parse(configSchema, {});
    throw new LazylayerError('NOT_FOUND', `${file.path}: there is no such configuration file`);
  }
  return parseConfig(text, file.path);
}

/**
 * Paths of certificates may be relative to the directory of `file`; they are absolute in what is returned.
 * @throws ConfigError
 */
export function parseConfig(text: string, file: string): Parsed {
  let document: unknown;
  try {
    document = parse(text);
  } catch (error) {
    if (!(error instanceof TomlError)) throw error;
    const [first] = error.message.replace(/^Invalid TOML document: /, '').split('\n');
    throw new ConfigError(file, [{ line: error.line, message: first }], { cause: error });
  }
  const result = v.safeParse(configSchema, document);
  if (result.success) {
    const { registry, ...rest } = result.output;
    return { ...rest, registry: { ...registry, hosts: absoluteHosts(registry.hosts, dirname(resolve(file))) } };
  }
  const lines = new KeyLines(text);
  const problems = result.issues.map((issue) => problemOf(issue, lines));
  throw new ConfigError(
    file,
    problems.sort((a, b) => (a.line ?? 0) - (b.line ?? 0)),
  );
}

function complete(parsed: Parsed, context: ConfigContext): Config {
  return { ...parsed, root: parsed.root ?? defaultRoot(context) };
}

type Named = readonly [name: string, value: string | undefined];

/** A relative root means the caller's directory, not the daemon's. */
function override(
  config: Config,
  given: {
    root?: Named;
    logLevel?: Named;
    backend?: Named;
    address?: Named;
    mountPoint?: Named;
    metricsAddress?: Named;
  },
): Config {
  return {
    ...config,
    root: check(settings.root, given.root && [given.root[0], given.root[1] && resolve(given.root[1])]) ?? config.root,
    log_level: check(settings.log_level, given.logLevel) ?? config.log_level,
    fuse: { ...config.fuse, backend: check(settings.backend, given.backend) ?? config.fuse.backend },
    snapshotter: {
      ...config.snapshotter,
      address: check(settings.address, given.address) ?? config.snapshotter.address,
    },
    store: { ...config.store, mount_point: check(settings.mount_point, given.mountPoint) ?? config.store.mount_point },
    metrics: { ...config.metrics, address: check(settings.listen, given.metricsAddress) ?? config.metrics.address },
  };
}

function check<S extends v.GenericSchema>(
  schema: S,
  [name, value]: Named = ['', undefined],
): v.InferOutput<S> | undefined {
  if (value === undefined) return undefined;
  const result = v.safeParse(schema, value);
  if (result.success) return result.output;
  throw new ConfigError(name, [{ message: `expected ${result.issues[0].message}, found ${JSON.stringify(value)}` }]);
}

const emptyIsUnset = (value: string | undefined) => (value === '' ? undefined : value);
