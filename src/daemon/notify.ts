import { runCommand } from '../util/command.js';

/*
 * sd_notify(3) is a datagram to the socket that NOTIFY_SOCKET names. Node.js sends no datagrams to unix sockets, so systemd's own program
 * does it, in the name of this process; the unit takes that with `NotifyAccess=all`.
 */

/** Tells the service manager, where there is one, that the daemon serves. A manager that cannot be told does not end it. */
export const notifyReady = () => notify('--ready');

export const notifyStopping = () => notify('STOPPING=1');

async function notify(what: string): Promise<void> {
  if ((process.env.NOTIFY_SOCKET ?? '') === '') return;
  await runCommand('systemd-notify', [`--pid=${process.pid}`, what]).catch((error: unknown) =>
    console.error(`the service manager could not be told ${what}: ${String(error)}`),
  );
}
