import { existsSync } from 'node:fs';
import { Option, type Command } from 'commander';
import { describeError, exitStatusOf, LazylayerError } from '../errors.js';
import { containerdConfig, type ContainerdVersion } from './containerd-config.js';
import { podmanConfig, podmanPlaces } from './podman-config.js';
import { ownerId } from '../util/user-namespace.js';
import { configFile, configOf, directoryOf, examples, type Cli } from './context.js';

interface JsonFlag {
  readonly json?: true;
}

export function addConfig(program: Command, cli: Cli): void {
  const config = program
    .command('config')
    .summary("write or check the configuration, or write its clients'")
    .description("Writes or checks config.toml, or writes what containerd's or Podman's configuration has to say.");
  config
    .command('default')
    .summary('write the default configuration')
    .description('Writes a config.toml with every key, its default, and what it does.')
    .option('--json', 'the values alone, sizes in bytes')
    .addHelpText('after', examples(['lazylayer config default > /etc/lazylayer/config.toml', 'a file to start from']))
    .action(async (flags: JsonFlag) => {
      const { defaultConfig } = await import('../config/config.js');
      const { formatConfig } = await import('../config/format.js');
      if (flags.json) await cli.terminal.json(defaultConfig());
      else await cli.terminal.write(formatConfig(defaultConfig()));
    });
  config
    .command('check')
    .summary('check the configuration')
    .description(
      'Checks the configuration file and the variables and flags that go before it. Names file, line and key of all that is wrong.',
    )
    .option('--json', 'an object with the values in force, or the problems')
    .addHelpText(
      'after',
      examples(
        ['lazylayer config check', 'the file in force'],
        ['lazylayer config check --config new.toml', 'before it is put in place'],
      ),
    )
    .action(async (flags: JsonFlag, command: Command) => {
      const { configPath } = await import('../config/config.js');
      const { ConfigError } = await import('../config/problems.js');
      const { path } = configPath(configFile(command));
      const file = existsSync(path) ? path : null;
      try {
        const values = await configOf(command);
        if (flags.json) await cli.terminal.json({ file, problems: [], config: values });
        else
          await cli.terminal.write(
            file === null ? `${path} is not there: defaults are in force\n` : `${path} is good\n`,
          );
      } catch (error) {
        if (!(flags.json && error instanceof LazylayerError)) throw error;
        const problems = error instanceof ConfigError ? error.problems : [{ message: describeError(error) }];
        await cli.terminal.json({ file, problems });
        process.exitCode = exitStatusOf(error);
      }
    });
  config
    .command('containerd')
    .summary('write what containerd has to be told')
    .description(
      "Writes the part of containerd's configuration that makes it start containers lazily: the snapshotter that `lazylayer serve` offers here, and CRI's choice of it.",
    )
    .addOption(
      new Option('--containerd-version <major>', "1 or 2, the first part of containerd's version")
        .choices(['1', '2'])
        .default('2'),
    )
    .option('--json', 'an object with the text')
    .addHelpText(
      'after',
      examples(
        ['lazylayer config containerd', 'for containerd 2'],
        [
          'lazylayer config containerd --containerd-version 1 > /etc/containerd/config.toml',
          'for 1.6, as the whole file',
        ],
      ),
    )
    .action(async (flags: JsonFlag & { containerdVersion: ContainerdVersion }, command: Command) => {
      const text = containerdConfig(await configOf(command), flags.containerdVersion);
      if (flags.json) await cli.terminal.json({ text });
      else await cli.terminal.write(text);
    });
  config
    .command('podman')
    .summary('write what Podman, Buildah and CRI-O have to be told')
    .description(
      'Writes the part of storage.conf that makes Podman, Buildah and CRI-O look for layers in the layer store before they pull them.',
    )
    .argument('[mountpoint]', 'where the layer store is (default: store.mount_point)')
    .option('--json', 'an object with the text')
    .addHelpText(
      'after',
      examples(
        ['lazylayer config podman', 'as the configuration says'],
        ['lazylayer config podman /var/lib/lazylayer-store', 'for `lazylayer store` of that directory'],
      ),
    )
    .action(async (mountpoint: string | undefined, flags: JsonFlag, command: Command) => {
      const storeMountPoint = mountpoint === undefined ? undefined : directoryOf(mountpoint);
      const { defaultConfig } = await import('../config/config.js');
      const places = { defaultRoot: defaultConfig().root, ...podmanPlaces(ownerId(), process.env) };
      const text = podmanConfig(await configOf(command, { storeMountPoint }), places);
      if (flags.json) await cli.terminal.json({ text });
      else await cli.terminal.write(text);
    });
}
