import test from 'ava';
import fc from 'fast-check';
import { FormatError, VerificationError } from '../errors.js';
import { digestFromBytes, hexOf, parseDigest } from './digest.js';
import { createDigester, createPureDigester, digestInTurns, digestOf } from './digester.js';
import { verifiedStream, verifyBytes } from './verify.js';

test('both digesters and the one-shot agree on any bytes in any pieces', (t) => {
  fc.assert(
    fc.property(fc.array(fc.uint8Array({ maxLength: 200 }), { maxLength: 8 }), (pieces) => {
      const a = createDigester();
      const b = createPureDigester();
      for (const p of pieces) {
        a.update(p);
        b.update(p);
      }
      const whole = digestOf(Buffer.concat(pieces));
      t.is(a.digest(), whole);
      t.is(b.digest(), whole);
    }),
  );
});

test('many bytes are hashed in turns with other work, few at once', async (t) => {
  for (const [bytes, least] of [
    [1000, 0],
    [4 * 1024 * 1024, 0],
    [21 * 1024 * 1024, 5],
  ]) {
    const data = Buffer.alloc(bytes, 'abc');
    let turns = 0;
    let waiting = setImmediate(function again() {
      turns++;
      waiting = setImmediate(again);
    });
    t.is(await digestInTurns(data), digestOf(data));
    clearImmediate(waiting);
    t.is(turns, least);
  }
});

test('a digest survives its raw bytes', (t) => {
  const d = digestOf('x');
  t.is(digestFromBytes(Buffer.from(hexOf(d), 'hex')), d);
});

for (const bad of ['', 'sha256:', 'sha512:' + 'a'.repeat(128), 'sha256:' + 'A'.repeat(64), 'sha256:' + 'a'.repeat(63)])
  test(`refuses ${JSON.stringify(bad.slice(0, 20))} as a digest`, (t) => {
    const error = t.throws(() => parseDigest(bad, 'layer'), { instanceOf: FormatError });
    t.regex(error.message, /^layer: expected sha256: and 64 lower-case hex digits, found "/);
  });

test('verifyBytes names what differs', (t) => {
  t.notThrows(() => verifyBytes(Buffer.from('a'), digestOf('a'), 'config'));
  t.throws(() => verifyBytes(Buffer.from('b'), digestOf('a'), 'config'), {
    instanceOf: VerificationError,
    message: `config: expected ${digestOf('a')}, found ${digestOf('b')}`,
  });
});

async function drain(source: AsyncIterable<Uint8Array>) {
  for await (const _ of source);
}
async function* pieces(...texts: string[]) {
  for (const text of texts) yield Buffer.from(text);
}

test('verifiedStream accepts the right bytes and refuses others, short ones and long ones', async (t) => {
  const digest = digestOf('abc');
  await t.notThrowsAsync(drain(verifiedStream(pieces('a', 'bc'), { digest, size: 3 }, 'blob')));
  await t.throwsAsync(drain(verifiedStream(pieces('a', 'bd'), { digest, size: 3 }, 'blob')), {
    message: /found sha256/,
  });
  await t.throwsAsync(drain(verifiedStream(pieces('a'), { digest, size: 3 }, 'blob')), {
    message: 'blob: expected 3 bytes, found 1 bytes',
  });
  await t.throwsAsync(drain(verifiedStream(pieces('a', 'bcd', 'e'), { digest, size: 3 }, 'blob')), {
    message: 'blob: expected 3 bytes, found at least 4 bytes',
  });
});
