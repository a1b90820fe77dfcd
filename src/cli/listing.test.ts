import { execFileSync } from 'node:child_process';
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import fc from 'fast-check';
import { modeText, shownName } from './listing.js';

test('modes look as ls has them', (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'lazylayer-mode-'));
  t.teardown(() => rmSync(dir, { recursive: true }));
  const file = join(dir, 'file');
  writeFileSync(file, '');
  fc.assert(
    fc.property(fc.nat(0o7777), (mode) => {
      chmodSync(file, mode);
      const [wanted] = execFileSync('ls', ['-l', file], { encoding: 'utf8' }).split(' ');
      t.is(modeText(0o100000 | mode), wanted.slice(0, 10));
    }),
    { numRuns: 40 },
  );
  t.is(modeText(0o041777), 'drwxrwxrwt');
  t.is(modeText(0o120777), 'lrwxrwxrwx');
  t.is(modeText(0o020620), 'crw--w----');
  t.is(modeText(0o060660), 'brw-rw----');
  t.is(modeText(0o010644), 'prw-r--r--');
});

test('a terminal gets no control characters, anything else gets the bytes', (t) => {
  const name = Buffer.from('a\x1b[2Jb\n\xff', 'latin1');
  t.deepEqual(shownName(name, true), Buffer.from('a?[2Jb?\xff', 'latin1'));
  t.is(shownName(name, false), name);
});
