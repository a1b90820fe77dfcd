import { createServer } from 'node:net';
import type { AddressInfo } from 'node:net';
import test from 'ava';
import { checkUnready, Workload } from './workload.js';

const never = new AbortController().signal;
const start = (script: string) => new Workload('sh', ['-c', script]);

test('ready by its end is later than by its output; what it writes to either stream is output', async (t) => {
  for (const stream of ['1', '2']) {
    const [byOutput, byExit] = [start(`echo a >&${stream}; sleep 0.4`), start(`echo a >&${stream}; sleep 0.4`)];
    const begun = Date.now();
    const [output, exit] = await Promise.all([
      byOutput.ready({ kind: 'output' }, never),
      byExit.ready({ kind: 'exit' }, never),
    ]);
    t.true(output - begun < 350, `${output - begun}`);
    t.true(exit - begun >= 390, `${exit - begun}`);
  }
  const silent = start('sleep 0.1');
  t.true((await silent.ready({ kind: 'output' }, never)) > 0);
});

test('a line is found among many, in pieces, on either stream, and by the time when it came', async (t) => {
  const warned: Error[] = [];
  const hear = (warning: Error) => warned.push(warning);
  process.on('warning', hear);
  const many = 'for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do echo $i; sleep 0.01; done';
  for (const last of ['printf "b\\303"; sleep 0.05; printf "\\244r\\n"', 'printf "bär" >&2']) {
    const workload = start(`${many}; ${last}; exec sleep 5`);
    const at = await workload.ready({ kind: 'line', pattern: /^bär$/ }, never);
    t.true(Math.abs(Date.now() - at) < 1000);
    await workload.end('SIGKILL');
  }
  process.off('warning', hear);
  t.deepEqual(warned, []);
});

test('who ends without the line, fails, or is told to stop, is no ready one', async (t) => {
  const line = { kind: 'line', pattern: /never/ } as const;
  await t.throwsAsync(start('echo other').ready(line, never), { code: 'INTERNAL', message: /ended with 0: other/ });
  await t.throwsAsync(start('echo why >&2; exit 3').ready({ kind: 'exit' }, never), { message: /ended with 3: why/ });
  const stop = new AbortController();
  const waiting = start('exec sleep 5');
  const ready = t.throwsAsync(waiting.ready(line, stop.signal), { message: 'enough' });
  stop.abort(new Error('enough'));
  await ready;
  await waiting.end('SIGKILL');
});

test('a port that answers before the workload runs is refused, since it would pass for it', async (t) => {
  const server = createServer().listen(0, '127.0.0.1');
  await new Promise((resolve) => server.once('listening', resolve));
  const { port } = server.address() as AddressInfo;
  await t.throwsAsync(checkUnready({ kind: 'port', port }), { code: 'FAILED_PRECONDITION', message: /^port \d+: / });
  await new Promise((resolve) => server.close(resolve));
  await t.notThrowsAsync(checkUnready({ kind: 'port', port }));
  await t.notThrowsAsync(checkUnready({ kind: 'exit' }));
});
