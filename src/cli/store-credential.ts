import type { Command } from 'commander';
import { LazylayerError } from '../errors.js';
import { configOf, examples } from './context.js';

/** A login is much shorter. */
const mostBytes = 1024 * 1024;

export function addStoreCredential(program: Command): void {
  program
    .command('store-credential')
    .summary("hand a client's registry login to the daemon")
    .description(
      'Reads logins from standard input, a JSON object {"<reference>": {"username": ..., "password": ..., "identityToken": ...}}, and hands them to the daemon, which keeps them in memory. As `lazylayer-store-credential` it is the additional-layer-store-auth-helper of registries.conf: clients call it without arguments.',
    )
    .addHelpText('after', examples(['lazylayer store-credential < login.json', 'as Podman does, by its helper']))
    .action(async (_flags: object, command: Command) => {
      const { findDaemon } = await import('../daemon/client.js');
      const { parseGiven } = await import('../registry/auth/given.js');
      const given = parseGiven(await readInput());
      const { root } = await configOf(command);
      const daemon = await findDaemon(root);
      if (daemon === undefined)
        throw new LazylayerError(
          'UNAVAILABLE',
          `no daemon has ${root}: start \`lazylayer store\`, or name its --root or LAZYLAYER_ROOT`,
        );
      await daemon.giveCredentials(given);
    });
}

async function readInput(): Promise<string> {
  const parts: Buffer[] = [];
  let bytes = 0;
  for await (const part of process.stdin) {
    parts.push(part as Buffer);
    if ((bytes += (part as Buffer).byteLength) > mostBytes)
      throw new LazylayerError('INVALID_ARGUMENT', `expected at most ${mostBytes} bytes of logins, found more`);
  }
  return Buffer.concat(parts).toString();
}
