import test from 'ava';
import fc from 'fast-check';
import { redactText, redactUrl } from './redact.js';

test('a URL is shown without user, password, query values and fragment', (t) => {
  t.is(
    redactUrl('https://joe:secret@host:1/v2/a?X-Amz-Signature=abc&ns=docker.io#x'),
    'https://host:1/v2/a?X-Amz-Signature=redacted&ns=docker.io',
  );
  t.is(redactUrl('::'), '(not a URL)');
});

test('no query value and no password survives, whatever they are', (t) => {
  const secret = fc.stringMatching(/^S3CR[a-z0-9%+ =&?#/]{4,20}$/);
  fc.assert(
    fc.property(secret, secret, (one, two) => {
      const url = new URL('https://host/path');
      url.password = one;
      url.username = two;
      url.searchParams.set('sig', one);
      url.hash = two;
      t.false(redactUrl(url).includes('S3CR'));
      t.false(redactText(`see ${url.href} or Bearer ${one.replaceAll(' ', '')}`).includes('S3CR'));
    }),
  );
});

test('what servers write loses URLs, tokens and JWTs', (t) => {
  t.is(
    redactText('go to https://a:b@host/x?token=1, Authorization: Bearer abc.def, eyJhbGciOi.eyJzdWIi.sig'),
    'go to https://host/x?token=redacted Authorization: Bearer redacted, redacted',
  );
});
