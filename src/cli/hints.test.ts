import test from 'ava';
import { hintFor } from './hints.js';

const denied = (message: string) =>
  Object.assign(new Error(`EACCES: permission denied, ${message}`), { code: 'EACCES' });

test('a root that may not be written is told from a file that may not be read', (t) => {
  t.regex(hintFor(denied("mkdir '/nonexistent/.local/share/lazylayer'")) ?? '', /--root DIR/);
  t.regex(hintFor(denied("open '/var/lib/lazylayer/lock'")) ?? '', /--root DIR/);
  t.is(hintFor(denied("open '/root/.docker/config.json'")), undefined);
});
