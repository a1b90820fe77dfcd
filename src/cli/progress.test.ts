import test from 'ava';
import { ProgressView } from './progress.js';

const layer = `sha256:${'ab'.repeat(32)}`;
const other = `sha256:${'cd'.repeat(32)}`;
const reason = 'the blob is no eStargz';

function record(interactive: boolean) {
  const written: string[] = [];
  const clock = { now: 0 };
  const view = new ProgressView(
    { interactive, err: { write: (text) => written.push(text), columns: 80 } },
    () => clock.now,
  );
  return { view, written, clock };
}

test('without a terminal: a line when a download begins, one when it ends, and no control characters', (t) => {
  const { view, written } = record(false);
  for (let bytes = 0; bytes <= 1000; bytes += 100) view.update({ layer, reason, bytes, total: 1000 });
  view.update({ layer, reason, bytes: 1000, total: 1000 });
  view[Symbol.dispose]();
  t.deepEqual(written, [
    'layer sha256:abababababab is downloaded whole (1000 B) before it can be read: the blob is no eStargz\n',
    'layer sha256:abababababab is here\n',
  ]);
});

test('on a terminal: a bar for each download, drawn over, not more often than ten times a second, and taken away', (t) => {
  const { view, written, clock } = record(true);
  view.update({ layer, reason, bytes: 0, total: 1000 });
  view.update({ layer: other, reason, bytes: 0, total: 10 });
  const before = written.length;
  view.update({ layer, reason, bytes: 400, total: 1000 });
  t.is(written.length, before, 'too early for another drawing');
  clock.now += 100;
  view.update({ layer, reason, bytes: 500, total: 1000 });
  t.deepEqual(written.slice(before), [
    '\x1b[2A\x1b[J',
    'sha256:abababababab [############............]  50% 500 B\nsha256:cdcdcdcdcdcd [........................]   0% 0 B\n',
  ]);
  view.update({ layer: other, reason, bytes: 10, total: 10 });
  t.regex(written.at(-1)!, /cdcdcdcdcdcd \[#{24}\] 100% 10 B\n$/);
  view[Symbol.dispose]();
  t.is(written.at(-1), '\x1b[2A\x1b[J');
});
