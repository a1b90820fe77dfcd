import { cpus, release, totalmem } from 'node:os';

/** What the figures were taken on. */
export interface Machine {
  readonly processor: string;
  readonly processors: number;
  readonly memoryBytes: number;
  readonly kernel: string;
  readonly node: string;
}

export function describeMachine(): Machine {
  const all = cpus();
  return {
    processor: all[0]?.model.trim() ?? 'unknown',
    processors: all.length,
    memoryBytes: totalmem(),
    kernel: release(),
    node: process.version,
  };
}

/** A line of text for people. */
export function formatMachine({ processor, processors, memoryBytes, kernel, node }: Machine): string {
  return `${processors} x ${processor}, ${Math.round(memoryBytes / 2 ** 30)} GiB of memory, Linux ${kernel}, Node.js ${node}`;
}
