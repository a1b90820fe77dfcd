import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { isLocked, lockRoot } from './lock.js';

test('a root has one owner; the error names it; a child that has the descriptor keeps it', async (t) => {
  const root = mkdtempSync(join(tmpdir(), 'lazylayer-lock-'));
  t.teardown(() => rmSync(root, { recursive: true }));
  t.false(isLocked(root));
  const lock = lockRoot(root);
  t.true(isLocked(root));
  t.throws(() => lockRoot(root), {
    message: new RegExp(`in use by another lazylayer process \\(pid ${process.pid}\\)`),
  });
  const child = spawn('cat', { stdio: ['pipe', 'ignore', 'ignore', lock.fd] });
  lock.release();
  lock.release();
  t.throws(() => lockRoot(root), { code: 'BUSY' });
  child.stdin!.end();
  await once(child, 'close');
  t.false(isLocked(root));
  lockRoot(root).release();
});

test('a lock file that cannot be written is named', (t) => {
  const root = mkdtempSync(join(tmpdir(), 'lazylayer-lock-'));
  t.teardown(() => rmSync(root, { recursive: true }));
  symlinkSync('/dev/full', join(root, 'lock'));
  t.throws(() => lockRoot(root), { message: `${root}/lock cannot be written` });
});
