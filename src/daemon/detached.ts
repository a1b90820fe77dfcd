import type { Config } from '../config/config.js';
import { toWire } from './control.js';
import { Holder } from './holder.js';
import type { HolderReport } from './protocol.js';

/*
 * The program that a command starts where it needs a daemon and none runs. It is given the configuration over IPC, tells there when it
 * serves, and ends by itself when its last mount is gone.
 */

process.title = 'lazylayer-holder';
process.once('message', (config: Config) => {
  const report = (message: HolderReport) => {
    if (process.connected) process.send!(message, () => process.disconnect());
  };
  const holder = new Holder(config, false);
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) process.on(signal, () => holder.end());
  holder
    .start()
    .then(({ ended }) => {
      report({ kind: 'ready' });
      return ended;
    })
    .catch((error: unknown) => {
      report({ kind: 'failed', error: toWire(error) });
      return 1;
    })
    .then((status) => process.exit(status))
    .catch(() => process.exit(1));
});
