import * as v from 'valibot';
import { endpointShape, serverSchema } from '../registry/hosts-toml.js';
import { parseSize, sizeForm } from './size.js';

/*
 * Every message below is what a value should have been, to stand behind "expected".
 */

export const logLevels = ['trace', 'debug', 'info', 'warn', 'error', 'silent'] as const;
export const backends = ['kernel', 'fuse-native'] as const;

const flag = () => v.boolean('true or false');
const absolutePath = () => v.pipe(v.string('an absolute path'), v.startsWith('/', 'an absolute path'));
const oneOf = <const T extends readonly string[]>(choices: T) =>
  v.picklist(choices, `one of ${choices.map((c) => JSON.stringify(c)).join(', ')}`);

function whole(min: number, max: number) {
  const form = `a whole number from ${min} to ${max}`;
  return v.pipe(v.number(form), v.integer(form), v.minValue(min, form), v.maxValue(max, form));
}

function decimal(min: number, max: number) {
  const form = `a number from ${min} to ${max}`;
  return v.pipe(v.number(form), v.minValue(min, form), v.maxValue(max, form));
}

function size(min: number) {
  const form = min === 0 ? sizeForm : `${sizeForm}, of at least ${min} bytes`;
  const bytes = (given: number | string) => (typeof given === 'number' ? given : (parseSize(given) ?? NaN));
  return v.pipe(
    v.union([v.number(), v.string()], form),
    v.check((given) => Number.isSafeInteger(bytes(given)) && bytes(given) >= min, form),
    v.transform(bytes),
  );
}

/** Only what is written as a table: an array of tables is none, nor is a date. */
const anyTable = () =>
  v.custom<Record<string, unknown>>(
    (value) => typeof value === 'object' && value !== null && !Array.isArray(value) && !(value instanceof Date),
    'a table',
  );

function table<const E extends v.ObjectEntries>(entries: E) {
  return v.pipe(anyTable(), v.strictObject(entries));
}

function tableOf<const S extends v.GenericSchema>(value: S) {
  return v.pipe(anyTable(), v.record(v.string(), value));
}

/** As hosts.toml has it, but that unknown keys are refused here. */
const host = v.pipe(
  table({
    server: v.optional(serverSchema),
    ...endpointShape,
    host: v.optional(v.pipe(anyTable(), v.record(serverSchema, table(endpointShape)))),
  }),
  v.transform(({ host: mirrors, ...own }) => ({
    ...own,
    ...(mirrors && { hosts: Object.entries(mirrors).map(([url, settings]) => ({ url, ...settings })) }),
  })),
);

/** unix(7): the name of a socket has 108 bytes, its terminating NUL included. */
const socketBytes = 107;
const socketForm = `the absolute path of a socket, at most ${socketBytes} bytes long, or "" for none`;
const isSocketPath = (text: string) => text.startsWith('/') && Buffer.byteLength(text) <= socketBytes;
const socketPath = () =>
  v.pipe(
    v.string(socketForm),
    v.check((text) => text === '' || isSocketPath(text), socketForm),
  );

const listenForm = 'HOST:PORT, the absolute path of a socket, or "" for none';
const listenAddress = () =>
  v.pipe(
    v.string(listenForm),
    v.check((text) => text === '' || isSocketPath(text) || isHostPort(text), listenForm),
  );

function isHostPort(text: string): boolean {
  const found = /^(?:\[[0-9a-fA-F:.]+\]|[^\s:/[\]]+):(\d{1,5})$/.exec(text);
  return found !== null && Number(found[1]) <= 65_535;
}

const mountPointForm = 'the absolute path of a directory, or "" for none';

export const settings = {
  root: absolutePath(),
  log_level: oneOf(logLevels),
  backend: oneOf(backends),
  address: socketPath(),
  mount_point: v.pipe(
    v.string(mountPointForm),
    v.check((text) => text === '' || text.startsWith('/'), mountPointForm),
  ),
  listen: listenAddress(),
};

/** config.toml, with every default but that of `root`, which depends on who runs. */
export const configSchema = table({
  version: v.optional(v.literal(2, '2, the version of the format that this program reads'), 2),
  root: v.optional(settings.root),
  log_level: v.optional(settings.log_level, 'info'),
  allow_no_verification: v.optional(flag(), false),
  fuse: v.optional(
    table({
      backend: v.optional(settings.backend, 'kernel'),
      layer_idle_sec: v.optional(decimal(0.05, 86_400), 300),
      stay_awake: v.optional(flag(), true),
      erofs: v.optional(flag(), true),
    }),
    {},
  ),
  cache: v.optional(table({ max_bytes: v.optional(size(0), '20GiB') }), {}),
  fetch: v.optional(
    table({
      prefetch: v.optional(flag(), true),
      background: v.optional(flag(), true),
      background_quiet_sec: v.optional(decimal(0, 86_400), 5),
      max_concurrency: v.optional(whole(1, 256), 6),
      max_memory: v.optional(size(2 ** 20), '32MiB'),
      connect_timeout_sec: v.optional(decimal(0.001, 3600), 10),
      headers_timeout_sec: v.optional(decimal(0.001, 3600), 30),
      body_timeout_sec: v.optional(decimal(0.001, 3600), 30),
      max_retries: v.optional(whole(0, 100), 3),
      min_wait_msec: v.optional(whole(1, 600_000), 200),
      max_wait_msec: v.optional(whole(1, 600_000), 5000),
      max_retry_after_sec: v.optional(decimal(0, 3600), 30),
    }),
    {},
  ),
  pool: v.optional(
    table({ max_entries: v.optional(whole(1, 100_000), 30), hold_sec: v.optional(decimal(0, 86_400), 120) }),
    {},
  ),
  snapshotter: v.optional(
    table({
      address: v.optional(settings.address, '/run/lazylayer/snapshotter.sock'),
      remap_ids: v.optional(flag(), false),
      prefetch_label: v.optional(flag(), false),
    }),
    {},
  ),
  store: v.optional(table({ mount_point: v.optional(settings.mount_point, '') }), {}),
  metrics: v.optional(table({ address: v.optional(settings.listen, '') }), {}),
  registry: v.optional(
    table({
      certs_dir: v.optional(v.array(absolutePath(), 'an array of absolute paths'), [
        '/etc/containerd/certs.d',
        '/etc/docker/certs.d',
      ]),
      hosts: v.optional(tableOf(host), {}),
    }),
    {},
  ),
});
