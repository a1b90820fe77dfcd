import test from 'ava';
import { FetchScheduler } from './scheduler.js';

test('what gave way to readers that never pause leaves nothing behind', async (t) => {
  await using scheduler = new FetchScheduler();
  const demandEnds = scheduler.demandStarts();
  await Promise.all(Array.from({ length: 50 }, () => scheduler.politely()));
  const { clearTimeout } = globalThis;
  let kept = 0;
  globalThis.clearTimeout = (timer) => {
    kept++;
    clearTimeout(timer);
  };
  try {
    demandEnds();
  } finally {
    globalThis.clearTimeout = clearTimeout;
  }
  t.is(kept, 0);
});
