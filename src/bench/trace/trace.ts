import { DaemonClient } from '../../daemon/client.js';
import { LazylayerError } from '../../errors.js';
import type { Trace } from '../../daemon/trace-events.js';
import type { Candidate, Engine, Moments, StartOptions } from '../start/engine.js';
import { inNewPlace } from '../start/place.js';

/** One cold start, and what its daemon remembered of it. */
export interface TracedStart {
  readonly moments: Moments;
  /** Up to when it was ready. */
  readonly trace: Trace;
  readonly output: string;
  readonly notes: readonly string[];
}

/** Starts the workload cold, once, and has the daemon remember what was read and asked for until it is ready. */
export async function traceStart(engine: Engine, candidate: Candidate, options: StartOptions): Promise<TracedStart> {
  engine.check([candidate]);
  return inNewPlace(engine, candidate, options, async (place, before) => {
    if (place.root === undefined)
      throw new LazylayerError('INVALID_ARGUMENT', `${candidate.name}: there is no daemon of lazylayer to trace`);
    await using recording = await new DaemonClient(place.root).trace();
    const { moments, output } = await place.start(options);
    const trace = await recording.finish(moments.ready);
    const notes = [...before, ...place.notes()];
    await place.stop();
    return { moments, trace, output, notes };
  });
}
