import test from 'ava';
import { describeMachine, formatMachine, quoteCommand } from './report.js';

test('a machine is told with how its processors wait, where that is known', (t) => {
  const { haltPollNs: _, ...machine } = describeMachine();
  t.notRegex(formatMachine(machine), /polling/);
  t.regex(formatMachine({ ...machine, haltPollNs: 0 }), /, guest halt polling off, Linux/);
  t.regex(formatMachine({ ...machine, haltPollNs: 200_000 }), /, guest halt polling up to 200 µs, Linux/);
});

test('a command is written as a shell would read it', (t) => {
  t.is(quoteCommand(['/usr/bin/env', 'A_b=1.0:@%+,-', 'x']), '/usr/bin/env A_b=1.0:@%+,- x');
  t.is(quoteCommand(['sh', '-c', 'echo "it\'s" $HOME']), `sh -c 'echo "it'\\''s" $HOME'`);
  t.is(quoteCommand(['', 'é', 'a\n', '~']), "'' 'é' 'a\n' '~'");
  t.is(quoteCommand([]), '');
});
