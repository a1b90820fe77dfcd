import { Daemon } from '../processes.js';

/** An event of containerd: what happened, when (milliseconds since 1970, by containerd's clock), and to which container. */
export interface ContainerdEvent {
  readonly time: number;
  readonly topic: string;
  readonly container: string | undefined;
}

/*
 * As `ctr events` prints them; fractions of a second have up to nine digits:
 * 2024-01-31 12:00:00.123456789 +0000 UTC default /tasks/start {"container_id":"a","pid":7}
 */
const line = /^(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d)(\.\d+)? \+0000 UTC \S+ (\S+) (\{.*\})$/;

export function parseEvents(text: string): ContainerdEvent[] {
  const events: ContainerdEvent[] = [];
  for (const one of text.split('\n')) {
    const [, day, clock, fraction = '0', topic, json] = line.exec(one) ?? [];
    if (day === undefined) continue;
    const { id, container_id: container } = JSON.parse(json) as { id?: string; container_id?: string };
    const time = Date.parse(`${day}T${clock}Z`) + Number(fraction) * 1000;
    events.push({ time, topic, container: container ?? id });
  }
  return events;
}

/** Listens to a containerd, through `ctr events`. */
export class EventListener implements AsyncDisposable {
  readonly #daemon: Daemon;

  constructor(socket: string) {
    this.#daemon = new Daemon('ctr', ['--address', socket, 'events']);
  }

  /** Resolves when an event of this topic (of this container) was told of. */
  async until(topic: string, signal: AbortSignal, container?: string): Promise<ContainerdEvent> {
    const find = () =>
      parseEvents(this.#daemon.said).find(
        (event) => event.topic === topic && (container === undefined || event.container === container),
      );
    await this.#daemon.until(`containerd tells of ${topic}`, async () => find() !== undefined, signal);
    return find()!;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#daemon[Symbol.asyncDispose]();
  }
}
