import { EventEmitter } from 'node:events';
import test from 'ava';
import { firstOf } from './events.js';

test('the first of several events is heard, or an error, and nobody listens any more', async (t) => {
  const emitter = new EventEmitter();
  const waits = () => firstOf(emitter, 'drain', 'close');
  for (const event of ['close', 'drain']) {
    const waiting = waits();
    emitter.emit(event);
    await waiting;
    t.deepEqual(emitter.eventNames(), []);
  }
  const failing = waits();
  emitter.emit('error', new Error('no'));
  await t.throwsAsync(failing, { message: 'no' });
  t.deepEqual(emitter.eventNames(), []);
});
