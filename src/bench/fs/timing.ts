import { quantile } from '../statistics.js';

/** What some work has taken. */
export interface Timed {
  readonly ms: number;
  /** Of single operations, in microseconds, NaN of none; work that one program does as a whole has no such. */
  readonly p50?: number;
  readonly p99?: number;
}

export async function timed(work: () => Promise<unknown>): Promise<Timed> {
  const begin = performance.now();
  await work();
  return { ms: performance.now() - begin };
}

/** One after the other: what is between them does not count. */
export function operations<T>(all: readonly T[], operation: (one: T) => unknown): Timed {
  const microseconds = new Float64Array(all.length);
  let ms = 0;
  for (const [i, one] of all.entries()) {
    const begin = performance.now();
    operation(one);
    const took = performance.now() - begin;
    microseconds[i] = took * 1000;
    ms += took;
  }
  return { ms, ...percentiles(microseconds) };
}

export const percentiles = (microseconds: Iterable<number>) => ({
  p50: quantile(microseconds, 0.5),
  p99: quantile(microseconds, 0.99),
});
