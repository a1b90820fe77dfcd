import { readFile } from 'node:fs/promises';
import { median } from '../../src/bench/statistics.js';

/** One number of one candidate, over the runs. */
export interface Series {
  readonly measure: string;
  readonly candidate: string;
  readonly unit: 'ms' | 'µs' | 'MB/s' | 'MB' | 'ops/s';
  readonly values: readonly number[];
}

/** Collects measurements that come interleaved: one run of every candidate, then the next run. */
export class Measurements {
  readonly #series = new Map<string, Series & { values: number[] }>();

  add(measure: string, candidate: string, unit: Series['unit'], value: number): void {
    const key = `${measure}\n${candidate}`;
    const series = this.#series.get(key) ?? { measure, candidate, unit, values: [] };
    series.values.push(value);
    this.#series.set(key, series);
  }

  get all(): Series[] {
    return [...this.#series.values()];
  }

  median(measure: string, candidate: string): number {
    return median(this.#series.get(`${measure}\n${candidate}`)?.values ?? []);
  }
}

/** A claim about two medians: `better / worse` (or a bare number) against a bound. */
export interface Verdict {
  readonly claim: string;
  readonly value: number;
  readonly bound: string;
  readonly holds: boolean;
}

export async function milliseconds(work: () => Promise<unknown>): Promise<number> {
  const started = performance.now();
  await work();
  return performance.now() - started;
}

/** Highest and present resident memory of a process in bytes (proc_pid_status(5)). */
export async function memoryOf(pid: number): Promise<{ highest: number; present: number }> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8');
  const kilobytes = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(status)?.[1]) * 1024;
  return { highest: kilobytes('VmHWM'), present: kilobytes('VmRSS') };
}

export function formatTable(series: readonly Series[], verdicts: readonly Verdict[]): string {
  const lines: string[] = [];
  const width = Math.max(...series.map((s) => s.candidate.length)) + 2;
  let measure = '';
  const measures = [...new Set(series.map((s) => s.measure))];
  for (const s of measures.flatMap((name) => series.filter((one) => one.measure === name))) {
    if (s.measure !== measure) lines.push('', s.measure);
    measure = s.measure;
    const spread = `${number(Math.min(...s.values))} to ${number(Math.max(...s.values))}`;
    lines.push(
      `  ${s.candidate.padEnd(width)}${number(median(s.values)).padStart(10)} ${s.unit.padEnd(5)} (${spread})`,
    );
  }
  lines.push('');
  for (const { claim, value, bound, holds } of verdicts)
    lines.push(`  ${holds ? 'holds' : 'FAILS'}  ${claim}: ${value.toFixed(2)}, wanted ${bound}`);
  return lines.join('\n');
}

function number(value: number): string {
  return value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2);
}
