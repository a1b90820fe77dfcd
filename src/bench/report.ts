import { cpus, release, totalmem } from 'node:os';
import { haltPollNs } from '../util/halt-polling.js';

/** What the figures were taken on. */
export interface Machine {
  readonly processor: string;
  readonly processors: number;
  readonly memoryBytes: number;
  /** Of a virtual machine whose idle processors can poll before they halt: how long, 0 where they do not. */
  readonly haltPollNs?: number;
  readonly kernel: string;
  readonly node: string;
}

export function describeMachine(): Machine {
  const all = cpus();
  const polls = haltPollNs();
  return {
    processor: all[0]?.model.trim() ?? 'unknown',
    processors: all.length,
    memoryBytes: totalmem(),
    ...(polls !== undefined && { haltPollNs: polls }),
    kernel: release(),
    node: process.version,
  };
}

/** A command as it would be typed into a shell. */
export function quoteCommand(words: readonly string[]): string {
  return words.map((word) => (/^[\w./:=@%+,-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`)).join(' ');
}

/** A line of text for people. */
export function formatMachine({ processor, processors, memoryBytes, haltPollNs, kernel, node }: Machine): string {
  const memory = `${Math.round(memoryBytes / 2 ** 30)} GiB of memory`;
  const polling = haltPollNs === undefined ? [] : [formatHaltPolling(haltPollNs)];
  return [`${processors} x ${processor}`, memory, ...polling, `Linux ${kernel}`, `Node.js ${node}`].join(', ');
}

export function formatHaltPolling(ns: number): string {
  return ns === 0 ? 'guest halt polling off' : `guest halt polling up to ${ns / 1000} µs`;
}
