import test from 'ava';
import { overlayOptions } from './overlay.js';

const mount = { base: '/b', lower: ['l/2', 'l/1'], empty: '/empty', target: '/t' };

test('options for one layer, several, and a writable one', (t) => {
  t.is(overlayOptions(mount), 'ro,lowerdir=l/2:l/1');
  t.is(overlayOptions({ ...mount, lower: ['l/1'] }), 'ro,lowerdir=l/1:/empty');
  t.is(overlayOptions({ ...mount, lower: [] }), 'ro,lowerdir=/empty');
  t.is(
    overlayOptions({ ...mount, lower: ['l/1'], writable: { upper: '/u', work: '/w' } }),
    'upperdir=/u,workdir=/w,lowerdir=l/1',
  );
});

test('128 layers fit into the page of options that the kernel takes, and what does not fit is refused', (t) => {
  const lower = (n: number) => Array.from({ length: n }, (_, i) => `l/${100_000 + i}`);
  const writable = { upper: `/${'u'.repeat(200)}`, work: `/${'w'.repeat(200)}` };
  t.true(Buffer.byteLength(overlayOptions({ ...mount, lower: lower(128), writable })) < 4096);
  const bytes = (n: number) => overlayOptions({ ...mount, lower: ['l'.repeat(n - 'ro,lowerdir=:/empty'.length)] });
  t.is(bytes(4095).length, 4095);
  t.throws(() => bytes(4096));
  t.throws(() => overlayOptions({ ...mount, lower: lower(1000) }), {
    message: /1000 layers: expected at most 4095 bytes/,
  });
});

test('a path that the options cannot carry is refused', (t) => {
  for (const path of ['/a,b', '/a:b', '/a\\b'])
    t.throws(() => overlayOptions({ ...mount, writable: { upper: path, work: '/w' } }), {
      message: /without ',', ':' and/,
    });
});
