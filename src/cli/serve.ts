import { resolve } from 'node:path';
import type { Command } from 'commander';
import type { Config } from '../config/config.js';
import { LazylayerError } from '../errors.js';
import { configOf, examples, type Cli } from './context.js';

export function addServe(program: Command, cli: Cli): void {
  program
    .command('serve')
    .summary("run the daemon that makes containerd's snapshots")
    .description(
      'Offers snapshots to containerd on a socket, so that containers start from images that were never pulled whole, and serves what is mounted by hand on the same root. Stays until SIGTERM or Ctrl-C. Logs JSON lines to standard output.',
    )
    .option('--address <socket>', 'socket for containerd; an empty one for none')
    .option('--store <dir>', 'where to show layers to Podman; an empty one for nowhere')
    .option('--metrics <address>', 'HOST:PORT or socket of the metrics; an empty one for nowhere')
    .addHelpText(
      'after',
      examples(
        ['lazylayer serve', 'as the configuration says'],
        ['lazylayer serve --root /tmp/lazy --address /tmp/lazy.sock --store "" --metrics ""', 'beside another one'],
        ['lazylayer config containerd', 'what containerd has to be told'],
      ),
    )
    .action(async (flags: { address?: string; store?: string; metrics?: string }, command: Command) => {
      const { address, store, metrics } = flags;
      const config = await configOf(command, {
        address,
        storeMountPoint: store && resolve(store),
        metricsAddress: metrics,
      });
      await runDaemon(cli, config);
    });
}

/** Serves until a signal ends it, and ends this process. @throws PERMISSION_DENIED for who is not root, what starting throws */
export async function runDaemon(cli: Cli, config: Config): Promise<void> {
  if (process.geteuid!() !== 0)
    throw new LazylayerError(
      'PERMISSION_DENIED',
      'only root can serve: it mounts file systems; without root, `podman unshare lazylayer store MOUNTPOINT` serves your own Podman',
    );
  // Loaded only now: no other verb needs them.
  const { Holder } = await import('../daemon/holder.js');
  const { notifyReady, notifyStopping } = await import('../daemon/notify.js');
  // The end that the first signal asks for is in order whatever comes after it.
  cli.interrupts.takeSecond();
  const holder = new Holder(config, true);
  let told = Promise.resolve();
  cli.interrupts.signal.addEventListener('abort', () => {
    told = notifyStopping();
    holder.end();
  });
  const { ended } = await holder.start();
  if (!cli.interrupts.signal.aborted) await notifyReady();
  const status = await ended;
  await told;
  // At once: while a process winds up, nobody listens for signals any more, and one that comes then would be its status.
  process.exit(status);
}
