import test from 'ava';
import fc from 'fast-check';
import { commandsOf, configured, DEFAULT_PATH } from './arguments.js';

const programs = (...lists: string[][]) => commandsOf(...lists).map(({ program }) => program);

test('arguments are one command; a text with blanks holds more, without what belongs to the shell', (t) => {
  t.deepEqual(commandsOf(['python3', '/srv/app/main.py']), [
    { program: 'python3', words: ['python3', '/srv/app/main.py'] },
  ]);
  t.deepEqual(commandsOf(['sh', '-c', 'gcc -O2 -o /tmp/hello "/srv/app/hello.c" 2>/dev/null && /tmp/hello']), [
    { program: 'sh', words: ['sh', '-c'] },
    { program: 'gcc', words: ['gcc', '-O2', '-o', '/tmp/hello', '/srv/app/hello.c', '2', '/dev/null'] },
    { program: '/tmp/hello', words: ['/tmp/hello'] },
  ]);
  t.deepEqual(programs(['bash', '-lc', 'cd /app; (A=1 exec ./run x|tee log)&\nwhile true; do `which y`; done']), [
    'bash',
    'cd',
    'exec',
    './run',
    'tee',
    'while',
    'true',
    'do',
    'which',
    'done',
  ]);
  t.deepEqual(commandsOf(['', '  ', ' ;; "" ']), []);
});

test('what starts another program leads on to it', (t) => {
  t.deepEqual(programs(['env', '-i', 'A=b', 'python3', 'x.py']), ['env', 'python3']);
  t.deepEqual(programs(['/usr/bin/tini', '-g', '--', '/app/run', 'env']), ['/usr/bin/tini', undefined, '/app/run']);
  t.deepEqual(programs(['npm', 'exec', 'tool']), ['npm']);
});

test('of a config, entrypoint and command are found by its path and directory; without these by what is usual', (t) => {
  t.deepEqual(configured({ Entrypoint: ['a'], Cmd: ['-m', 'b'], Env: ['X=1', 'PATH=/p:/q'], WorkingDir: '/w' }), {
    commands: [
      { program: 'a', words: ['a'] },
      { program: 'b', words: ['-m', 'b'] },
    ],
    path: ['/p', '/q'],
    directory: '/w',
  });
  t.deepEqual(configured({}), { commands: [], path: DEFAULT_PATH, directory: '/' });
});

test('of very many words and commands the first are taken', (t) => {
  const words = (list: string[]) => commandsOf(list).flatMap((command) => command.words).length;
  t.is(words(Array<string>(1000).fill('a')), 256);
  t.is(words(Array<string>(3).fill('a '.repeat(200))), 256);
  t.is(commandsOf([' a;'.repeat(1000)]).length, 32);
});

test('any arguments give words that are in them, few, and soon', (t) => {
  const argument = fc.oneof(
    fc.string({ maxLength: 4096 }),
    fc
      .array(fc.constantFrom('a', ' ', ';', '&', '"', '\\', '\n', '<', '(', 'exec ', 'X=', '-', '--'), {
        maxLength: 4096,
      })
      .map((parts) => parts.join('')),
  );
  fc.assert(
    fc.property(fc.array(argument, { maxLength: 40 }), (list) => {
      const commands = commandsOf(list);
      const words = commands.flatMap((command) => command.words);
      t.true(commands.length <= 32 && words.length <= 256);
      const plain = list.map((one) => one.replace(/["'\\]/g, ''));
      for (const word of words) t.true(list.includes(word) || plain.some((one) => one.includes(word)));
      for (const { program, words } of commands) t.true(program === undefined || words.includes(program));
    }),
  );
  for (const piece of ['a ', '; ', '" ', '\\', ' ', '<', 'exec ', 'X= ', '-- ', 'a;', '\n']) {
    const start = performance.now();
    for (let i = 0; i < 100; i++) commandsOf([piece.repeat(4096 / piece.length) + ' ']);
    t.true(performance.now() - start < 500, piece);
  }
});
