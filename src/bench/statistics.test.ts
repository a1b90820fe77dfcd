import test from 'ava';
import fc from 'fast-check';
import { median, quantile, summarize } from './statistics.js';

test('medians and quantiles', (t) => {
  t.is(median([3, 1, 2]), 2);
  t.is(median([4, 1, 2, 3]), 2.5);
  t.is(median([7]), 7);
  t.true(Number.isNaN(median([])));
  t.is(median([100, 9]), 54.5, 'by value, not by text');
  t.deepEqual(
    [0, 0.25, 0.99, 1].map((q) => quantile([0, 1, 2, 3, 4], q)),
    [0, 1, 3.96, 4],
  );
  t.deepEqual(summarize([5, 1, 3]), { median: 3, min: 1, max: 5 });
});

test('a quantile lies within the values, and grows', (t) => {
  const values = fc.array(fc.double({ noNaN: true, min: -1e9, max: 1e9 }), { minLength: 1 });
  const q = fc.double({ min: 0, max: 1, noNaN: true });
  fc.assert(
    fc.property(values, q, q, (all, a, b) => {
      const [low, high] = [Math.min(a, b), Math.max(a, b)].map((one) => quantile(all, one));
      return low <= high + 1e-6 && low >= Math.min(...all) && high <= Math.max(...all) + 1e-6;
    }),
  );
  t.pass();
});
