import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { loadConfig } from '../../config/config.js';
import { temporaryDirectory } from '../../testing/temporary.js';
import { serveArguments } from './lazylayer.js';

test('a daemon of a measurement takes nothing that the configuration gives to the daemon of the machine', async (t) => {
  const rest = ['--log-level', 'info', '--config', '/c.toml'];
  t.deepEqual(serveArguments({ address: '/s' }, '/r', '/c.toml'), [
    ...['serve', '--root', '/r', ...rest, '--address', '/s', '--store', '', '--metrics', ''],
  ]);
  t.deepEqual(serveArguments({ store: '/layers' }, '/r', undefined), [
    ...['serve', '--root', '/r', '--log-level', 'info', '--address', '', '--store', '/layers', '--metrics', ''],
  ]);

  const directory = await temporaryDirectory(t, 'config');
  const file = join(directory, 'config.toml');
  await writeFile(file, '[store]\nmount_point = "/store"\n[metrics]\naddress = "127.0.0.1:9000"\n');
  const none = { address: '', storeMountPoint: '', metricsAddress: '' };
  const config = await loadConfig(file, { uid: 0, env: {}, flags: none });
  t.deepEqual(
    [config.snapshotter.address, config.store.mount_point, config.metrics.address],
    ['', '', ''],
    'empty is none, not what the file says',
  );
});
