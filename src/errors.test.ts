import { constants } from 'node:os';
import test from 'ava';
import {
  describeError,
  errnoOf,
  exitStatusOf,
  FormatError,
  grpcStatusOf,
  LazylayerError,
  VerificationError,
} from './errors.js';

test('the one table: errno, gRPC status and exit status of our errors and of the system’s', (t) => {
  t.is(errnoOf(new LazylayerError('NOT_FOUND', 'x')), constants.errno.ENOENT);
  t.is(errnoOf(new VerificationError('chunk', 'a', 'b')), constants.errno.EIO);
  t.is(errnoOf(Object.assign(new Error('full'), { code: 'ENOSPC' })), constants.errno.ENOSPC);
  t.is(errnoOf('thrown string'), constants.errno.EIO);
  t.is(grpcStatusOf(new LazylayerError('UNAVAILABLE', 'x')), 14);
  t.is(grpcStatusOf(new DOMException('stop', 'AbortError')), 1);
  t.is(exitStatusOf(new LazylayerError('INVALID_ARGUMENT', 'x')), 2);
});

test('messages say where, what was expected and what was found; causes are told once', (t) => {
  t.is(
    new FormatError('footer', { offset: 12, expected: '"SG"', found: '"XX"' }).message,
    'footer at offset 12: expected "SG", found "XX"',
  );
  const inner = new Error('connect ECONNREFUSED');
  const outer = new LazylayerError('UNAVAILABLE', 'registry is down', { cause: inner });
  t.is(describeError(outer), 'registry is down: connect ECONNREFUSED');
  t.is(describeError(new Error('same', { cause: new Error('same') })), 'same');
});
