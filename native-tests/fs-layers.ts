import { FIXTURE_CHUNK, type FixtureEntry } from '../src/testing/fs-fixture.js';

/** The layers that the filesystem suite is served from: slot 1, and slot 2 above it. The server and the tests both know them. */

export const REFERENCE = 'registry.test/image:1';
export const longName = 'n'.repeat(255);
/** 255 bytes in UTF-8, as latin1 text. */
export const longUtf8Name = Buffer.from('é'.repeat(127) + 'x').toString('latin1');
/** No UTF-8 at all. */
export const rawName = '\xff\xfe\x80name';
export const manyNames = Array.from({ length: 5000 }, (_, i) => `entry-${String(i).padStart(5, '0')}`);
export const bigXattr = 'v'.repeat(3000);
export const longTarget = `/${'t/'.repeat(2000)}end`;
/** Chunks 1 and 2 of `half` are in the cache from the start. */
export const halfSize = 4 * FIXTURE_CHUNK + 100;
export const odd = 3 * FIXTURE_CHUNK + 1234;

/** Files whose bytes are in no cache: tests stall and fail their reads one by one. */
const lazy = [
  'lazy/a',
  'lazy/b',
  'lazy/c',
  'lazy/d',
  'lazy/e',
  'lazy/f',
  'lazy/g',
  'lazy/h',
  'lazy/i',
  'lazy/j',
  'lazy/k',
];

export const lower: readonly FixtureEntry[] = [
  { name: '.', type: 'dir', mode: 0o755, mtime: 1_600_000_000 },
  { name: 'hello', size: 12, cached: true, uid: 1000, gid: 2000, mode: 0o640 },
  { name: 'empty' },
  { name: 'odd', size: odd },
  { name: 'odd-cached', size: odd, cached: true },
  { name: 'half', size: halfSize },
  { name: 'big', size: 8 * 2 ** 20, cached: true },
  { name: 'big-lazy', size: 8 * 2 ** 20 },
  { name: 'hard', size: 5000, cached: true, mtime: 1 },
  { name: 'hard-two', type: 'hardlink', link: 'hard' },
  { name: 'dir/hard-three', type: 'hardlink', link: 'hard' },
  { name: 'link', type: 'symlink', link: 'hello', mode: 0o777 },
  { name: 'dangling', type: 'symlink', link: '/no/where', mode: 0o777 },
  { name: 'long-link', type: 'symlink', link: longTarget, mode: 0o777 },
  {
    name: 'xattrs',
    xattrs: { 'user.small': 'value', 'user.none': '', 'user.big': bigXattr, 'trusted.only': '\x00\x01' },
  },
  { name: 'dev', type: 'dir' },
  { name: 'dev/null', type: 'char', major: 1, minor: 3, mode: 0o666 },
  { name: 'dev/block', type: 'block', major: 8, minor: 17, mode: 0o660 },
  { name: 'dev/large', type: 'char', major: 4095, minor: 1_000_000 },
  { name: 'dev/fifo', type: 'fifo', mode: 0o600 },
  { name: 'setuid', mode: 0o4755, size: 10, cached: true },
  { name: 'setgid', mode: 0o2755, size: 10, cached: true },
  { name: 'sticky', type: 'dir', mode: 0o1777 },
  { name: 'ids', uid: 2 ** 32 - 2, gid: 2 ** 32 - 2 },
  { name: 'time', mtime: 1_234_567_890, mtimeNsec: 123_456_789 },
  { name: 'ancient', mtime: -86_400, mtimeNsec: 5 },
  { name: longName, size: 10, cached: true },
  { name: longUtf8Name, size: 10, cached: true },
  { name: rawName, size: 10, cached: true },
  { name: 'removed', size: 10, cached: true },
  { name: 'replaced/below', size: 10, cached: true },
  { name: 'merged/below', size: 10, cached: true },
  ...lazy.map((name) => ({ name, size: 100_000 })),
  ...manyNames.map((name, i) => ({ name: `many/${name}`, size: i % 100, cached: true })),
];

export const upper: readonly FixtureEntry[] = [
  { name: '.wh.removed' },
  { name: 'replaced', type: 'dir' },
  { name: 'replaced/.wh..wh..opq' },
  { name: 'replaced/above', size: 20, cached: true },
  { name: 'merged/above', size: 20, cached: true },
  { name: 'hello', size: 30, cached: true, mode: 0o600 },
];
