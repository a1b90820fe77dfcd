import test from 'ava';
import fc from 'fast-check';
import { LazylayerError } from '../errors.js';
import { formatNetwork, parseNetwork } from './network.js';

for (const [text, rttMs, bytesPerMs] of [
  ['40ms,200mbit', 40, 25_000],
  ['1s', 1000, Infinity],
  ['1Gbit, 500us', 0.5, 125_000],
  ['0ms', 0, Infinity],
] as const)
  test(`${text} is read`, (t) => {
    t.deepEqual(parseNetwork(text), { rttMs, bytesPerMs });
    t.deepEqual(parseNetwork(formatNetwork(parseNetwork(text))), parseNetwork(text));
  });

for (const text of ['', '40', '40ms,40ms', '0mbit', '-1ms', '1mbit,2mbit', '1constructor', '1ms,', 'ms'])
  test(`${JSON.stringify(text)} is refused`, (t) => {
    const error = t.throws(() => parseNetwork(text), { instanceOf: LazylayerError });
    t.is(error.code, 'INVALID_ARGUMENT');
  });

test('any other text is refused, and nothing else happens', (t) => {
  fc.assert(
    fc.property(fc.string(), (text) => {
      try {
        parseNetwork(text);
      } catch (error) {
        return error instanceof LazylayerError;
      }
      return true;
    }),
  );
  t.pass();
});
