import test from 'ava';
import type { FsFigure, FsRuns } from '../bench/fs/fs.js';
import { formatFs } from './bench-table.js';

const runs = (directory: string, figures: readonly Omit<FsFigure, 'state'>[]): FsRuns => ({
  directory,
  entries: 1,
  leftOut: 0,
  figures: figures.map((figure) => ({ ...figure, state: 'warm' })),
});

test('trees are told by their medians, with the range of the runs; what there is none of is a dash', (t) => {
  const slow = runs(
    'slow',
    [3, 1, 2].map((ms) => ({ part: 'walk', ms })),
  );
  const fast = runs('fast', [{ part: 'walk', ms: 1 }]);
  t.deepEqual(cellsOf(formatFs([slow, fast])), [
    ['PART', 'slow', 'FROM', 'TO', 'P50/P99', 'fast', 'FROM', 'TO', 'P50/P99', 'RATIO'],
    ['find', 'warm', '2.0 ms', '1.0 ms', '3.0 ms', '-', '1.0 ms', '1.0 ms', '1.0 ms', '-', '0.50'],
  ]);
  const none = runs('none', [{ part: 'small', ms: 0, p50: NaN, p99: NaN }]);
  const some = runs('some', [{ part: 'small', ms: 1, p50: 10, p99: 20 }]);
  t.deepEqual(cellsOf(formatFs([none, some]))[1].slice(5), ['-', '1.0 ms', '1.0 ms', '1.0 ms', '10.0/20.0 µs', '-']);
});

const cellsOf = (text: string) =>
  text
    .trimEnd()
    .split('\n')
    .map((line) => line.split(/ {2,}/));
