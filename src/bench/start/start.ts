import type { SeenRequest } from '../http-watch.js';
import type { ProxyHandle } from '../proxy.js';
import {
  phases,
  type Candidate,
  type Engine,
  type Moments,
  type Phase,
  type Started,
  type StartOptions,
} from './engine.js';
import { inNewPlace } from './place.js';

/** One request of a run; times are milliseconds since the start began. */
export interface RunRequest extends Omit<SeenRequest, 'start' | 'firstByte' | 'end'> {
  readonly startMs: number;
  /** Undefined where the answer was not there yet when the workload was ready. */
  readonly firstByteMs: number | undefined;
  readonly endMs: number | undefined;
}

/** What one start has cost, up to when the workload was ready. */
export interface StartRun {
  /** Milliseconds of each phase. */
  readonly phases: Readonly<Record<Phase, number>>;
  readonly totalMs: number;
  /** To the registry, that these requests went by. */
  readonly connections: number;
  /** Of these requests' bodies, as much as came until the workload had ended or was about to be ended. */
  readonly bytes: number;
  /** Those that began before it was ready. */
  readonly requests: readonly RunRequest[];
  /** Peak of lazylayer's resident memory, in bytes. */
  readonly memory: number | undefined;
  readonly output: string;
  readonly notes: readonly string[];
}

export interface CandidateRuns {
  readonly name: string;
  readonly image: string;
  readonly runs: readonly StartRun[];
}

export interface BenchStartOptions extends StartOptions {
  readonly engine: Engine;
  /** Before the registry of every candidate's image. */
  readonly proxy: ProxyHandle;
  readonly candidates: readonly Candidate[];
  readonly runs: number;
  /** Told before each run. */
  readonly onRun?: (run: number, candidate: Candidate) => void;
  /** Told of the whole rounds of runs, of which there is at least one, before what failed is thrown. */
  readonly onFailure?: (rounds: readonly CandidateRuns[]) => Promise<void>;
}

/**
 * Starts the workload cold, `runs` times for each candidate. Candidates take turns, so that what drifts hits all alike. Where a run fails, those
 * who want it are told of the rounds before it (`onFailure`), since they may have taken an hour.
 */
export async function benchStart(options: BenchStartOptions): Promise<CandidateRuns[]> {
  const { engine, candidates, runs, signal } = options;
  engine.check(candidates);
  const results = candidates.map(({ name, image }) => ({ name, image, runs: [] as StartRun[] }));
  for (let run = 1; run <= runs; run++) {
    const round: StartRun[] = [];
    try {
      for (const candidate of candidates) {
        signal.throwIfAborted();
        options.onRun?.(run, candidate);
        round.push(await startOnce(options, candidate));
      }
    } catch (error) {
      if (run > 1) await options.onFailure?.(results);
      throw error;
    }
    round.forEach((one, i) => results[i].runs.push(one));
  }
  return results;
}

async function startOnce(options: BenchStartOptions, candidate: Candidate): Promise<StartRun> {
  const { engine, proxy } = options;
  return inNewPlace(engine, candidate, options, async (place, before) => {
    await proxy.reset();
    const started = await place.start(options);
    const traffic = await proxy.traffic();
    const memory = await place.peakMemory();
    const notes = [...before, ...place.notes()];
    await place.stop();
    const { begin, ready } = started.moments;
    const requests = traffic.requests.filter(({ start }) => start <= ready);
    return {
      phases: phasesOf(started.moments),
      totalMs: ready - begin,
      connections: new Set(requests.map(({ connection }) => connection)).size,
      bytes: requests.reduce((sum, { bytes }) => sum + bytes, 0),
      requests: requests.map(({ start, firstByte, end, ...request }) => ({
        ...request,
        startMs: start - begin,
        firstByteMs: momentBefore(firstByte, started),
        endMs: momentBefore(end, started),
      })),
      memory,
      output: started.output,
      notes,
    };
  });
}

const momentBefore = (time: number, { moments: { begin, ready } }: Started) =>
  time === 0 || time > ready ? undefined : time - begin;

/** Phases follow each other; one that containerd tells of a little late ends with the next. */
export function phasesOf(moments: Moments): Record<Phase, number> {
  const lengths = { pull: 0, create: 0, run: 0, ready: 0 };
  let before = moments.begin;
  for (const phase of phases) {
    const end = Math.min(Math.max(moments[phase], before), moments.ready);
    lengths[phase] = end - before;
    before = end;
  }
  return lengths;
}
