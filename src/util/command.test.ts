import { openSync, closeSync } from 'node:fs';
import test from 'ava';
import { CommandError, runCommand } from './command.js';

test('gives the output, passes descriptors on, and runs where it is told', async (t) => {
  const fd = openSync('/proc/self/status', 'r');
  t.teardown(() => closeSync(fd));
  t.is(
    await runCommand('sh', ['-c', 'pwd; test -e /proc/self/fd/3 && echo three'], { cwd: '/proc', descriptors: [fd] }),
    '/proc\nthree\n',
  );
});

test('a failure says which program, its status and its words', async (t) => {
  const error = await t.throwsAsync(runCommand('sh', ['-c', 'echo broken >&2; exit 3']), { instanceOf: CommandError });
  t.is(error.message, 'sh ended with 3: broken');
  t.is(error.status, 3);
});

test('a missing program is named', async (t) => {
  await t.throwsAsync(runCommand('lazylayer-no-such-program', []), {
    message: /the program lazylayer-no-such-program is needed and is not installed/,
  });
});

test('an abort ends the program', async (t) => {
  const controller = new AbortController();
  const running = runCommand('sleep', ['60'], { signal: controller.signal });
  controller.abort();
  await t.throwsAsync(running, { name: 'AbortError' });
});
