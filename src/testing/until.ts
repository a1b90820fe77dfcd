import { setImmediate as turn, setTimeout as sleep } from 'node:timers/promises';

/** Resolves once a condition holds: looks again in each turn of the event loop, after a while every 2 ms. @throws after some 40 seconds */
export async function until(condition: () => boolean): Promise<void> {
  for (let i = 0; i < 20_000; i++) {
    if (condition()) return;
    await (i < 1000 ? turn() : sleep(2));
  }
  throw new Error('it never came to pass');
}
