import { once } from 'node:events';
import { setPriority } from 'node:os';
import type { Network } from './network.js';
import { ShapingProxy, type ProxyTarget, type Traffic } from './shaping-proxy.js';

/** What the parent asks for. The first message starts the proxy; each is answered by one. */
export type ProxyCommand =
  | { readonly kind: 'start'; readonly target: ProxyTarget; readonly network: Network | { readonly rttMs: number } }
  | { readonly kind: 'reset' }
  | { readonly kind: 'traffic' };

export type ProxyAnswer =
  | { readonly kind: 'started'; readonly port: number }
  | { readonly kind: 'reset' }
  | { readonly kind: 'traffic'; readonly traffic: Traffic; readonly cpuMs: number }
  | { readonly kind: 'failed'; readonly message: string };

/** The proxy in a process of its own: what is measured must not share an event loop with it. Ends when its parent does. */
async function main(): Promise<void> {
  const answer = (message: ProxyAnswer) => process.send!(message);
  // A Ctrl-C is for the whole process group; this one ends when its parent has cleaned up.
  for (const name of ['SIGINT', 'SIGTERM'] as const) process.on(name, () => {});
  try {
    // A real network does not wait for a processor that the measured programs keep busy.
    setPriority(-15);
  } catch {
    // Only root may.
  }
  const [{ target, network }] = (await once(process, 'message')) as [Extract<ProxyCommand, { kind: 'start' }>];
  // JSON has no Infinity: an unlimited rate is left out.
  const proxy = await ShapingProxy.start(target, { bytesPerMs: Infinity, ...network });
  process.on('disconnect', () => void proxy[Symbol.asyncDispose]().then(() => process.exit(0)));
  process.on('message', (command: ProxyCommand) => {
    if (command.kind === 'reset') {
      proxy.reset();
      answer({ kind: 'reset' });
    } else if (command.kind === 'traffic') {
      const { user, system } = process.cpuUsage();
      answer({ kind: 'traffic', traffic: proxy.traffic, cpuMs: (user + system) / 1000 });
    }
  });
  answer({ kind: 'started', port: proxy.port });
}

main().catch((error: unknown) => {
  process.send?.({ kind: 'failed', message: String(error) } satisfies ProxyAnswer);
  process.disconnect?.();
  process.exitCode = 1;
});
