import test from 'ava';
import { Teardown } from './teardown.js';

test('what is to be done at the end is done last in, first out, whatever fails; failures are told together', async (t) => {
  const done: number[] = [];
  const teardown = new Teardown();
  teardown.teardown(() => void done.push(1));
  teardown.teardown(() => {
    throw new Error('second');
  });
  const resource = teardown.use({ [Symbol.asyncDispose]: async () => void done.push(3) });
  t.truthy(resource);
  teardown.teardown(async () => Promise.reject(new Error('fourth')));
  const error = await t.throwsAsync(async () => teardown[Symbol.asyncDispose](), { instanceOf: AggregateError });
  t.deepEqual(done, [3, 1]);
  t.is(error.message, 'cleanup failed: Error: fourth; Error: second');
  await teardown[Symbol.asyncDispose]();
  t.deepEqual(done, [3, 1], 'once');
});
