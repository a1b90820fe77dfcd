import test from 'ava';
import type { ProxyHandle } from '../proxy.js';
import type { Candidate, Engine, Started } from './engine.js';
import { benchStart, type CandidateRuns } from './start.js';

const candidates: Candidate[] = ['one', 'two'].map((name) => ({ name, image: name, way: { kind: 'lazy' } }));
const seen = (connection: number, start: number) => ({
  connection,
  method: 'GET',
  path: '/v2/',
  range: undefined,
  agent: undefined,
  status: 200,
  bytes: 10,
  start,
  firstByte: start + 1,
  end: start + 60,
});

/** Starts take 100 ms; the one of this number fails. */
function scene(failing: number) {
  let starts = 0;
  const start = async (): Promise<Started> => {
    if (++starts === failing) throw new Error('it failed');
    return { moments: { begin: 1000, pull: 1030, create: 1040, run: 1060, ready: 1100 }, output: '' };
  };
  const place = {
    root: undefined,
    start,
    stop: async () => {},
    peakMemory: async () => undefined,
    notes: () => [],
    [Symbol.asyncDispose]: async () => {},
  };
  const engine: Engine = { check: () => {}, open: async () => place };
  const requests = [seen(1, 1010), seen(1, 1080), seen(2, 1090), seen(3, 1101)];
  const proxy = {
    reset: async () => {},
    traffic: async () => ({ connections: 4, bytesDown: 0, bytesUp: 0, cpuMs: 0, requests }),
  } as unknown as ProxyHandle;
  const signal = new AbortController().signal;
  return { engine, proxy, candidates, runs: 3, command: [], ready: { kind: 'exit' } as const, signal };
}

test('columns take turns; what counts began before the workload was ready', async (t) => {
  const turns: string[] = [];
  const columns = await benchStart({ ...scene(0), onRun: (run, { name }) => turns.push(`${run} ${name}`) });
  t.deepEqual(turns, ['1 one', '1 two', '2 one', '2 two', '3 one', '3 two']);
  const { requests, connections, bytes, totalMs, phases } = columns[1].runs[2];
  t.deepEqual(
    requests.map(({ startMs, endMs }) => [startMs, endMs]),
    [
      [10, 70],
      [80, undefined],
      [90, undefined],
    ],
  );
  t.deepEqual({ connections, bytes, totalMs }, { connections: 2, bytes: 30, totalMs: 100 });
  t.deepEqual(phases, { pull: 30, create: 10, run: 20, ready: 40 });
});

test('of runs that fail, the whole rounds before that are told, and the failure is thrown', async (t) => {
  const told: CandidateRuns[][] = [];
  const onFailure = async (rounds: readonly CandidateRuns[]) => void told.push([...rounds]);
  await t.throwsAsync(benchStart({ ...scene(6), onFailure }), { message: 'it failed' });
  t.deepEqual(
    told.map((columns) => columns.map(({ runs }) => runs.length)),
    [[2, 2]],
  );
  await t.throwsAsync(benchStart({ ...scene(2), onFailure }), { message: 'it failed' });
  t.is(told.length, 1, 'no whole round, nothing to tell');
});
