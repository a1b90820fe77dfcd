import test from 'ava';
import { inUserNamespace, outsideId } from './user-namespace.js';

const machine = '         0          0 4294967295\n';
const rootless = '         0       1000          1\n         1     100000      65536\n';

test('a user namespace is known by its map', (t) => {
  t.false(inUserNamespace(machine));
  t.true(inUserNamespace(rootless));
  t.true(inUserNamespace('0 100000 65536\n65536 1000 1\n'));
});

test('ids outside follow from the ranges', (t) => {
  t.deepEqual(
    [0, 1, 65_536, 65_537].map((id) => outsideId(rootless, id)),
    [1000, 100_000, 165_535, 65_537],
  );
  t.is(outsideId(machine, 33), 33);
});
