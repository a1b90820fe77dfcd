import { once, type EventEmitter } from 'node:events';

/** Resolves at the first of these events, and leaves no listener. @throws what the emitter's `error` tells before */
export async function firstOf(emitter: EventEmitter, ...events: readonly string[]): Promise<void> {
  const heard = new AbortController();
  try {
    await Promise.race(events.map((event) => once(emitter, event, { signal: heard.signal })));
  } finally {
    heard.abort();
  }
}
