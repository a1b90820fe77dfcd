import { PassThrough } from 'node:stream';
import test from 'ava';
import { Interrupts } from './interrupts.js';
import { createProgram, runProgram } from './program.js';
import { Terminal } from './terminal.js';

/** A command line in this process, for what touches neither network nor disk. */
async function run(args: readonly string[]) {
  const streams = { out: new PassThrough(), err: new PassThrough() };
  const terminal = new Terminal(
    streams.out as unknown as NodeJS.WriteStream,
    streams.err as unknown as NodeJS.WriteStream,
  );
  using interrupts = new Interrupts();
  const cli = { terminal, interrupts };
  const status = await runProgram(await createProgram(cli, args), args, cli);
  const read = (stream: PassThrough) => (stream.read() as Buffer | null)?.toString() ?? '';
  return { status, out: read(streams.out), err: read(streams.err) };
}

const verbs = [
  'mount',
  'umount',
  'ps',
  'serve',
  'pull',
  'store',
  'store-credential',
  'ls',
  'cat',
  'inspect',
  'explain',
  'trace',
];
const pairs = [
  ['bench', 'start'],
  ['bench', 'fs'],
  ['cache', 'du'],
  ['cache', 'prune'],
  ['config', 'default'],
  ['config', 'check'],
  ['config', 'containerd'],
  ['config', 'podman'],
];

for (const words of [...verbs.map((verb) => [verb]), ...pairs])
  test.serial(`${words.join(' ')} --help tells usage, examples, and the flags of every verb`, async (t) => {
    const { status, out, err } = await run([...words, '--help']);
    t.deepEqual({ status, err }, { status: 0, err: '' });
    t.true(out.startsWith(`Usage: lazylayer ${words.join(' ')}`), out);
    t.regex(out, /^Examples:\n {2}lazylayer /m);
    t.regex(out, /--root <dir>/);
    if (!['mount', 'umount', 'serve', 'store', 'store-credential', 'cat'].includes(words[0])) t.regex(out, /--json/);
    for (const line of out.split('\n')) t.true(line.length <= 120, line);
  });

test.serial('a time is shown in help as it could be given', async (t) => {
  t.regex((await run(['trace', '--help'])).out, /--stall <time> .*\(default: 20ms\)/);
});

test.serial('the help of the whole names every verb', async (t) => {
  const { out } = await run(['--help']);
  for (const verb of [...verbs, 'bench', 'cache', 'config']) t.regex(out, new RegExp(`^  ${verb} `, 'm'));
});

for (const [what, args, message] of [
  ['no verb', [], /^Usage: lazylayer/],
  ['an unknown flag', ['ls', '--jsno', 'x'], /^lazylayer: unknown option '--jsno'\n\(Did you mean --json\?\)/],
  ['a missing argument', ['cat', 'x'], /^lazylayer: missing required argument 'path'/],
  ['too many arguments', ['ps', 'x'], /^lazylayer: too many arguments/],
  ['a bad platform', ['ls', '--platform', 'a/b/c/d', 'x'], /^lazylayer: platform: expected OS\/ARCHITECTURE/],
  ['a bad level', ['ps', '--config', '/dev/null', '--log-level', 'loud'], /^lazylayer: --log-level: expected one of/],
  [
    'a bad backend',
    ['mount', '--config', '/dev/null', '--backend', 'fuse', 'x', '/y'],
    /^lazylayer: --backend: expected one of/,
  ],
  ['a bad network', ['bench', 'start', '--network', '40', 'x'], /^lazylayer: network: expected RTT,RATE/],
  ['a bad snapshotter', ['bench', 'start', '--snapshotter', 'x', 'y'], /argument 'x' is invalid. Expected NAME=SOCKET/],
  ['two kinds of ready', ['bench', 'start', '--ready-line', 'a', '--ready-port', '1', 'x'], /expected one of them/],
  ['no command for a bare mount', ['bench', 'start', '--engine', 'mount', 'x'], /needs a command/],
  ['no command for a bare mount to trace', ['trace', 'x'], /needs a command/],
  ['a time without a unit', ['trace', '--stall', '20', 'x', 'y'], /Expected a time such as 20ms/],
  ['no runs', ['bench', 'fs', '--runs', '0', '/'], /Expected a whole number from 1/],
  [
    'a bad size',
    ['cache', 'prune', '--keep', 'x'],
    /^lazylayer: option '--keep <size>' argument 'x' is invalid. Expected a number/,
  ],
  ['a bad choice', ['inspect', '--raw', 'index', 'x'], /^lazylayer: option '--raw <what>' argument 'index' is invalid/],
] as const)
  test.serial(`${what} is wrong usage: status 2, nothing on stdout`, async (t) => {
    const { status, out, err } = await run(args);
    t.deepEqual({ status, out }, { status: 2, out: '' }, err);
    t.regex(err, message);
  });
