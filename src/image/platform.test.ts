import test from 'ava';
import fc from 'fast-check';
import { LazylayerError } from '../errors.js';
import { formatPlatform, hostPlatform, matchPlatform, parsePlatform } from './platform.js';

for (const [text, full] of [
  ['linux/arm64/v8', 'linux/arm64'],
  ['linux/aarch64', 'linux/arm64'],
  ['linux/arm', 'linux/arm/v7'],
  ['linux/armel', 'linux/arm/v6'],
  ['linux/arm/6', 'linux/arm/v6'],
  ['Linux/x86_64', 'linux/amd64'],
  ['linux/amd64/v1', 'linux/amd64'],
  ['linux/amd64/v3', 'linux/amd64/v3'],
  ['linux/riscv64', 'linux/riscv64'],
  ['amd64', 'linux/amd64'],
] as const)
  test(`${text} is ${full}`, (t) => t.is(formatPlatform(parsePlatform(text)), full));

for (const text of ['', 'linux/', 'a/b/c/d', 'linux/arm 64'])
  test(`refuses ${JSON.stringify(text)}`, (t) => {
    t.throws(() => parsePlatform(text), { code: 'INVALID_ARGUMENT', message: /expected OS\/ARCHITECTURE/ });
  });

function match(offered: string[], wanted: string): string | undefined {
  const descriptors = offered.map((text) => {
    const [os, architecture, variant] = text.split('/');
    return { text, platform: { os, architecture, variant } };
  });
  return matchPlatform(descriptors, parsePlatform(wanted))?.text;
}

test('variants: the best that runs there, never one that needs a newer processor', (t) => {
  t.is(match(['linux/arm/v6', 'linux/arm/v7', 'linux/arm/v5'], 'linux/arm/v7'), 'linux/arm/v7');
  t.is(match(['linux/arm/v5', 'linux/arm/v6'], 'linux/arm/v7'), 'linux/arm/v6');
  t.is(match(['linux/arm/v7'], 'linux/arm/v6'), undefined);
  t.is(match(['linux/arm64/v8'], 'linux/arm64'), 'linux/arm64/v8');
  t.is(match(['linux/arm64'], 'linux/arm64/v8'), 'linux/arm64');
  t.is(match(['linux/arm/v7', 'linux/arm64/v8'], 'linux/arm64'), 'linux/arm64/v8');
  t.is(match(['linux/arm/v7'], 'linux/arm64'), 'linux/arm/v7');
  t.is(match(['linux/amd64', 'linux/amd64/v2'], 'linux/amd64/v3'), 'linux/amd64/v2');
  t.is(match(['linux/amd64/v2'], 'linux/amd64'), undefined);
  t.is(match(['linux/386'], 'linux/amd64'), 'linux/386');
  t.is(match(['windows/amd64', 'unknown/unknown'], 'linux/amd64'), undefined);
  t.is(match(['linux/arm/v7'], 'linux/arm/v999999999'), undefined);
  t.is(matchPlatform([{}], hostPlatform()), undefined);
  t.is(hostPlatform().os, 'linux');
});

test('any text is a platform or is refused in words', (t) => {
  fc.assert(
    fc.property(fc.oneof(fc.string(), fc.stringMatching(/^[a-z0-9]{0,5}(\/[a-z0-9]{0,5}){0,3}$/)), (text) => {
      try {
        const platform = parsePlatform(text);
        t.deepEqual(parsePlatform(formatPlatform(platform)), platform);
        t.truthy(matchPlatform([{ platform }], platform));
      } catch (error) {
        t.true(error instanceof LazylayerError);
      }
    }),
  );
});
