import test from 'ava';
import { describeMachine, formatMachine } from './report.js';

test('a machine is told with how its processors wait, where that is known', (t) => {
  const { haltPollNs: _, ...machine } = describeMachine();
  t.notRegex(formatMachine(machine), /polling/);
  t.regex(formatMachine({ ...machine, haltPollNs: 0 }), /, guest halt polling off, Linux/);
  t.regex(formatMachine({ ...machine, haltPollNs: 200_000 }), /, guest halt polling up to 200 µs, Linux/);
});
